"""Which candidates are fitted, and to what."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_dac.planning.candidates import Candidate
from edge_dac.planning.fits import fit_layers
from edge_dac.planning.subject import Subject, load_subject
from edge_dac.progress import ignore_progress
from edge_dac.schemes.composition import compose

IMAGE_SHAPE = (1, 1, 24, 24)
SILENT = -1000.0
"""A bias under which a map stays zero on synthetic images."""


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    """Two matrix products, of 40 and of 24 inputs."""
    rng = np.random.default_rng(0)
    constants = {"wide": rng.standard_normal((40, 24)), "narrow": rng.standard_normal((24, 16))}
    nodes = [
        helper.make_node("MatMul", ["x", "wide"], ["a"], "wide"),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "narrow"], ["y"], "narrow"),
    ]
    graph = helper.make_graph(
        nodes,
        "products",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 40])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 16])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
    )
    path = tmp_path / "products.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return load_subject(path)


def test_a_product_too_wide_for_statistics_is_fitted_to_its_weights(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_dac.statistics.moments.WIDEST_PATCH", 30)
    ranks = {Candidate("channel", rank, "direct"): float(rank) for rank in (4, 8)}
    layers = {layer.name: layer for layer in subject.inventory.layers}
    fits = dict(fit_layers(subject, dict.fromkeys(layers, ranks), threads=1, progress=ignore_progress))
    assert set(fits) == {"wide", "narrow"}
    weight = layers["wide"].weight
    values = np.square(np.linalg.svd(weight, compute_uv=False))
    for candidate, fit in fits["wide"].items():
        assert fit.error == fit.seen_error == pytest.approx(values[candidate.rank :].sum() / values.sum(), rel=1e-4)
        lost = np.square(weight - compose(fit.factorization)).sum() / np.square(weight).sum()
        assert fit.error == pytest.approx(lost, rel=1e-4)
    assert len(fits["wide"]) == 2


def _save_half_silent_network(path: Path) -> None:
    """3x3 to 16 maps, of which 12 speak up at nothing that a synthetic image shows; Relu; 3x3 to 16 maps, "second"."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.normal(size=(16, 1, 3, 3)),
        "b1": np.where(np.arange(16) < 4, 0.0, SILENT),
        "w2": rng.normal(size=(16, 16, 3, 3)) / 12,
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Conv", ["b", "w2"], ["y"], name="second"),
    ]
    graph = helper.make_graph(
        nodes,
        "fits",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, IMAGE_SHAPE)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 16, 20, 20])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def test_what_synthetic_images_do_not_show_is_not_free(tmp_path: Path) -> None:
    _save_half_silent_network(tmp_path / "model.onnx")
    subject = load_subject(tmp_path / "model.onnx")
    few, all_but_one = Candidate("tucker", (4, 16), "direct"), Candidate("tucker", (15, 16), "direct")
    wanted = {"second": {few: 1.0, all_but_one: 2.0}}
    ((_, fits),) = fit_layers(subject, wanted, threads=1, progress=ignore_progress, keep_all=True)
    assert fits[few].seen_error < 0.01  # the four maps that are seen are kept
    assert fits[few].error > 4 * fits[few].seen_error
    assert fits[few].error > 2 * fits[all_but_one].error
