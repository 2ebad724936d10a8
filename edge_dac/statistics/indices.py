"""What an input of integers or truth values holds: rows of a table, one of several numbers, or one that the model awaits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import onnx

from edge_dac.graph.scopes import Scope, scope_at
from edge_dac.statistics.execution import graph_inputs
from edge_dac.statistics.input_values import InputSpec, Layout

_INDEX_LIMIT = 100
"""Integers of which nothing is known are drawn below this."""
_PASSED_THROUGH = frozenset(
    {"Cast", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"}
)
"""What shapes or picks numbers and leaves them as they are."""


def read_indices(model: onnx.ModelProto, base: InputSpec) -> InputSpec | None:
    """``base`` as indices or a constant; None where it is of another kind (floating point, pictures of integers)."""
    kind = np.dtype(base.dtype).kind
    if kind not in "biu":
        return None
    count = None
    scope = scope_at(model, ())
    for node, place in _uses(model.graph, base.name):
        count = _table_size(scope, node, place)
        compared = _compared_with(scope, node, place)
        if count is None and compared is not None and compared.size == 1:
            number = float(compared.item())
            note = f"{base.name}: {number:g}, the number that the model compares it with"
            return replace(base, layout=Layout.CONSTANT, low=number, high=number, assumptions=(note,))
        if count is None and compared is not None and compared.min(initial=0) >= 0:
            count = int(compared.max(initial=0)) + 1
        if count is not None:
            break
    if count is None and kind != "b" and len(base.shape) >= 3:
        return None
    high = count - 1 if count else (1 if kind == "b" else _INDEX_LIMIT - 1)
    note = f"{base.name}: {base.dtype} taken for indices from 0 to {high}"
    if count is None and len(graph_inputs(model)) > 1:
        note += f"; if it is one number in every run, say so by --value {base.name}=N"
    return replace(base, layout=Layout.INDICES, high=float(high), assumptions=(note,))


def _uses(graph: onnx.GraphProto, name: str) -> Iterator[tuple[onnx.NodeProto, int]]:
    """Nodes of the main graph that do something with the numbers of ``name``, and at which of their inputs."""
    reached = {name}
    for node in graph.node:
        places = [place for place, read in enumerate(node.input) if read in reached]
        if places and places[0] == 0 and node.op_type in _PASSED_THROUGH:
            reached.update(node.output)
        elif places:
            yield node, places[0]


def _table_size(scope: Scope, node: onnx.NodeProto, place: int) -> int | None:
    """Rows of the table that the numbers look up, or how many numbers ``OneHot`` tells apart."""
    if node.op_type == "Gather" and place == 1:
        table = scope.constant(node.input[0])
        axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
        return None if table is None else int(table.shape[axis])
    depth = scope.constant(node.input[1]) if node.op_type == "OneHot" and place == 0 else None
    return None if depth is None or depth.size != 1 else int(depth.item())


def _compared_with(scope: Scope, node: onnx.NodeProto, place: int) -> np.ndarray | None:
    other = scope.constant(node.input[1 - place]) if node.op_type == "Equal" else None
    return other if other is not None and other.dtype.kind in "biuf" else None
