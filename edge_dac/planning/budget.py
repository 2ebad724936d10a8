"""What is asked for: latency, error, MACs, memory or ranks. Light: the daemon imports it too."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from edge_dac.convolution import Rank
from edge_dac.errors import BudgetError


@dataclass(frozen=True, slots=True)
class LayerRank:
    """A scheme and rank that the user fixed for one layer. ``rank`` None with scheme ``dense`` leaves it alone."""

    scheme: str = "dac"
    rank: Rank | None = None


_NUMBERS = ("latency_ms", "speedup", "max_error", "mac_fraction", "memory_bytes", "uniform_rank", "total_rank")


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits on a plan; several at once must all hold. Without any, the fastest exact plan is wanted.

    Attributes:
        latency_ms: whole-model latency in milliseconds on this device, at ``percentile``.
        percentile: which percentile of the latency is meant, 1 to 99.
        speedup: original latency divided by the plan's; alternative to ``latency_ms``.
        max_error: largest predicted relative output error; 0 allows exact lowerings only.
        mac_fraction: largest share of the original's multiply-accumulates, above 0 up to 1.
        memory_bytes: largest resident size of the model.
        uniform_rank: the paper's form: scheme ``dac`` at this rank in every layer that can take it. Obeyed even when slower.
        total_rank: scheme ``dac`` at ranks whose sum over those layers is at most this, where they lose least; a layer left
            alone counts with its full rank. Obeyed even when slower.
        layer_ranks: per-layer choices; obeyed even when slower. Other limits are met with the layers that are not named.

    Raises:
        BudgetError: a limit is not a usable number, or limits contradict each other.
    """

    latency_ms: float | None = None
    percentile: int = 50
    speedup: float | None = None
    max_error: float | None = None
    mac_fraction: float | None = None
    memory_bytes: int | None = None
    uniform_rank: int | None = None
    total_rank: int | None = None
    layer_ranks: Mapping[str, LayerRank] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_number("latency_ms", self.latency_ms, above=0.0)
        _check_number("speedup", self.speedup, above=0.0)
        _check_number("max_error", self.max_error, at_least=0.0)
        _check_number("mac_fraction", self.mac_fraction, above=0.0)
        _check_number("memory_bytes", self.memory_bytes, above=0.0)
        _check_number("uniform_rank", self.uniform_rank, at_least=1)
        _check_number("total_rank", self.total_rank, at_least=1)
        if self.mac_fraction is not None and self.mac_fraction > 1:
            raise BudgetError(f"mac_fraction: expected a share above 0 up to 1, got {self.mac_fraction}")
        if not 1 <= self.percentile <= 99:
            raise BudgetError(f"percentile: expected 1 to 99, got {self.percentile}")
        if self.latency_ms is not None and self.speedup is not None:
            raise BudgetError("latency_ms and speedup: give one of the two, got both")
        if self.uniform_rank is not None and self.total_rank is not None:
            raise BudgetError("uniform_rank and total_rank: give one of the two, got both")

    @property
    def fixes_ranks(self) -> bool:
        """Whether the user chose ranks, which are obeyed even when the result is slower."""
        return not self.leaves_layers_free or bool(self.layer_ranks)

    @property
    def leaves_layers_free(self) -> bool:
        """Whether ranks of layers that are not named are left to the planner."""
        return self.uniform_rank is None and self.total_rank is None

    def without_ranks(self) -> Budget:
        """The other limits alone."""
        return replace(self, uniform_rank=None, total_rank=None, layer_ranks={})

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; only what is set."""
        values: dict[str, Any] = {}
        for name in _NUMBERS:
            value = getattr(self, name)
            if value is not None:
                values[name] = value
        if self.latency_ms is not None:
            values["percentile"] = self.percentile
        if self.layer_ranks:
            values["layer_ranks"] = {
                name: {"scheme": choice.scheme, "rank": choice.rank} for name, choice in self.layer_ranks.items()
            }
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Budget:
        """Inverse of :meth:`to_json`.

        Raises:
            BudgetError: an unknown key or an unusable value.
        """
        known = {*_NUMBERS, "percentile"}
        unknown = set(values) - known - {"layer_ranks"}
        if unknown:
            raise BudgetError(f"budget: unknown key {sorted(unknown)[0]!r}; expected one of {sorted(known)}")
        layer_ranks = {
            name: LayerRank(choice.get("scheme", "dac"), _rank_from_json(choice.get("rank")))
            for name, choice in values.get("layer_ranks", {}).items()
        }
        return cls(**{name: values[name] for name in known if name in values}, layer_ranks=layer_ranks)


def _rank_from_json(value: Any) -> Rank | None:
    if isinstance(value, (list, tuple)):
        return (int(value[0]), int(value[1]))
    return None if value is None else int(value)


def _check_number(name: str, value: float | None, *, above: float | None = None, at_least: float | None = None) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise BudgetError(f"{name}: expected a finite number, got {value}")
    if above is not None and value <= above:
        raise BudgetError(f"{name}: expected a number above {above:g}, got {value}")
    if at_least is not None and value < at_least:
        raise BudgetError(f"{name}: expected a number of at least {at_least:g}, got {value}")
