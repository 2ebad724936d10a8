"""From choices to a model, and what that model really is: its outputs and its latency beside the original."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from edge_dac.convolution import ConvLayer, Factorization
from edge_dac.device.probes import Comparison, Feeds, compare, open_session, session_options
from edge_dac.errors import VerificationError
from edge_dac.graph.detached import detach
from edge_dac.graph.rewriting import PLAN_KEY, replace_layers
from edge_dac.lowerings import LoweredLayer, lowering_of
from edge_dac.planning.candidates import Candidate
from edge_dac.planning.plan import Plan
from edge_dac.planning.subject import Subject
from edge_dac.statistics.execution import extract
from edge_dac.statistics.output_error import (
    comparable_tensors,
    features_behind,
    has_variety,
    output_error,
    output_spreads,
)

Answers = list[list[npt.NDArray[Any]]]
"""By run and tensor."""


@dataclass(frozen=True, eq=False)
class Built:
    """What was measured of a rewritten model; the model itself is built again when it is wanted, for it may be large.

    Attributes:
        size_bytes: of the serialized model, to a few bytes for each tensor.
        output_error: relative error of the outputs on held-out samples.
        error: the same, or that of the features that outputs of few numbers are made of, whichever is larger.
        comparison: latency beside the original (index 0) and the rewritten model (index 1).
    """

    size_bytes: int
    output_error: float
    error: float
    comparison: Comparison

    @property
    def ratio(self) -> float:
        """Latency relative to the original."""
        return self.comparison.undisturbed_ratio(1)


def build_model(
    subject: Subject,
    chosen: Mapping[str, tuple[Candidate, Factorization]],
    plan: Plan | None = None,
    *,
    exposed: Sequence[str] = (),
) -> onnx.ModelProto:
    """The subject with the chosen layers replaced, and the plan recorded in its metadata.

    Args:
        exposed: tensors that must be there in real numbers; they become outputs.
    """
    proto = subject.proto
    if exposed:
        proto = onnx.ModelProto()
        proto.CopyFrom(subject.proto)
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in exposed)
    metadata = {} if plan is None else {PLAN_KEY: json.dumps(plan.to_json(), separators=(",", ":"))}
    replacements = {name: _replacement(candidate, factors) for name, (candidate, factors) in chosen.items()}
    return replace_layers(proto, subject.inventory, replacements, metadata=metadata)


def _replacement(candidate: Candidate, factorization: Factorization) -> Callable[[ConvLayer, str, str], LoweredLayer]:
    def replace(layer: ConvLayer, input_name: str, output_name: str) -> LoweredLayer:
        return lowering_of(candidate.lowering).lower(layer, factorization, input_name, output_name)

    return replace


MOST_FEW = 32
"""Numbers in an output up to which the features that it is made of are judged too."""


class Verifier:
    """Holds a session of the original file and measures rewritten models beside it.

    Args:
        subject: the model.
        threads: intra-op threads of the latency runs.
        time_budget_s: for one latency comparison.
        work_threads: intra-op threads of the runs that are not timed.

    Attributes:
        spreads: of the original's outputs on the held-out samples.
        can_judge: whether those tell anything; if not, every error is 0.
        features: what outputs of few numbers are made of.
    """

    def __init__(self, subject: Subject, threads: int, time_budget_s: float, *, work_threads: int) -> None:
        self._subject = subject
        self._threads = threads
        self._work_threads = work_threads
        self._time_budget_s = time_budget_s
        self._tensors = list(comparable_tensors(subject.proto))
        self._references = self._answers(subject.proto, self._tensors)
        self.spreads = output_spreads(self._references)
        self.can_judge = has_variety(self._references)
        few = [name for name, answer in zip(self._tensors, self._references[0], strict=True) if answer.size <= MOST_FEW]
        found = [features_behind(subject.proto, name) for name in few]
        self.features = list(dict.fromkeys(name for name in found if name is not None))
        self._feature_references = self._answers(subject.proto, self.features) if self.features else []

    @cached_property
    def original(self) -> onnxruntime.InferenceSession:
        """Of the original file."""
        return open_session(self._subject.original, session_options(self._threads))

    def release(self) -> None:
        """Close that session, for it takes as much memory as the model; it is opened again where it is needed."""
        self.__dict__.pop("original", None)

    def error(self, model: onnx.ModelProto) -> float:
        """Relative squared error of a model's outputs on the held-out samples.

        Raises:
            VerificationError: an output has another number of axes than the original's, or is not finite.
        """
        return self._error_of(self._answers(model, self._tensors))

    def _error_of(self, answers: Answers) -> float:
        errors = []
        for reference, answer in zip(self._references, answers, strict=True):
            for name, expected, got in zip(self._tensors, reference, answer, strict=True):
                if expected.ndim != got.ndim:
                    raise VerificationError(f"{name}: expected shape {expected.shape}, got {got.shape}")
            errors.append(output_error(reference, answer, self.spreads))
        error = float(np.mean(errors))
        if not np.isfinite(error):
            raise VerificationError("the rewritten model answers with numbers that are not finite")
        return error

    def feature_error(self, model: onnx.ModelProto) -> float:
        """Like :meth:`error`, of :attr:`features`, which the model must expose."""
        spreads = output_spreads(self._feature_references)
        pairs = zip(self._feature_references, self._answers(model, self.features), strict=True)
        return float(np.mean([output_error(reference, answer, spreads) for reference, answer in pairs]))

    def _answers(self, model: onnx.ModelProto, tensors: Sequence[str]) -> Answers:
        feeds = self._subject.held_out_feeds_of(model)
        part = detach(extract(model, tensors))
        return self._run(open_session(part, session_options(self._work_threads)), tensors, feeds)

    def _run(self, session: onnxruntime.InferenceSession, tensors: Sequence[str], feeds: Sequence[Feeds]) -> Answers:
        names = [value.name for value in session.get_inputs()]
        return [session.run(list(tensors), {name: feed[name] for name in names}) for feed in feeds]

    def measure(self, model: onnx.ModelProto, *, feature_error: float = 0.0, precision: float = 0.01) -> Built:
        """Outputs and latency of a model, which is used up.

        Raises:
            VerificationError: its outputs have other numbers of axes or are not finite.
        """
        is_whole = self._tensors == [output.name for output in model.graph.output] and not self._subject.has_states
        error = None if is_whole else self.error(model)
        detached = detach(model)
        del model
        session = open_session(detached, session_options(self._threads))
        comparison = compare(
            [self.original, session],
            self._subject.timing_feed,
            threads=self._threads,
            precision=precision,
            time_budget_s=self._time_budget_s,
        )
        if error is None:
            error = self._error_of(self._run(session, self._tensors, self._subject.held_out_feeds))
        return Built(detached.size_bytes, error, max(error, feature_error), comparison)
