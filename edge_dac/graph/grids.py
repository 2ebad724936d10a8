"""Grids of 8-bit maps, and the operators that a grid passes unchanged."""

from __future__ import annotations

import numpy as np
import onnx

from edge_dac.graph.scopes import Scope, attributes, count_uses, is_default_domain

Grid = tuple[float, int]
"""Scale and zero point of numbers from 0 to 255."""


def kind(node: onnx.NodeProto) -> str:
    """The operator, if it is one of the default domain; else nothing."""
    return node.op_type if is_default_domain(node) else ""


def is_pooling(node: onnx.NodeProto) -> bool:
    """Whether the node is a ``MaxPool`` without indices."""
    return kind(node) == "MaxPool" and len([name for name in node.output if name]) == 1


def upper_bound(scope: Scope, node: onnx.NodeProto) -> float | None:
    """Where a ``Relu`` or a ``Clip`` from zero ends; None for other nodes."""
    if kind(node) == "Relu":
        return float("inf")
    if kind(node) != "Clip":
        return None
    values = attributes(node)
    bounds: list[object] = [values.get("min"), values.get("max")]
    for place, name in enumerate(node.input[1:3]):
        constant = scope.constant(name) if name else None
        if name and constant is None:
            return None
        bounds[place] = None if constant is None else constant.item()
    low, high = (None if bound is None else float(str(bound)) for bound in bounds)
    return None if low != 0.0 else float("inf") if high is None else high


def grid_of(scope: Scope, node: onnx.NodeProto) -> Grid | None:
    """The grid of a quantizer of whole tensors to numbers from 0 to 255, as ours are; None for others."""
    constants = [scope.constant(name) for name in node.input[1:3]]
    if len(constants) != 2 or any(constant is None or constant.size != 1 for constant in constants):
        return None
    scale, zero = (constant for constant in constants if constant is not None)
    return (float(scale.item()), int(zero.item())) if zero.dtype == np.uint8 else None


def stands_for(grid: Grid | None, bound: float | None) -> bool:
    """Whether rounding to ``grid`` does what an activation from zero to ``bound`` does."""
    return grid is not None and bound is not None and grid[1] == 0 and 255 * grid[0] <= bound * (1 + 1e-6)


def activation_after(scope: Scope, tensor: str) -> onnx.NodeProto | None:
    """The ``Relu`` or ``Clip`` from zero that alone reads ``tensor``, or None."""
    readers = [node for node in scope.graph.node if tensor in node.input]
    if len(readers) != 1 or count_uses(scope.graph)[tensor] != 1 or not is_default_domain(readers[0]):
        return None
    return readers[0] if upper_bound(scope, readers[0]) is not None else None


def origin_of(scope: Scope, tensor: str) -> str:
    """The tensor whose values ``tensor`` holds: itself, or what ``MaxPool`` chose them from."""
    while True:
        node = scope.producer(tensor)
        if node is None or not is_pooling(node):
            return tensor
        tensor = node.input[0]
