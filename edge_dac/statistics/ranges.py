"""Least and largest values of the maps around every convolution, by running the model on samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper

from edge_dac.convolution import ConvLayer
from edge_dac.graph.quantizers import activation_after, origin_of
from edge_dac.graph.scopes import Scope, unique_name, value_names
from edge_dac.schemes.scheme import Ranges
from edge_dac.statistics.execution import Inputs, extract, feeds, open_session


def collect_ranges(
    model: onnx.ModelProto,
    layers: Sequence[ConvLayer],
    inputs: Inputs,
    input_shapes: Mapping[str, Sequence[int]],
    *,
    threads: int = 1,
) -> dict[str, Ranges]:
    """Ranges by layer name. A map behind ``MaxPool`` gets that of the map before, so that 8 bits mean the same in both.

    Left out are matrix products, layers inside ``If``, ``Loop`` and ``Scan``, and those with values that are not finite.

    Args:
        model: the graph that ``layers`` were found in.
        inputs: samples for every input, ``[count, *shape without batch]``.
        input_shapes: shapes the model is run at, batch included.
        threads: of ONNX Runtime.

    Raises:
        UsageError: an input has no samples.
    """
    ends = _ends(model, layers)
    tensors = list(dict.fromkeys(name for pair in ends.values() for name in pair))
    if not tensors:
        return {}
    given = [name for name in tensors if name in inputs]
    extremes = dict(zip(tensors, np.array([[np.inf, -np.inf]] * len(tensors)), strict=True))
    part, reduced = _reduced(model, [name for name in tensors if name not in inputs])
    session = open_session(part, threads=threads)
    names = [value.name for value in session.get_inputs()]
    for feed in feeds(inputs, input_shapes, list(inputs)):
        values = dict(zip(reduced, session.run(None, {name: feed[name] for name in names}), strict=True))
        for name in tensors:
            low, high = (feed[name].min(), feed[name].max()) if name in given else (values[name, 0], values[name, 1])
            extremes[name] = np.array([np.fmin(extremes[name][0], low), np.fmax(extremes[name][1], high)])
            if not np.isfinite([low, high]).all():
                extremes[name][:] = np.nan
    return {
        layer: Ranges(*((float(extremes[name][0]), float(extremes[name][1])) for name in pair))
        for layer, pair in ends.items()
        if all(np.isfinite(extremes[name]).all() for name in pair)
    }


def _ends(model: onnx.ModelProto, layers: Sequence[ConvLayer]) -> dict[str, tuple[str, str]]:
    """What each layer reads (before poolings) and writes (after an activation)."""
    scope = Scope(model.graph, model.ir_version)
    nodes = {node.output[0]: node for node in model.graph.node if node.output}
    nodes |= {node.name: node for node in reversed(model.graph.node) if node.name}
    found = {}
    for layer in layers:
        node = nodes.get(layer.name)
        if layer.axes == 0 or node is None or node.op_type != layer.operator:
            continue
        activation = activation_after(scope, node.output[0])
        target = node.output[0] if activation is None else activation.output[0]
        found[layer.name] = (origin_of(scope, node.input[0]), target)
    return found


def _reduced(model: onnx.ModelProto, tensors: Sequence[str]) -> tuple[onnx.ModelProto, list[tuple[str, int]]]:
    """A model that computes least and largest value of every tensor, and (tensor, which of the two) of its outputs."""
    part = extract(model, tensors)
    del part.graph.output[:]
    taken = value_names(model)
    order = []
    for name in tensors:
        for which, operator in enumerate(("ReduceMin", "ReduceMax")):
            output = unique_name(f"{name}/{operator}", taken)
            part.graph.node.append(helper.make_node(operator, [name], [output], keepdims=0))
            part.graph.output.append(onnx.ValueInfoProto(name=output))
            order.append((name, which))
    return part, order
