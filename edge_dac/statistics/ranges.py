"""Least and largest values of the maps around every convolution that make a difference, by running the model on samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from edge_dac.convolution import ConvLayer
from edge_dac.graph.exposing import Exposure, layer_nodes
from edge_dac.graph.grids import activation_after, origin_of
from edge_dac.graph.pointwise import leading_to_layers, pointwise_end
from edge_dac.graph.scopes import Scope, Site, unique_name, value_names
from edge_dac.schemes.scheme import Ranges
from edge_dac.statistics.clipping import Pointwise, Values, range_that_counts
from edge_dac.statistics.execution import Inputs, extract, feeds, open_session


def collect_ranges(
    model: onnx.ModelProto,
    layers: Sequence[ConvLayer],
    inputs: Inputs,
    input_shapes: Mapping[str, Sequence[int]],
    sites: Mapping[str, Site] | None = None,
    *,
    threads: int = 1,
) -> dict[str, Ranges]:
    """Ranges by layer name. A map behind ``MaxPool`` gets that of the map before, so that 8 bits mean the same in both.
    Of a map in the main graph that layers read only through a pointwise function, the range ends where that hardly changes
    any more; where none reads it, what the function hides may still be wanted (scores before a final sigmoid are what errors
    are taken of).

    Left out are matrix products, layers inside ``Loop`` and ``Scan`` and in branches that are not taken, and those with values
    that are not finite.

    Args:
        model: the graph that ``layers`` were found in.
        inputs: samples for every input, ``[count, *shape without batch]``.
        input_shapes: shapes the model is run at, batch included.
        sites: where the layers are in ``model``; by default nodes of their names in the main graph.
        threads: of ONNX Runtime.

    Raises:
        UsageError: an input has no samples.
    """
    exposure = Exposure(model)
    ends = _ends(exposure, layers, sites)
    tensors = list(dict.fromkeys(name for pair in ends.values() for name in pair))
    if not tensors:
        return {}
    given = [name for name in tensors if name in inputs]
    extremes = dict(zip(tensors, np.array([[np.inf, -np.inf]] * len(tensors)), strict=True))
    part, reduced = _reduced(exposure, [name for name in tensors if name not in inputs])
    session = open_session(part, threads=threads)
    names = [value.name for value in session.get_inputs()]
    for feed in feeds(inputs, input_shapes, list(inputs)):
        values = dict(zip(reduced, session.run(None, {name: feed[name] for name in names}), strict=True))
        for name in tensors:
            low, high = (feed[name].min(), feed[name].max()) if name in given else (values[name, 0], values[name, 1])
            if low > high:  # of a branch that this sample does not take
                continue
            extremes[name] = np.array([np.fmin(extremes[name][0], low), np.fmax(extremes[name][1], high)])
            if not np.isfinite([low, high]).all():
                extremes[name][:] = np.nan
    model = exposure.model
    scope, inner = Scope(model.graph, model.ir_version), leading_to_layers(model.graph)
    found: dict[str, tuple[float, float]] = {}
    for name, (low, high) in extremes.items():
        if np.isfinite([low, high]).all():
            end = pointwise_end(scope, name)
            whole = (float(low), float(high))
            found[name] = range_that_counts(*whole, _function(model, name, end)) if end in inner - {name} else whole
    return {
        layer: Ranges(found[source], found[target])
        for layer, (source, target) in ends.items()
        if source in found and target in found
    }


def _function(model: onnx.ModelProto, tensor: str, end: str) -> Pointwise:
    """What leads from ``tensor`` to ``end``, value by value."""
    session = open_session(extract(model, [end], {tensor: np.dtype(np.float32)}), threads=1)

    def follow(values: Values) -> Values:
        result: Values = session.run(None, {tensor: values})[0]
        return result.ravel()  # Constants of several axes widen it.

    return follow


def _ends(
    exposure: Exposure, layers: Sequence[ConvLayer], sites: Mapping[str, Site] | None
) -> dict[str, tuple[str, str]]:
    """What each layer reads (before poolings) and writes (after an activation)."""
    found = {}
    maps = [layer for layer in layers if layer.axes]
    nodes = layer_nodes(exposure.model, maps, sites)
    for layer in maps:
        if layer.name in nodes:
            scope, node = nodes[layer.name]
            activation = activation_after(scope, node.output[0])
            ends = (origin_of(scope, node.input[0]), (activation or node).output[0])
            read, written = (exposure.name_of(scope, name, layer.dtype) for name in ends)
            found[layer.name] = (read, written)
    return found


def _reduced(exposure: Exposure, tensors: Sequence[str]) -> tuple[onnx.ModelProto, list[tuple[str, int]]]:
    """A model that computes least and largest value of every tensor, and (tensor, which of the two) of its outputs.

    Of a tensor without elements the least is infinite and the largest minus infinite.
    """
    part = extract(exposure.model, tensors)
    del part.graph.output[:]
    taken = value_names(exposure.model)
    order = []
    for name in tensors:
        for which, (operator, bound) in enumerate((("ReduceMin", np.inf), ("ReduceMax", -np.inf))):
            source = name
            if name in exposure.types:
                source = _with_bound(part.graph, name, np.asarray([bound], exposure.types[name]), taken)
            output = unique_name(f"{name}/{operator}", taken)
            part.graph.node.append(helper.make_node(operator, [source], [output], keepdims=0))
            part.graph.output.append(onnx.ValueInfoProto(name=output))
            order.append((name, which))
    return part, order


def _with_bound(graph: onnx.GraphProto, name: str, bound: npt.NDArray[np.generic], taken: set[str]) -> str:
    """A row of the tensor's elements and one more: of nothing ONNX Runtime has no least."""
    flat, size, more, row = (unique_name(f"{name}/{part}", taken) for part in ("flat", "size", "bound", "row"))
    graph.initializer.append(numpy_helper.from_array(np.array([-1]), size))
    graph.initializer.append(numpy_helper.from_array(bound, more))
    graph.node.append(helper.make_node("Reshape", [name, size], [flat]))
    graph.node.append(helper.make_node("Concat", [flat, more], [row], axis=0))
    return row
