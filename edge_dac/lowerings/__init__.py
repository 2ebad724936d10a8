"""Lowerings: ways to write a chain of factors as ONNX nodes, all computing the same function at different speeds."""

from __future__ import annotations

from edge_dac.lowerings.branch_sum import BranchSum
from edge_dac.lowerings.concat import Concat
from edge_dac.lowerings.direct import Direct, Multiplier
from edge_dac.lowerings.lowering import LoweredLayer, Lowering

LOWERINGS: dict[str, Lowering] = {
    lowering.name: lowering for lowering in (Direct(), Multiplier(), Concat(), BranchSum())
}

__all__ = ["LOWERINGS", "LoweredLayer", "Lowering"]
