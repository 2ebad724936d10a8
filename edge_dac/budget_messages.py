"""Budgets and ranks between their values and the messages of the control protocol. Used by client and daemon."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge_dac import wire
from edge_dac.convolution import Rank
from edge_dac.errors import BudgetError
from edge_dac.planning.budget import Budget, LayerRank

DEFAULT_PERCENTILE = 95
"""What a latency over the wire is meant at, if it does not say: a promise to clients is about the slow requests."""
_LIMITS = ("latency_ms", "speedup", "max_error", "mac_fraction", "memory_bytes", "uniform_rank", "total_rank")


def budget_to_message(budget: Budget) -> Any:
    """The message ``edge_dac.control.v1.Budget``."""
    message = wire.message("edge_dac.control.v1.Budget")()
    for name in _LIMITS:
        value = getattr(budget, name)
        if value is not None:
            setattr(message, name, value)
    if budget.latency_ms is not None:
        message.percentile = budget.percentile
    set_layer_ranks(message.layer_ranks, budget.layer_ranks)
    return message


def budget_from_message(message: Any) -> Budget:
    """Inverse of :func:`budget_to_message`.

    Raises:
        BudgetError: a value is not usable.
    """
    values = {name: getattr(message, name) for name in _LIMITS if message.HasField(name)}
    percentile = message.percentile if message.HasField("percentile") else DEFAULT_PERCENTILE
    return Budget(
        **values,
        percentile=percentile if "latency_ms" in values else 50,
        layer_ranks=layer_ranks_from(message.layer_ranks),
    )


def set_layer_ranks(target: Any, choices: Mapping[str, LayerRank]) -> None:
    """Fill a map of ``LayerRank`` messages."""
    for layer, choice in choices.items():
        target[layer].scheme = choice.scheme
        target[layer].rank.extend(rank_numbers(choice.rank))


def layer_ranks_from(messages: Any) -> dict[str, LayerRank]:
    """The choices in a map of ``LayerRank`` messages.

    Raises:
        BudgetError: a rank has more than two numbers.
    """
    return {layer: LayerRank(one.scheme or "dac", _rank(layer, one.rank)) for layer, one in messages.items()}


def rank_numbers(rank: Rank | None) -> tuple[int, ...]:
    """A rank as the numbers of a message."""
    if rank is None:
        return ()
    return rank if isinstance(rank, tuple) else (rank,)


def _rank(layer: str, numbers: Any) -> Rank | None:
    if len(numbers) > 2:
        raise BudgetError(f"layer {layer!r}: expected one rank, or two for tucker, got {list(numbers)}")
    if len(numbers) == 2:
        return (int(numbers[0]), int(numbers[1]))
    return int(numbers[0]) if numbers else None
