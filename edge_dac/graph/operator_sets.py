"""Declaring a newer operator set where every node means the same in it."""

from __future__ import annotations

import onnx
from onnx import defs

from edge_dac.graph.scopes import DEFAULT_DOMAINS, default_opset, is_default_domain, walk

INTEGER_OPSET = 10
"""Since then convolutions in 8 bits exist."""

_EXTENDED = frozenset({"AveragePool", "MaxPool", "Dropout"})
"""Changed between operator sets 9 and 10 by an attribute whose default is what was, and by the type of ``Dropout``'s mask."""


def raise_operator_set(model: onnx.ModelProto) -> None:
    """From operator set 9 to 10, in place; nothing happens where an operator has changed between them."""
    if default_opset(model) != INTEGER_OPSET - 1 or model.functions:
        return
    nodes = [node for scope in walk(model) for node in scope.graph.node if is_default_domain(node)]
    if not all(_means_the_same(node) for node in nodes):
        return
    for entry in model.opset_import:
        if entry.domain in DEFAULT_DOMAINS:
            entry.version = INTEGER_OPSET


def _means_the_same(node: onnx.NodeProto) -> bool:
    try:
        versions = [
            defs.get_schema(node.op_type, version).since_version for version in (INTEGER_OPSET - 1, INTEGER_OPSET)
        ]
    except defs.SchemaError:
        return False
    return versions[0] == versions[1] or (
        node.op_type in _EXTENDED and len([name for name in node.output if name]) == 1
    )
