"""What a model chooses its answers from.

The boxes that non-maximum suppression leaves, or the indices of the largest scores, differ in number and in kind after
the least rounding: what they are chosen from can be compared.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from edge_dac.graph.pointwise import LAYERS
from edge_dac.graph.scopes import inner_graphs
from edge_dac.statistics.execution import node_inputs

_CHOOSING = frozenset({"ArgMax", "ArgMin", "Compress", "NonMaxSuppression", "NonZero", "TopK", "Unique"})
_COMPARING = frozenset({"And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "Or"})
_LAYERS = LAYERS | {"ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul"}
_WITHOUT_VALUES = frozenset({"Shape", "Size"})


def chosen_from(graph: onnx.GraphProto, name: str) -> list[str]:
    """The tensors, computed by layers, that ``name`` is chosen from by their values.

    Itself where nothing is chosen, or where layers compute on what was chosen, as the second stage of a detector does.
    """
    producers = {output: node for node in graph.node for output in node.output if output}
    computed = _computed(graph)
    chosen = _chosen(graph, computed)
    if any(part.op_type in _LAYERS for node in graph.node if chosen.intersection(node.output) for part in _parts(node)):
        return [name]
    leaves: dict[str, None] = {}
    pending, seen = [name], {name}
    while pending:
        current = pending.pop()
        if current not in chosen and (current not in producers or producers[current].op_type not in _COMPARING):
            leaves[current] = None
            continue
        sources = [source for source in node_inputs(producers[current]) if source in computed and source not in seen]
        pending.extend(reversed(sources))
        seen.update(sources)
    return list(leaves) or [name]


def _computed(graph: onnx.GraphProto) -> set[str]:
    """Tensors whose values, not only their shapes, depend on what a layer computes."""
    computed: set[str] = set()
    for node in graph.node:
        is_layer = any(part.op_type in _LAYERS for part in _parts(node))
        if node.op_type not in _WITHOUT_VALUES and (is_layer or not computed.isdisjoint(node_inputs(node))):
            computed.update(node.output)
    return computed


def _chosen(graph: onnx.GraphProto, computed: set[str]) -> set[str]:
    """Tensors behind a choice among ``computed`` values."""
    chosen: set[str] = set()
    for node in graph.node:
        inputs = node_inputs(node)
        chooses = any(part.op_type in _CHOOSING for part in _parts(node)) and not computed.isdisjoint(inputs)
        if chooses or not chosen.isdisjoint(inputs):
            chosen.update(node.output)
    return chosen


def _parts(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """The node and those of the graphs in it."""
    yield node
    for _, graph in inner_graphs(node):
        for inner in graph.node:
            yield from _parts(inner)
