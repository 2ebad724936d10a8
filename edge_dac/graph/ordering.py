"""Bringing the nodes of a graph into an order in which each reads only what is there already.

ONNX demands it, ONNX Runtime does not: converters to half precision put their casts of the inputs last.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

import onnx

from edge_dac.graph.scopes import inner_graphs


def sort_nodes(model: onnx.ModelProto) -> bool:
    """Sort the nodes of all graphs in place, as near to their order as can be; returns whether any was moved.

    A graph with a cycle stays as it is.
    """
    return _sort(model.graph)


def _sort(graph: onnx.GraphProto) -> bool:
    moved = False
    for node in graph.node:
        for _, inner in inner_graphs(node):
            moved |= _sort(inner)
    order = _order(graph)
    if order == sorted(order) or len(order) != len(graph.node):
        return moved
    nodes = [graph.node[index] for index in order]
    copies = []
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copies.append(copy)
    del graph.node[:]
    graph.node.extend(copies)
    return True


def _order(graph: onnx.GraphProto) -> list[int]:
    """Indices of the nodes, each after those whose outputs it reads; of those that may come next, the first one does."""
    writers = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    readers: dict[int, list[int]] = {}
    missing = [0] * len(graph.node)
    for index, node in enumerate(graph.node):
        sources = {writers[name] for name in _reads(node) if name in writers} - {index}
        missing[index] = len(sources)
        for source in sources:
            readers.setdefault(source, []).append(index)
    ready = [index for index, count in enumerate(missing) if count == 0]
    order = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for reader in readers.get(index, ()):
            missing[reader] -= 1
            if missing[reader] == 0:
                heapq.heappush(ready, reader)
    return order


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Names that a node reads, those of the graphs in it included."""
    yield from node.input
    for _, graph in inner_graphs(node):
        own = {name for inner in graph.node for name in inner.output}
        for inner in graph.node:
            yield from (name for name in _reads(inner) if name not in own)
        yield from (value.name for value in graph.output if value.name not in own)
