"""What lies between layers that are computed in integers, so that their maps stay in 8 bits from one to the next.

A replaced layer ends in a ``DequantizeLinear`` and the next begins with a ``QuantizeLinear``. Exactly equal:

1. An activation that the 8 bits cannot tell from nothing (``Relu`` where they begin at zero, ``Clip`` where they end below
   its bound) goes.
2. ``MaxPool`` changes places with the ``DequantizeLinear`` before it, where only equal quantizers read it.
3. Equal quantizers of one tensor become one, and one that undoes a ``DequantizeLinear`` goes, which goes too when nothing
   else reads it.

Before that ``graph.integer_operators`` rounds what operators between such layers compute; other readers see the difference.
And two things so that ONNX Runtime leaves the other layers alone:

* It moves a ``QuantizeLinear`` ahead of a ``MaxPool`` that follows a layer in real numbers, takes that layer's map out of the
  blocked layout for it, and pools several times slower. A ``Max`` with the lowest number of the grid, which changes nothing,
  keeps them apart.
* A ``Conv``, ``ConvTranspose`` or ``Gemm`` between a ``DequantizeLinear`` and a ``QuantizeLinear`` it takes for an oversight,
  rounds its weights to one grid for all channels (its ``WeightBiasQuantization``), and fails where the operator set has no
  ``Round``. Before such a reader the map is brought back by ``Cast``, ``Sub`` and ``Mul``.
"""

from __future__ import annotations

from collections.abc import Mapping, Set

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edge_dac.graph.grids import grid_of, is_pooling, kind, origin_of, stands_for, upper_bound
from edge_dac.graph.integer_operators import compute_in_integers
from edge_dac.graph.scopes import (
    Scope,
    count_uses,
    default_opset,
    forget_value,
    is_default_domain,
    unique_name,
    value_names,
    walk,
)

_PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm"})
_MOVERS = frozenset({"MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity"})
"""ONNX Runtime moves a ``DequantizeLinear`` past these."""

POOLING_SINCE_OPSET = 12
"""``MaxPool`` takes 8-bit maps since this operator set."""


def merge_quantizers(model: onnx.ModelProto, tensors: Set[str]) -> None:
    """Apply the rules, in place, around every ``DequantizeLinear`` that writes one of ``tensors``."""
    names: set[str] = set()
    for scope in walk(model):
        writers = [node for node in scope.graph.node if kind(node) == "DequantizeLinear" and node.output[0] in tensors]
        if not writers:
            continue
        names = names or value_names(model)
        _drop_activations(scope)
        added = compute_in_integers(scope, writers, names)
        _drop_activations(scope)
        if default_opset(model) >= POOLING_SINCE_OPSET:
            _sink_through_pooling(scope, names)
        _join(scope)
        _keep_pooling_real(scope, names)
        _spell_out(scope, names, added)


def _writers(scope: Scope) -> dict[str, onnx.NodeProto]:
    return {name: node for node in scope.graph.node for name in node.output if name}


def _remove(scope: Scope, nodes: list[onnx.NodeProto]) -> None:
    for node in nodes:
        forget_value(scope.graph, node.output[0])
        scope.graph.node.remove(node)


def _drop_activations(scope: Scope) -> None:
    """Rule 1."""
    uses = count_uses(scope.graph)
    writers = _writers(scope)
    idle = []
    for node in scope.graph.node:
        bound = upper_bound(scope, node)
        writer = None if bound is None else writers.get(node.input[0])
        if bound is None or writer is None or kind(writer) != "DequantizeLinear" or uses[node.input[0]] != 1:
            continue
        if stands_for(grid_of(scope, writer), bound):
            idle.append((node, writer))
    for node, writer in idle:
        result = node.output[0]
        forget_value(scope.graph, writer.output[0])
        scope.graph.node.remove(node)
        writer.output[0] = result


def _sink_through_pooling(scope: Scope, names: set[str]) -> None:
    """Rule 2, from the first node to the last: one pooling may follow another."""
    uses = count_uses(scope.graph)
    writers = _writers(scope)
    for node in [node for node in scope.graph.node if is_pooling(node)]:
        writer = writers.get(node.input[0])
        result = node.output[0]
        readers = [reader for reader in scope.graph.node if result in reader.input]
        if writer is None or kind(writer) != "DequantizeLinear" or uses[result] != len(readers):
            continue
        grid = grid_of(scope, writer)
        if grid is None or any(kind(r) != "QuantizeLinear" or grid_of(scope, r) != grid for r in readers):
            continue
        forget_value(scope.graph, result)
        moved = onnx.NodeProto()
        moved.CopyFrom(writer)
        moved.name = f"{writer.name}/{node.name or result}"
        node.input[0] = writer.input[0]
        node.output[0] = moved.input[0] = unique_name(f"{result}/quantized", names)
        moved.output[0] = result
        place = next(index for index, other in enumerate(scope.graph.node) if node.output[0] in other.output)
        scope.graph.node.insert(place + 1, moved)
        writers[result] = scope.graph.node[place + 1]


