"""The model being worked on, with everything that does not depend on a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from edge_dac.device.probes import Feeds
from edge_dac.graph.canonical import canonicalize_in_place
from edge_dac.graph.detached import DetachedModel, detach
from edge_dac.graph.layers import Inventory, find_layers
from edge_dac.graph.loading import load_shared, model_digest
from edge_dac.graph.shapes import resolve_input_shapes
from edge_dac.shared_constants import share, shared_arrays
from edge_dac.statistics.execution import feeds
from edge_dac.statistics.images import synthetic_inputs
from edge_dac.statistics.input_spec import InputSpec, Layout, infer_input_specs
from edge_dac.statistics.states import with_states

FIT_IMAGES, HELD_OUT_IMAGES = 48, 16
LEAST_FIT_IMAGES, LEAST_HELD_OUT_IMAGES = 12, 6
STATE_STEPS, LEAST_STATE_STEPS = 16, 4
"""Runs from a state of zeros to the one that is sampled."""
LIGHT_MODEL_MACS = 3e9
"""Models up to this get the full number of samples, heavier ones fewer, so that planning ends in time on a slow device."""
_HELD_OUT_SEED = 1_000_003

Samples = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class InputRange:
    """What the user says of the inputs' values; None is read off the model."""

    low_high: tuple[float, float] | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None


@dataclass(frozen=True, eq=False)
class Subject:
    """A loaded model with its layers and inputs.

    Attributes:
        path: of the original file.
        digest: sha256 of the original file, hex.
        original: the model of that file, to open sessions from.
        proto: canonical form of the model.
        inventory: layers and refusals of ``proto``.
        input_shapes: complete shape of each input.
        specs: what each input expects.
        seed: of the synthetic inputs.
        calibration: real samples by input name, used in place of synthetic ones; None where there are none.
        allow_external: whether tensor data beside the file were accepted.
        constants: large ones that ``proto`` and what is made from it share (``shared_constants.py``).
    """

    path: Path
    digest: str
    original: DetachedModel
    proto: onnx.ModelProto
    inventory: Inventory
    input_shapes: Mapping[str, tuple[int, ...]]
    specs: tuple[InputSpec, ...]
    seed: int = 0
    calibration: Samples | None = None
    allow_external: bool = False
    constants: Sequence[npt.NDArray[Any]] = ()

    @cached_property
    def detached(self) -> DetachedModel:
        """The canonical model, to open sessions from."""
        return _detached_copy(self.proto)

    @cached_property
    def fit_samples(self) -> Samples:
        """Samples that factors are fitted to: ``[count, *shape without batch]`` by input."""
        if self.calibration is not None:
            return self.calibration
        return self._drawn(self._affordable(FIT_IMAGES, LEAST_FIT_IMAGES), self.seed)

    @cached_property
    def held_out_samples(self) -> Samples:
        """Samples that nothing is fitted to; always synthetic."""
        count = self._affordable(HELD_OUT_IMAGES, LEAST_HELD_OUT_IMAGES)
        return self._drawn(count, self.seed + _HELD_OUT_SEED)

    @property
    def has_states(self) -> bool:
        """Whether the model remembers something of the runs before."""
        return any(spec.layout is Layout.STATE for spec in self.specs)

    def _drawn(self, count: int, seed: int) -> Samples:
        return self._with_states(self.proto, synthetic_inputs(self.specs, count, seed), seed)

    def _with_states(self, model: onnx.ModelProto, drawn: Samples, seed: int) -> Samples:
        steps = self._affordable(STATE_STEPS, LEAST_STATE_STEPS)
        return with_states(model, self.specs, drawn, self.input_shapes, seed=seed, steps=steps)

    def held_out_feeds_of(self, model: onnx.ModelProto) -> list[Feeds]:
        """The held-out samples as feeds, with the states that ``model``, a rewritten one, comes to by itself.

        What a plan loses in one run it remembers in the next.
        """
        if not self.has_states:
            return self.held_out_feeds
        samples = self._with_states(model, self.held_out_samples, self.seed + _HELD_OUT_SEED)
        return list(feeds(samples, self.input_shapes, self.input_shapes))

    def _affordable(self, most: int, least: int) -> int:
        macs = sum(layer.macs for layer in self.inventory.layers)
        return int(np.clip(most * LIGHT_MODEL_MACS / max(macs, 1), least, most))

    @cached_property
    def held_out_feeds(self) -> list[Feeds]:
        """The held-out samples as feeds of whole batches."""
        return list(feeds(self.held_out_samples, self.input_shapes, self.input_shapes))

    @property
    def timing_feed(self) -> Feeds:
        """One feed for latency runs."""
        return self.held_out_feeds[0]

    @property
    def assumptions(self) -> tuple[str, ...]:
        return tuple(line for spec in self.specs for line in spec.assumptions)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user had better say of the inputs; nothing where real ones are at hand."""
        return () if self.calibration is not None else tuple(line for spec in self.specs for line in spec.warnings)


def load_subject(
    path: Path,
    *,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    input_range: InputRange | None = None,
    input_values: Mapping[str, float] | None = None,
    seed: int = 0,
    calibration: Path | None = None,
    allow_external: bool = False,
) -> Subject:
    """Load a model and find its layers and what its inputs expect.

    Args:
        input_values: by name, the one number that an input holds in every run.

    Raises:
        RefusedError: the model cannot be worked on (see its subclasses).
    """
    told = input_range or InputRange()
    proto, constants = load_shared(path, allow_external=allow_external)
    shapes = resolve_input_shapes(proto, input_shapes or {})
    specs = infer_input_specs(
        proto, shapes, input_range=told.low_high, mean=told.mean, std=told.std, values=input_values
    )
    original = _detached_copy(proto)
    canonicalize_in_place(proto)
    proto, folded = share(proto)
    constants = shared_arrays(proto)  # those that were folded into others may go
    del folded
    samples: Samples | None = None
    if calibration is not None:
        from edge_dac.statistics.calibration import load_calibration

        samples = load_calibration(calibration, specs)
    return Subject(
        path=path,
        digest=model_digest(path),
        original=original,
        proto=proto,
        inventory=find_layers(proto, shapes, {spec.name: spec.low for spec in specs if spec.layout is Layout.CONSTANT}),
        input_shapes=shapes,
        specs=specs,
        seed=seed,
        calibration=samples,
        allow_external=allow_external,
        constants=constants,
    )


def _detached_copy(model: onnx.ModelProto) -> DetachedModel:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return detach(copy)
