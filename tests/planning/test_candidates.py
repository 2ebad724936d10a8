"""What could stand in a layer's place, and what it is timed with."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from edge_dac.convolution import ConvAttributes, ConvLayer
from edge_dac.device.probes import open_session, session_options
from edge_dac.errors import UsageError
from edge_dac.lowerings import lowering_of
from edge_dac.planning.candidates import Candidate, enumerate_candidates, timing_factorization


def layer_of(name: str, *weight_shape: int) -> ConvLayer:
    weight = np.random.default_rng(0).standard_normal(weight_shape).astype(np.float32)
    attributes = ConvAttributes(strides=(1, 1), pads=(0, 0, 0, 0), dilations=(1, 1), groups=1)
    return ConvLayer(name, weight, None, attributes, (8, 400))


def test_a_bank_of_long_filters_is_offered_each_chain_once() -> None:
    schemes = {c.scheme for c in enumerate_candidates(layer_of("spectrum", 96, 1, 1, 256), ("dac", "channel"))}
    assert schemes == {"dense", "channel"}
    schemes = {c.scheme for c in enumerate_candidates(layer_of("stem", 96, 1, 3, 3), ("dac", "channel"))}
    assert schemes == {"dense", "dac", "channel"}


def test_integers_of_any_two_shapes_can_be_timed_together() -> None:
    nodes, initializers, inputs, outputs = [], [], [], []
    for layer in (layer_of("filter", 1, 1, 1, 256), layer_of("row", 1, 2, 1, 5)):
        factors = timing_factorization(Candidate("int8", 8, "int8"), layer)
        lowered = lowering_of("int8").lower(layer, factors, f"{layer.name}/in", f"{layer.name}/out")
        nodes += lowered.nodes
        initializers += lowered.initializers
        shape = [1, layer.in_channels, 8, 400]
        inputs.append(helper.make_tensor_value_info(f"{layer.name}/in", TensorProto.FLOAT, shape))
        outputs.append(helper.make_tensor_value_info(f"{layer.name}/out", TensorProto.FLOAT, None))
    graph = helper.make_graph(nodes, "timed", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert len(open_session(model.SerializeToString(), session_options(1)).get_outputs()) == 2


def test_lowerings_restrict_integers_too() -> None:
    layer = layer_of("body", 32, 32, 3, 3)
    found = {c.lowering for c in enumerate_candidates(layer, ("int8", "channel"), ("direct",))}
    assert found == {"direct"}
    found = {c.lowering for c in enumerate_candidates(layer, ("int8", "channel"), ("direct", "int8"))}
    assert found == {"direct", "int8"}
    with pytest.raises(UsageError, match=r"lowering: expected one of .*int8, got 'winograd'"):
        enumerate_candidates(layer, ("channel",), ("winograd",))
