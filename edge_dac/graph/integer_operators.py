"""Operators between layers in integers, made to compute in integers too.

ONNX Runtime adds, multiplies and joins 8-bit maps without bringing them back to real numbers, where every input comes out of
a ``DequantizeLinear`` and only a ``QuantizeLinear`` reads the result. Where a layer in integers reads the result, this is
arranged: the result is rounded to the grid by which that layer reads it, and all others get the rounded one. The layer reads
what it read before; what others read, the next addition of a residual network say, moves by up to half a step.

1. ``Add`` and ``Concat`` of 8-bit maps. Poolings, joins, and an activation that the grid stands for may lie between the
   result and that layer.
2. ``x sigmoid(x)`` of an 8-bit map, the sigmoid in steps of 1/256; also for an addition, where the grid of ``x`` tells how
   far the values reach.
3. An enlarged map (``Resize``) that is joined to others: it is enlarged in real numbers, which is several times faster in
   ONNX Runtime, and rounded then.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edge_dac.convolution import Affine
from edge_dac.graph.grids import Grid, activation_after, grid_of, is_pooling, kind, stands_for, upper_bound
from edge_dac.graph.scopes import Scope, forget_value, unique_name

_SIGMOID_GRID: Grid = (1 / 256, 0)


def compute_in_integers(scope: Scope, maps: Iterable[onnx.NodeProto], names: set[str]) -> set[str]:
    """Round what the rules name in one graph, in place.

    Args:
        maps: the ``DequantizeLinear`` nodes behind layers in integers.
        names: of all values of the model; those that are made up are added.

    Returns:
        The 8-bit tensors that were added.
    """
    known = {node.output[0]: grid for node in maps if (grid := grid_of(scope, node)) is not None}
    outputs = {value.name for value in scope.graph.output}
    useless: set[str] = set()
    while True:
        rounding = _Rounding(scope, dict(known), *_demands(scope, useless))
        for node in scope.graph.node:
            if node.output and node.output[0] not in outputs:
                rounding.visit(node)
        if rounding.useless <= useless:
            break
        useless |= rounding.useless
    for node, name, grid in rounding.borrowed:
        _borrow(scope, node, name, grid, names)
    return {_round(scope, node, grid, names) for node, grid in rounding.found}


def _demands(scope: Scope, useless: set[str]) -> tuple[dict[str, Grid], dict[str, Grid]]:
    """Grids by which layers in integers read tensors, at once or behind what passes them; and behind joins.

    Args:
        useless: joins that are not rounded.
    """
    direct: dict[str, Grid] = {}
    joined: dict[str, Grid] = {}
    for node in reversed(scope.graph.node):
        if kind(node) == "QuantizeLinear":
            grid = grid_of(scope, node)
            if grid is not None:
                direct.setdefault(node.input[0], grid)
        elif kind(node) == "Concat":
            grid = direct.get(node.output[0]) or joined.get(node.output[0])
            if grid is not None and node.output[0] not in useless:
                joined.update({name: grid for name in node.input if name not in joined})
        elif kind(node) == "Resize" and node.output[0] in joined:
            joined.setdefault(node.input[0], joined[node.output[0]])
        elif is_pooling(node) or _goes(scope, node, direct.get(node.output[0]) or joined.get(node.output[0])):
            for demands in (direct, joined):
                if node.output[0] in demands:
                    demands.setdefault(node.input[0], demands[node.output[0]])
    return direct, joined


def _goes(scope: Scope, node: onnx.NodeProto, grid: Grid | None) -> bool:
    """Whether the node is an activation that rounding its input to ``grid`` makes idle."""
    return stands_for(grid, upper_bound(scope, node)) and activation_after(scope, node.input[0]) is not None


@dataclass(eq=False)
class _Rounding:
    """Which nodes are rounded, found from the first node to the last.

    Attributes:
        grids: of the tensors that are rounded.
        direct: by which layers read a tensor.
        joined: by which layers read what a tensor is joined to.
        found: nodes to round, and their results' grids.
        borrowed: of those nodes, inputs that are real, but rounded for a layer that reads them too.
        useless: joins that cannot be rounded.
    """

    scope: Scope
    grids: dict[str, Grid]
    direct: dict[str, Grid]
    joined: dict[str, Grid]
    found: list[tuple[onnx.NodeProto, Grid]] = field(default_factory=list)
    borrowed: list[tuple[onnx.NodeProto, str, Grid]] = field(default_factory=list)
    useless: set[str] = field(default_factory=set)

    def visit(self, node: onnx.NodeProto) -> None:
        operator, result = kind(node), node.output[0]
        grid = self.direct.get(result) or self.joined.get(result)
        source = self.grids.get(node.input[0]) if node.input else None
        if is_pooling(node) or _goes(self.scope, node, source):
            if source is not None:
                self.grids[result] = source
        elif operator == "Resize":
            if source is not None and result in self.joined:
                self._add(node, self.joined[result])
        elif operator == "Mul":
            sigmoid = self._sigmoid(node)
            if sigmoid is not None:
                self.found.append((sigmoid, _SIGMOID_GRID))
                self._add(node, grid or _grid_of_swish(self.grids[sigmoid.input[0]]))
        elif operator in ("Add", "Concat") and grid is not None:
            real = [name for name in node.input if name not in self.grids]
            # Joined maps are read by the grid of the join, each as well as all.
            borrowed = {name: self.direct.get(name) or (grid if operator == "Concat" else None) for name in real}
            if None not in borrowed.values() and len(real) < len(node.input):
                self.borrowed.extend((node, name, lent) for name, lent in borrowed.items() if lent is not None)
                self._add(node, grid)
            elif operator == "Concat":
                self.useless.add(result)

    def _add(self, node: onnx.NodeProto, grid: Grid) -> None:
        self.found.append((node, grid))
        self.grids[node.output[0]] = grid

    def _sigmoid(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        """The sigmoid in ``x sigmoid(x)`` of a rounded ``x``, where a layer or an addition reads the product."""
        for x, y in (tuple(node.input), tuple(reversed(node.input))):
            maker = self.scope.producer(y)
            if x in self.grids and maker is not None and kind(maker) == "Sigmoid" and maker.input[0] == x:
                result = node.output[0]
                wanted = result in self.direct or result in self.joined or self._is_added(result)
                return maker if wanted else None
        return None

    def _is_added(self, tensor: str) -> bool:
        sums = [node for node in self.scope.graph.node if kind(node) == "Add" and tensor in node.input]
        return any(node.output[0] in self.direct or node.output[0] in self.joined for node in sums)


def _grid_of_swish(grid: Grid) -> Grid:
    """The grid of ``x sigmoid(x)`` where ``x`` has this one; its least value is -0.2785, at -1.2785."""
    scale, zero = grid
    high = scale * (255 - zero)
    affine = Affine.covering(-0.2785, high / (1 + float(np.exp(-high))))
    return affine.scale, affine.zero_point


def _round(scope: Scope, node: onnx.NodeProto, grid: Grid, names: set[str]) -> str:
    """A pair of quantizers behind the node; returns the 8-bit tensor between them."""
    result = node.output[0]
    real = unique_name(f"{result}/real", names)
    place = next(index for index, other in enumerate(scope.graph.node) if result in other.output)
    node.output[0] = real
    forget_value(scope.graph, result)
    return _insert_pair(scope, place + 1, real, result, grid, names)


def _borrow(scope: Scope, node: onnx.NodeProto, name: str, grid: Grid, names: set[str]) -> None:
    """Let the node read ``name`` rounded; the quantizer becomes one with that of the layer."""
    rounded = unique_name(f"{name}/borrowed", names)
    place = next(index for index, other in enumerate(scope.graph.node) if other.output[:1] == node.output[:1])
    node.input[:] = [rounded if other == name else other for other in node.input]
    _insert_pair(scope, place, name, rounded, grid, names)


def _insert_pair(scope: Scope, place: int, source: str, target: str, grid: Grid, names: set[str]) -> str:
    rounded, scale, zero = (unique_name(f"{target}/{end}", names) for end in ("rounded", "scale", "zero"))
    scope.add_initializer(numpy_helper.from_array(np.array(grid[0], np.float32), scale))
    scope.add_initializer(numpy_helper.from_array(np.array(grid[1], np.uint8), zero))
    pair = [
        helper.make_node("QuantizeLinear", [source, scale, zero], [rounded], name=rounded),
        helper.make_node("DequantizeLinear", [rounded, scale, zero], [target], name=f"{rounded}/dequantize"),
    ]
    for offset, quantizer in enumerate(pair):
        scope.graph.node.insert(place + offset, quantizer)
    return rounded
