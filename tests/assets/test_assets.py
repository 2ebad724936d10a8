"""What the shipped demo network and images promise."""

from __future__ import annotations

from importlib import resources

import numpy as np
import onnx
import onnxruntime
import pytest

from edge_dac.assets import demo_images, demo_model_path


@pytest.fixture(scope="module")
def network() -> onnx.ModelProto:
    return onnx.load(demo_model_path())


def test_files_stay_small() -> None:
    assert demo_model_path().stat().st_size <= 4_000_000
    assert len((resources.files("edge_dac.assets") / "demo_images.npz").read_bytes()) <= 500_000


def test_images_are_balanced_and_in_range() -> None:
    images, labels = demo_images()
    assert images.shape == (500, 1, 28, 28)
    assert images.dtype == np.float32
    assert images.min() == 0.0
    assert images.max() == 1.0
    assert np.bincount(labels, minlength=10).tolist() == [50] * 10


def test_network_reads_at_least_98_percent() -> None:
    images, labels = demo_images()
    session = onnxruntime.InferenceSession(demo_model_path(), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": images})
    assert logits.shape == (500, 10)
    assert np.mean(logits.argmax(axis=1) == labels) >= 0.98


def test_network_is_vgg_style_with_batch_norm_nodes(network: onnx.ModelProto) -> None:
    operators = [node.op_type for node in network.graph.node]
    weights = {constant.name: constant.dims for constant in network.graph.initializer}
    kernels = [list(weights[node.input[1]][2:]) for node in network.graph.node if node.op_type == "Conv"]
    assert kernels == [[3, 3]] * 7
    assert operators.count("BatchNormalization") == operators.count("Relu") == 7
    assert "MaxPool" in operators


def test_batch_dimension_is_free(network: onnx.ModelProto) -> None:
    (image,), (logits,) = network.graph.input, network.graph.output
    assert image.type.tensor_type.shape.dim[0].dim_param == "N"
    assert logits.type.tensor_type.shape.dim[0].dim_param == "N"
