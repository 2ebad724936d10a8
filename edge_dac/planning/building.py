"""From choices to a model, and what that model really is: its outputs and its latency beside the original."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from edge_dac.convolution import ConvLayer, Factorization
from edge_dac.device.probes import Comparison, compare, open_session, session_options
from edge_dac.errors import VerificationError
from edge_dac.graph.loading import serialize
from edge_dac.graph.rewriting import PLAN_KEY, replace_layers
from edge_dac.lowerings import LOWERINGS, LoweredLayer
from edge_dac.planning.candidates import Candidate
from edge_dac.planning.plan import Plan
from edge_dac.planning.subject import Subject
from edge_dac.statistics.output_error import output_error



@dataclass(frozen=True, eq=False)
class Built:
    """A rewritten model and how it compares with the original.

    Attributes:
        model: serialized.
        error: relative error of the outputs on held-out samples.
        comparison: latency beside the original (index 0) and the rewritten model (index 1).
    """

    model: bytes
    error: float
    comparison: Comparison

    @property
    def ratio(self) -> float:
        """Latency relative to the original."""
        return self.comparison.ratio(1)


def build_model(subject: Subject, chosen: Mapping[str, tuple[Candidate, Factorization]]) -> bytes:
    """The subject with the chosen layers replaced, serialized."""
    replacements = {name: _replacement(candidate, factors) for name, (candidate, factors) in chosen.items()}
    return serialize(replace_layers(subject.proto, subject.inventory, replacements), subject.path)


def _replacement(
    candidate: Candidate, factorization: Factorization
) -> Callable[[ConvLayer, str, str], LoweredLayer]:
    def replace(layer: ConvLayer, input_name: str, output_name: str) -> LoweredLayer:
        return LOWERINGS[candidate.lowering].lower(layer, factorization, input_name, output_name)

    return replace


def with_plan(model: bytes, plan: Plan) -> bytes:
    """The model with the plan recorded in its metadata.

    A protobuf message may be written in parts: the entry is appended to the serialized model, which saves parsing it.
    """
    addition = onnx.ModelProto()
    entry = addition.metadata_props.add()
    entry.key, entry.value = PLAN_KEY, json.dumps(plan.to_json(), separators=(",", ":"))
    return model + bytes(addition.SerializeToString())


class Verifier:
    """Holds a session of the original and measures rewritten models beside it.

    Args:
        subject: the model.
        threads: intra-op threads of the latency runs.
        time_budget_s: for one latency comparison.
    """

    def __init__(self, subject: Subject, threads: int, time_budget_s: float) -> None:
        self._subject = subject
        self._threads = threads
        self._time_budget_s = time_budget_s
        self.original = open_session(subject.serialized, session_options(threads))
        self._references = [self.original.run(None, feed) for feed in subject.held_out_feeds]

    def error(self, model: bytes) -> float:
        """Relative error of a model's outputs on the held-out samples."""
        return self._error(open_session(model, session_options(self._threads)))

    def _error(self, session: object) -> float:
        errors = []
        for feed, reference in zip(self._subject.held_out_feeds, self._references, strict=True):
            outputs = session.run(None, feed)  # type: ignore[attr-defined]
            for expected, got in zip(reference, outputs, strict=True):
                if np.shape(expected) != np.shape(got):
                    raise VerificationError(f"output: expected shape {np.shape(expected)}, got {np.shape(got)}")
            errors.append(output_error(reference, outputs))
        error = float(np.mean(errors))
        if not np.isfinite(error):
            raise VerificationError("the rewritten model answers with numbers that are not finite")
        return error

    def measure(self, model: bytes, *, precision: float = 0.01) -> Built:
        """Outputs and latency of a model.

        Raises:
            VerificationError: its outputs have other shapes or are not finite.
        """
        session = open_session(model, session_options(self._threads))
        error = self._error(session)
        comparison = compare(
            [self.original, session],
            self._subject.timing_feed,
            precision=precision,
            time_budget_s=self._time_budget_s,
        )
        return Built(model, error, comparison)
