"""Lowerings: ways to write a chain of factors as ONNX nodes, all computing the same function at different speeds.

``INTEGER_LOWERINGS`` are for factorizations with a quantization, and those for no others.
"""

from __future__ import annotations

from edge_dac.lowerings.branch_sum import BranchSum
from edge_dac.lowerings.concat import Concat
from edge_dac.lowerings.direct import Direct, Multiplier
from edge_dac.lowerings.int8 import IntegerArithmetic
from edge_dac.lowerings.lowering import LoweredLayer, Lowering
from edge_dac.lowerings.taps import Taps
from edge_dac.lowerings.winograd import Winograd

LOWERINGS: dict[str, Lowering] = {
    lowering.name: lowering
    for lowering in (
        Direct(),
        Multiplier(),
        Concat(),
        BranchSum(),
        Taps("taps"),
        Taps("taps_columns", columns=True),
        Winograd("winograd4", size=6),
        Winograd("winograd6", size=8),
        Winograd("winograd4_packed", size=6, packed=True),
        Winograd("winograd2", size=4),  # last, where time to measure may run out: others are nearly always faster
    )
}

INTEGER_LOWERINGS: dict[str, Lowering] = {lowering.name: lowering for lowering in (IntegerArithmetic(),)}


def lowering_of(name: str) -> Lowering:
    """The lowering that goes by ``name``, of either kind."""
    return LOWERINGS.get(name) or INTEGER_LOWERINGS[name]


__all__ = ["INTEGER_LOWERINGS", "LOWERINGS", "LoweredLayer", "Lowering", "lowering_of"]