def _join(scope: Scope) -> None:
    """Rule 3."""
    uses = count_uses(scope.graph)
    writers = _writers(scope)
    same_as: dict[str, str] = {}
    first: dict[tuple[str, tuple[float, int]], str] = {}
    for node in scope.graph.node:
        grid = grid_of(scope, node) if kind(node) == "QuantizeLinear" else None
        if grid is None or uses[node.output[0]] != sum(node.output[0] in other.input for other in scope.graph.node):
            continue
        writer = writers.get(node.input[0])
        undone = writer is not None and kind(writer) == "DequantizeLinear" and grid_of(scope, writer) == grid
        same = (
            writer.input[0]
            if undone and writer is not None
            else first.setdefault((node.input[0], grid), node.output[0])
        )
        if same != node.output[0]:
            same_as[node.output[0]] = same
    _remove(scope, [node for node in scope.graph.node if node.output[0] in same_as])
    for node in scope.graph.node:
        node.input[:] = [same_as.get(name, name) for name in node.input]
    uses = count_uses(scope.graph)
    _remove(scope, [n for n in scope.graph.node if kind(n) == "DequantizeLinear" and not uses[n.output[0]]])


def _keep_pooling_real(scope: Scope, names: set[str]) -> None:
    """A ``Max`` before every quantizer of a layer in integers that a real map reaches through ``MaxPool``."""
    writers = _writers(scope)
    layers = {node.input[0] for node in scope.graph.node if kind(node) == "QLinearConv"}
    for node in [node for node in scope.graph.node if kind(node) == "QuantizeLinear" and node.output[0] in layers]:
        grid = grid_of(scope, node)
        if grid is None or not _is_pooled_in_real(scope, writers, node.input[0]):
            continue
        scale, zero = grid
        lowest, clamped = (unique_name(f"{node.name}/{suffix}", names) for suffix in ("lowest", "clamped"))
        scope.add_initializer(numpy_helper.from_array(np.array(-scale * zero, np.float32), lowest))
        place = next(index for index, other in enumerate(scope.graph.node) if other.output[:] == node.output[:])
        maximum = helper.make_node("Max", [node.input[0], lowest], [clamped], name=clamped)
        node.input[0] = clamped
        scope.graph.node.insert(place, maximum)


def _is_pooled_in_real(scope: Scope, writers: Mapping[str, onnx.NodeProto], tensor: str) -> bool:
    """Whether nothing but poolings, one at least, and activations lies between ``tensor`` and a real map."""
    pools = False
    while tensor in writers:
        writer = writers[tensor]
        if not is_pooling(writer) and upper_bound(scope, writer) is None:
            return pools and kind(writer) != "DequantizeLinear"
        pools, tensor = pools or is_pooling(writer), writer.input[0]
    return pools


def _spell_out(scope: Scope, names: set[str], added: Set[str]) -> None:
    """Other words for every ``DequantizeLinear`` that leads to a layer in real numbers."""
    for node in [node for node in scope.graph.node if kind(node) == "DequantizeLinear"]:
        grid = grid_of(scope, node)
        origin = origin_of(scope, node.input[0])
        maker = scope.producer(origin)
        # a model's own weights come from elsewhere
        is_layer = origin in added or (maker is not None and kind(maker) == "QLinearConv")
        if grid is None or not is_layer or not _leads_to_product(scope, node.output[0]):
            continue
        scale, zero = grid
        place = next(index for index, other in enumerate(scope.graph.node) if other.output[:] == node.output[:])
        result = node.output[0]
        steps = [("Cast", None), ("Sub", float(zero)), ("Mul", scale)]
        source, nodes = node.input[0], []
        for operator, value in steps if zero else (steps[0], steps[2]):
            inputs = [source]
            if value is not None:
                inputs.append(unique_name(f"{node.name}/{operator}/value", names))
                scope.add_initializer(numpy_helper.from_array(np.array(value, np.float32), inputs[1]))
            source = result if operator == "Mul" else unique_name(f"{node.name}/{operator}/output", names)
            nodes.append(helper.make_node(operator, inputs, [source], name=f"{node.name}/{operator}"))
        nodes[0].attribute.append(helper.make_attribute("to", onnx.TensorProto.FLOAT))
        del scope.graph.node[place]
        for offset, replacing in enumerate(nodes):
            scope.graph.node.insert(place + offset, replacing)


def _leads_to_product(scope: Scope, tensor: str) -> bool:
    """Whether a layer in real numbers reads the tensor, or what only moved its values."""
    pending, seen = [tensor], {tensor}
    while pending:
        current = pending.pop()
        for node in scope.graph.node:
            if current not in node.input or not is_default_domain(node):
                continue
            if node.op_type in _PRODUCTS:
                return True
            if node.op_type in _MOVERS and node.output[0] not in seen:
                seen.add(node.output[0])
                pending.append(node.output[0])
    return False
