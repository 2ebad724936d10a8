"""A plan and an operating point as values and JSON. Light: the daemon imports it too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from edge_dac.convolution import Rank

PLAN_FORMAT = 1


@dataclass(frozen=True, slots=True)
class LayerChoice:
    """What was chosen for one layer.

    ``latency_ms`` and ``dense_latency_ms`` are the predicted milliseconds of the choice and of the layer as it was;
    ``error`` is the relative error of the layer's output on held-out synthetic patches (0 for exact choices).
    """

    layer: str
    scheme: str
    rank: Rank | None
    lowering: str
    macs: int
    dense_macs: int
    latency_ms: float
    dense_latency_ms: float
    error: float


@dataclass(frozen=True, slots=True)
class Refused:
    """A layer left as it is, with the reason."""

    layer: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Plan:
    """One choice per layer.

    Attributes:
        model_digest: sha256 of the original model file, hex.
        choices: one for each layer that could be considered; ``dense``/``direct`` where it stays.
        refused: layers that could not be considered.
        input_shapes: the shapes the plan was made at.
        threads: intra-op threads the plan was made for.
        original_latency_ms, predicted_latency_ms: whole model, median.
        measured_latency_ms, measured_ratio: whole model after building, interleaved with the original; None if not measured.
        latency_p95_ms: 95th percentile of the measured latency.
        predicted_error: relative error of the model's outputs on held-out synthetic images.
        macs, original_macs: multiply-accumulates of all layers.
        device_fingerprint: device the measurements belong to.
        budget: what was asked for, as JSON.
        assumptions: what was assumed about inputs and reported (range, layout).
        warnings: lines the user should read.
    """

    model_digest: str
    choices: tuple[LayerChoice, ...]
    refused: tuple[Refused, ...]
    input_shapes: Mapping[str, tuple[int, ...]]
    threads: int
    original_latency_ms: float
    predicted_latency_ms: float
    measured_latency_ms: float | None
    measured_ratio: float | None
    latency_p95_ms: float | None
    predicted_error: float
    macs: int
    original_macs: int
    device_fingerprint: str
    budget: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    assumptions: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    format: int = PLAN_FORMAT

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Plan:
        """Inverse of :meth:`to_json` after a round trip through JSON text."""
        fields = dict(values)
        fields["choices"] = tuple(
            LayerChoice(
                **{**choice, "rank": tuple(choice["rank"]) if isinstance(choice["rank"], list) else choice["rank"]}
            )
            for choice in values["choices"]
        )
        fields["refused"] = tuple(Refused(**refused) for refused in values["refused"])
        fields["input_shapes"] = {name: tuple(shape) for name, shape in values["input_shapes"].items()}
        fields["assumptions"] = tuple(values.get("assumptions", ()))
        fields["warnings"] = tuple(values.get("warnings", ()))
        return cls(**fields)
