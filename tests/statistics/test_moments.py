"""Moments of input patches, compared with the layer's own answers: a patch times the kernel is an output."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edge_dac.convolution import ConvAttributes, ConvLayer
from edge_dac.graph.layers import find_layers
from edge_dac.schemes.scheme import ProbedMoments
from edge_dac.statistics.execution import open_session
from edge_dac.statistics.moments import collect_judging_moments, collect_moments, sample_patches

EVERYTHING = 10**9


def _random(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _conv_model(
    attributes: ConvAttributes, weight: np.ndarray, size: tuple[int, ...], dtype: type = np.float32
) -> onnx.ModelProto:
    keywords: dict[str, object] = {"strides": attributes.strides, "dilations": attributes.dilations}
    if attributes.auto_pad == "NOTSET":
        keywords["pads"] = attributes.pads
    else:
        keywords["auto_pad"] = attributes.auto_pad
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="conv", group=attributes.groups, **keywords)
    channels = weight.shape[1] * attributes.groups
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", element, [1, channels, *size])],
        [helper.make_tensor_value_info("y", element, None)],
        [numpy_helper.from_array(weight.astype(dtype), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


CASES = {
    "plain": (ConvAttributes((1, 1), (0, 0, 0, 0), (1, 1)), (5, 3, 3, 3), (8, 9)),
    "pads": (ConvAttributes((1, 1), (1, 2, 0, 1), (1, 1)), (5, 3, 3, 3), (8, 9)),
    "strides": (ConvAttributes((2, 3), (1, 1, 1, 1), (1, 1)), (5, 3, 3, 3), (8, 9)),
    "dilations": (ConvAttributes((1, 2), (2, 1, 2, 1), (2, 3)), (5, 3, 3, 2), (9, 10)),
    "groups": (ConvAttributes((1, 1), (1, 1, 1, 1), (1, 1), 2), (6, 2, 3, 3), (6, 5)),
    "same upper": (ConvAttributes((2, 2), (0, 0, 0, 0), (1, 1), 1, "SAME_UPPER"), (5, 3, 3, 4), (8, 9)),
    "same lower": (ConvAttributes((2, 2), (0, 0, 0, 0), (1, 1), 1, "SAME_LOWER"), (5, 3, 3, 4), (8, 9)),
    "one axis": (ConvAttributes((2,), (1, 2), (2,)), (5, 3, 3), (17,)),
    "pointwise": (ConvAttributes((1, 1), (0, 0, 0, 0), (1, 1)), (5, 3, 1, 1), (4, 4)),
}


@pytest.mark.parametrize("case", CASES)
def test_patches_times_kernel_are_the_outputs(case: str) -> None:
    attributes, shape, size = CASES[case]
    weight = _random(shape)
    model = _conv_model(attributes, weight, size)
    (layer,) = find_layers(model, {"x": (1, shape[1] * attributes.groups, *size)}).layers
    x = _random((1, layer.in_channels, *size), 1)
    (y,) = open_session(model, threads=1).run(None, {"x": x})
    patches = sample_patches(layer, x, EVERYTHING, np.random.default_rng(0))
    kernels = weight.reshape(attributes.groups, -1, patches.shape[2])
    outputs = np.einsum("tgd,god->got", patches, kernels).reshape(shape[0], -1)
    np.testing.assert_allclose(outputs, y.reshape(shape[0], -1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", ["pads", "groups", "one axis"])
def test_moments_predict_the_outputs_mean_and_covariance(case: str) -> None:
    attributes, shape, size = CASES[case]
    weight = _random(shape)
    model = _conv_model(attributes, weight, size)
    shapes = {"x": (1, shape[1] * attributes.groups, *size)}
    (layer,) = find_layers(model, shapes).layers
    samples = 3.0 + _random((12, *shapes["x"][1:]), 1)
    session = open_session(model, threads=1)
    y = np.concatenate([session.run(None, {"x": sample[None]})[0] for sample in samples])
    outputs = np.moveaxis(y, 1, 0).reshape(shape[0], -1).astype(np.float64)
    ((name, moments),) = collect_moments(model, [layer], {"x": samples}, shapes, patches_per_layer=EVERYTHING)
    assert name == "conv"
    assert moments.count == outputs.shape[1]
    kernels = weight.reshape(attributes.groups, -1, moments.mean.shape[1]).astype(np.float64)
    mean = np.einsum("god,gd->go", kernels, moments.mean).ravel()
    np.testing.assert_allclose(mean, outputs.mean(axis=1), rtol=1e-3, atol=1e-3)
    variance = np.einsum("god,gde,goe->go", kernels, moments.covariance, kernels).ravel()
    np.testing.assert_allclose(variance, outputs.var(axis=1), rtol=1e-3)


def test_sampled_moments_come_near_the_complete_ones() -> None:
    attributes, shape, size = CASES["pads"]
    model = _conv_model(attributes, _random(shape), size)
    shapes = {"x": (1, 3, *size)}
    (layer,) = find_layers(model, shapes).layers
    samples = {"x": _random((40, 3, *size), 1)}
    ((_, complete),) = collect_moments(model, [layer], samples, shapes, patches_per_layer=EVERYTHING)
    ((_, sampled),) = collect_moments(model, [layer], samples, shapes, patches_per_layer=1000, seed=3)
    assert sampled.count == 1000
    difference = np.linalg.norm(sampled.covariance - complete.covariance) / np.linalg.norm(complete.covariance)
    assert difference < 0.3


def _two_layers_and_a_product() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("ReduceMean", ["c"], ["d"], axes=[2, 3], keepdims=0),
        helper.make_node("Gemm", ["d", "w3"], ["e"], name="gemm"),
        helper.make_node("MatMul", ["e", "w4"], ["y"], name="product"),
    ]
    weights = {"w1": (8, 3, 3, 3), "w2": (6, 8, 3, 3), "w3": (6, 20), "w4": (20, 4)}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2, 3, 8, 8])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(_random(shape), name) for name, shape in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def test_layers_come_in_the_order_of_the_graph_whatever_the_memory() -> None:
    model = _two_layers_and_a_product()
    shapes = {"x": (2, 3, 8, 8)}
    layers = find_layers(model, shapes).layers
    samples = {"x": _random((6, 3, 8, 8))}
    results = [
        dict(collect_moments(model, layers, samples, shapes, patches_per_layer=EVERYTHING, memory_bytes=memory))
        for memory in (1, EVERYTHING)
    ]
    assert list(results[0]) == list(results[1]) == ["first", "c", "gemm", "product"]
    for name, moments in results[0].items():
        np.testing.assert_allclose(moments.covariance, results[1][name].covariance, rtol=1e-4, atol=1e-4)
    assert results[0]["gemm"].count == 6
    assert results[0]["product"].mean.shape == (1, 20)


def test_a_layer_that_sees_infinity_is_left_out() -> None:
    model = _two_layers_and_a_product()
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full((8, 3, 3, 3), 3e38, np.float32), "w1"))
    shapes = {"x": (2, 3, 8, 8)}
    layers = find_layers(model, shapes).layers
    samples = {"x": 1.0 + np.abs(_random((4, 3, 8, 8)))}
    with np.errstate(all="ignore"):
        found = dict(collect_moments(model, layers, samples, shapes))
    assert list(found) == ["first"]


def test_half_precision_is_read() -> None:
    attributes, shape, size = CASES["pads"]
    model = _conv_model(attributes, _random(shape), size, np.float16)
    shapes = {"x": (1, 3, *size)}
    (layer,) = find_layers(model, shapes).layers
    ((_, moments),) = collect_moments(model, [layer], {"x": _random((4, 3, *size)).astype(np.float16)}, shapes)
    assert moments.covariance.dtype == np.float32


def test_pieces_go_on_from_what_was_computed_or_from_the_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[list[str]] = []

    def watched(model: onnx.ModelProto, *, threads: int) -> object:
        opened.append([node.output[0] for node in model.graph.node])
        return open_session(model, threads=threads)

    monkeypatch.setattr("edge_dac.statistics.moments.open_session", watched)
    model = _two_layers_and_a_product()
    shapes = {"x": (2, 3, 8, 8)}
    layers = find_layers(model, shapes).layers
    samples = {"x": _random((6, 3, 8, 8))}
    for memory, again in ((100_000, False), (1, True)):
        opened.clear()
        dict(collect_moments(model, layers, samples, shapes, patches_per_layer=EVERYTHING, memory_bytes=memory))
        computed = [name for piece in opened for name in piece]
        assert (len(computed) > len(set(computed))) is again


def test_judging_moments_probe_long_patches_and_keep_short_ones_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_dac.statistics.moments.PROBED_PATCH", 30)
    monkeypatch.setattr("edge_dac.statistics.moments.PROBES", 4000)
    model = _two_layers_and_a_product()
    shapes = {"x": (2, 3, 8, 8)}
    layers = find_layers(model, shapes).layers
    samples = {"x": _random((6, 3, 8, 8))}
    whole = dict(collect_moments(model, layers, samples, shapes, patches_per_layer=EVERYTHING))
    judging = dict(collect_judging_moments(model, layers, samples, shapes, patches_per_layer=EVERYTHING))
    assert [name for name, moments in judging.items() if isinstance(moments, ProbedMoments)] == ["c"]
    probed = judging["c"]
    assert isinstance(probed, ProbedMoments)
    np.testing.assert_allclose(probed.mean, whole["c"].mean, rtol=1e-4, atol=1e-5)
    estimate = probed.probes @ probed.probes.swapaxes(1, 2)
    scale = np.abs(whole["c"].covariance).max()
    np.testing.assert_allclose(estimate, whole["c"].covariance, atol=0.1 * scale)


def test_a_wide_layer_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_dac.statistics.moments.WIDEST_PATCH", 30)
    model = _two_layers_and_a_product()
    shapes = {"x": (2, 3, 8, 8)}
    layers: tuple[ConvLayer, ...] = find_layers(model, shapes).layers
    samples = {"x": _random((4, 3, 8, 8))}
    assert "c" not in dict(collect_moments(model, layers, samples, shapes))


def test_layers_in_branches_have_moments_of_the_samples_that_take_them() -> None:
    weight = _random((5, 3, 3, 3), 1)
    plain = _conv_model(ConvAttributes((1, 1), (0,) * 4, (1, 1)), weight, (9, 9))
    then_branch = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Conv", ["r", "w"], ["t"], name="conv")],
        "then",
        [],
        [onnx.ValueInfoProto(name="t")],
    )
    else_branch = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["n"]), helper.make_node("Conv", ["n", "w"], ["e"], name="other")],
        "else",
        [],
        [onnx.ValueInfoProto(name="e")],
    )
    model = onnx.ModelProto()
    model.CopyFrom(plain)
    del model.graph.node[:]
    model.graph.node.append(helper.make_node("If", ["c"], ["y"], then_branch=then_branch, else_branch=else_branch))
    model.graph.input.append(helper.make_tensor_value_info("c", onnx.TensorProto.BOOL, [1]))
    shapes = {"x": (1, 3, 9, 9), "c": (1,)}
    x = _random((8, 3, 9, 9), 2)
    inventory = find_layers(model, shapes)
    taken = np.arange(8) % 2 == 1
    for collect in (collect_moments, collect_judging_moments):
        found = dict(
            collect(
                model, inventory.layers, {"x": x, "c": taken}, shapes, inventory.sites, patches_per_layer=EVERYTHING
            )
        )
        rows = {"conv": np.maximum(x[taken], 0), "other": -x[~taken]}
        for name, samples in rows.items():
            ((_, expected),) = collect(
                plain,
                find_layers(plain, {"x": (1, 3, 9, 9)}).layers,
                {"x": samples},
                shapes,
                patches_per_layer=EVERYTHING,
            )
            assert np.allclose(found[name].mean, expected.mean, atol=1e-5)
    always = dict(collect_moments(model, inventory.layers, {"x": x, "c": np.ones(8, bool)}, shapes, inventory.sites))
    assert always.keys() == {"conv"}
