"""States of recurrent models: which inputs they are, and what they hold after some runs on a signal that goes on.

A state drawn at random is none that a model ever comes to: it drowns what the signal leaves in it, and what a plan loses
with it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import onnx

from edge_dac.statistics.execution import extract, feeds, open_session
from edge_dac.statistics.input_values import InputSpec, Layout
from edge_dac.statistics.signals import signal

Samples = Mapping[str, npt.NDArray[np.generic]]

_DIRECTIONS = frozenset(
    {"in", "input", "out", "output", "new", "next", "prev", "previous", "past", "present", "init", "initial", "old"}
)
"""Words that tell a state before a run from the one after it."""
_SEED = 7_919


def mark_states(model: onnx.ModelProto, specs: Sequence[InputSpec]) -> list[InputSpec]:
    """The specs, with layout ``STATE`` for inputs that an output of like name, type and shape is the next value of.

    Names are alike but for words such as ``in`` and ``new`` and a last ``n`` or number: ``state`` and ``stateN``, ``h0`` and
    ``hn``, ``cache_in`` and ``cache_out``. Where every input had such an output, none is taken for a state.
    """
    outputs = {_stem(value.name): value for value in reversed(model.graph.output)}
    marked = [_marked(spec, outputs.get(_stem(spec.name))) for spec in specs]
    return list(specs) if all(spec.layout is Layout.STATE for spec in marked) else marked


def _stem(name: str) -> str:
    words = re.findall(r"[a-z]+|[0-9]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower())
    return " ".join(word for word in words if word not in _DIRECTIONS).rstrip(" n0123456789")


def _marked(spec: InputSpec, output: onnx.ValueInfoProto | None) -> InputSpec:
    if output is None or spec.layout not in (Layout.SIGNAL, Layout.FEATURES) or not _stem(spec.name):
        return spec
    kind = output.type.tensor_type
    dims = [dim.dim_value for dim in kind.shape.dim]
    if onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type) != np.dtype(spec.dtype):
        return spec
    if kind.HasField("shape") and (
        len(dims) != len(spec.shape) or any(d not in (0, e) for d, e in zip(dims, spec.shape, strict=True))
    ):
        return spec
    note = f"{spec.name}: shape {list(spec.shape)} taken for a state, whose next value is the output {output.name!r}"
    return replace(
        spec, layout=Layout.STATE, mean=(0.5,), std=(0.25,), next_state=output.name, assumptions=(note,), warnings=()
    )


def with_states(
    model: onnx.ModelProto,
    specs: Sequence[InputSpec],
    samples: Samples,
    input_shapes: Mapping[str, Sequence[int]],
    *,
    seed: int,
    steps: int,
) -> Samples:
    """``samples`` with states as the model leaves them, and with the signals that led there.

    Each run is the last of ``steps``, the first of which starts from states of zeros; signals go on from one to the next,
    other inputs stay. Models without states, and those whose states are of another shape or not finite, keep ``samples``.

    Args:
        samples: ``[count, *shape without batch]`` by input.
        input_shapes: of one run, batch included.

    Raises:
        UsageError: an input has no samples.
    """
    states = {spec.name: spec.next_state for spec in specs if spec.layout is Layout.STATE}
    if not states:
        return samples
    part = extract(model, list(states.values()))
    session = open_session(part, threads=1)
    read = [value.name for value in session.get_inputs()]
    filled = {name: values.copy() for name, values in samples.items()}
    rng = np.random.default_rng([seed, _SEED])
    stride = max((input_shapes[name][0] for name in samples if input_shapes[name]), default=1)
    for index, feed in enumerate(feeds(samples, input_shapes, list(samples))):
        courses = {spec.name: _course(rng, spec, index, steps) for spec in specs if spec.layout is Layout.SIGNAL}
        feed |= {name: np.zeros_like(feed[name]) for name in states}
        for step in range(steps):
            feed |= {name: course[step] for name, course in courses.items()}
            if step == steps - 1:
                break
            reached = session.run(list(states.values()), {name: feed[name] for name in read})
            for name, state in zip(states, reached, strict=True):
                if state.shape != feed[name].shape or not np.isfinite(state).all():
                    return samples
                feed[name] = state
        for name in (*states, *courses):
            rows = feed[name].reshape(-1, *filled[name].shape[1:])
            start = index * stride
            filled[name][start : start + len(rows)] = rows[: len(filled[name]) - start]
    return filled


def _course(rng: np.random.Generator, spec: InputSpec, index: int, steps: int) -> npt.NDArray[np.generic]:
    """``[steps, *spec.shape]``: one signal for every sample of a run, cut where one run ends and the next begins."""
    shape = spec.shape[1:]
    axis = int(np.argmax(shape)) if shape else 0
    whole = tuple(steps * extent if place == axis else extent for place, extent in enumerate(shape or (1,)))
    signals = [spec.from_unit(signal(rng, whole, index + place)) for place in range(spec.shape[0])]
    cut = np.split(np.stack(signals), steps, axis=axis + 1)
    return np.stack(cut).reshape(steps, *spec.shape)
