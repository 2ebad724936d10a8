"""From an inference request to validated arrays, and from the arrays of a run to an answer."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import ref

import numpy as np

from edge_dacd.executor import DEFAULT_PRIORITY
from edge_dacd.framing import AnswerFrame, ModelInferResponse
from edge_dacd.models import ServedModel
from edge_dacd.shared_memory import Region, SharedMemory
from edge_dacd.status import invalid
from edge_dacd.tensors import BY_NAME, BY_NUMPY, Array, Buffer, TensorSpec, decode_contents, decode_raw, encode_raw

_REGION, _REGION_SIZE, _REGION_OFFSET = "shared_memory_region", "shared_memory_byte_size", "shared_memory_offset"


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a request asks for beside its tensors.

    Attributes:
        priority: 1 is the most urgent.
        timeout_s: how long it may wait for its run to start; None for no limit of its own.
        max_latency_ms, max_error: choose an operating point for this request alone.
    """

    priority: int
    timeout_s: float | None
    max_latency_ms: float | None
    max_error: float | None


NO_WISHES = Wishes(DEFAULT_PRIORITY, None, None, None)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in shared memory a tensor is or goes, as a request says. ``what`` names the tensor in messages."""

    region: str
    offset: int
    byte_size: int
    what: str

    def read(self, memory: SharedMemory) -> Buffer:
        return memory.get(self.region).read(self.offset, self.byte_size, self.what)

    def find(self, memory: SharedMemory) -> Region:
        region = memory.get(self.region)
        region.check(self.offset, self.byte_size, self.what)
        return region


@dataclass(frozen=True, slots=True)
class _Input:
    """An input that a request brings, checked but for its bytes. ``what`` names it in messages."""

    spec: TensorSpec
    shape: tuple[int, ...]
    tensor: Any
    place: _Place | None
    what: str


@dataclass(frozen=True, slots=True)
class _Output:
    """A requested output; ``place`` is None for one that goes into the answer."""

    spec: TensorSpec
    what: str
    parameters: Any = None
    place: _Place | None = None


class Plan:
    """What the head of a request asks for, checked against its model: all that need not be done again for the next one.

    Attributes:
        names: of the requested outputs, in their order.

    Raises:
        RequestError: INVALID_ARGUMENT naming the input or output, what was expected and what came.
    """

    def __init__(self, model: ServedModel, message: Any, wishes: Wishes, raw_count: int) -> None:
        # A plan may be kept for long; a model that was unloaded must not.
        self._model = ref(model)
        self._name, self._version = model.name, model.source.version
        self.wishes = wishes
        self._in_message = sum(_REGION not in tensor.parameters for tensor in message.inputs)
        self._expect_count(raw_count)
        self._inputs = _check_inputs(model, message.inputs)
        self._targets = _check_outputs(model, message.outputs)
        self.names = [target.spec.name for target in self._targets]
        self._latest: tuple[list[Any], AnswerFrame | None] = ([], None)
        """What the latest answer looked like, and the frame for more of its kind."""

    def is_for(self, model: ServedModel) -> bool:
        """Whether it was made for ``model``, and not for one that had its name before."""
        return self._model() is model

    def decode(self, raw: Sequence[Buffer], memory: SharedMemory) -> dict[str, Array]:
        """The feeds of a run: every input of the model.

        Raises:
            RequestError: INVALID_ARGUMENT naming the input, what was expected and what came; NOT_FOUND for an unknown
                shared memory region.
        """
        self._expect_count(len(raw))
        taken = iter(raw)
        return {one.spec.name: _decode(one, taken, bool(raw), memory) for one in self._inputs}

    def regions(self, memory: SharedMemory) -> list[Region | None]:
        """The region of shared memory that each output goes to; None for into the answer.

        Raises:
            RequestError: INVALID_ARGUMENT or NOT_FOUND for one that is not there.
        """
        return [None if target.place is None else target.place.find(memory) for target in self._targets]

    def encode(self, request_id: str, regions: Sequence[Region | None], arrays: Sequence[Array]) -> list[Buffer]:
        """The parts of the answer with ``arrays`` in the order of the outputs; writes those that go to shared memory.

        Raises:
            RequestError: INVALID_ARGUMENT for an output that is larger than its place in shared memory.
        """
        contents: list[Buffer] = []
        key: list[Any] = []
        for target, region, array in zip(self._targets, regions, arrays, strict=True):
            content = encode_raw(array)
            key += (array.shape, array.dtype, len(content))
            if target.place is None or region is None:
                contents.append(content)
                continue
            room = target.place.byte_size
            if len(content) > room:
                raise invalid(f"{target.what}: expected room for {len(content)} bytes in shared memory, got {room}")
            region.write(target.place.offset, content, target.what)
            contents.append(b"")
        known, frame = self._latest
        if frame is None or key != known:
            frame = self._frame_for(arrays, key[2::3], [len(content) for content in contents])
            self._latest = (key, frame)
        return frame.fill(request_id, contents)

    def _frame_for(self, arrays: Sequence[Array], sizes: Sequence[int], raw_sizes: Sequence[int]) -> AnswerFrame:
        answer = ModelInferResponse(model_name=self._name, model_version=self._version)
        for target, array, size in zip(self._targets, arrays, sizes, strict=True):
            datatype = BY_NUMPY.get(array.dtype, target.spec.datatype)
            output = answer.outputs.add(name=target.spec.name, datatype=datatype.name, shape=array.shape)
            if target.place is not None:
                output.parameters[_REGION].CopyFrom(target.parameters[_REGION])
                output.parameters[_REGION_SIZE].uint64_param = size
                output.parameters[_REGION_OFFSET].CopyFrom(target.parameters[_REGION_OFFSET])
        return AnswerFrame(answer, raw_sizes)

    def _expect_count(self, raw_count: int) -> None:
        if raw_count not in (0, self._in_message):
            raise invalid(
                f"raw_input_contents: expected {self._in_message} entries, one for each input that is not in shared "
                f"memory, got {raw_count}"
            )


def read_wishes(message: Any) -> Wishes:
    """The parameters of a ``ModelInferRequest``. Unknown ones are ignored, as the protocol says.

    Raises:
        RequestError: INVALID_ARGUMENT for one of a wrong type or range.
    """
    parameters = message.parameters
    if not parameters:
        return NO_WISHES
    timeout_us = _number(parameters, "timeout", "the request")
    priority = _number(parameters, "priority", "the request")
    return Wishes(
        priority=int(priority) if priority else DEFAULT_PRIORITY,
        timeout_s=timeout_us / 1e6 if timeout_us else None,
        max_latency_ms=_number(parameters, "max_latency_ms", "the request"),
        max_error=_number(parameters, "max_error", "the request"),
    )


def _check_inputs(model: ServedModel, tensors: Iterable[Any]) -> list[_Input]:
    specs = {spec.name: spec for spec in model.inputs}
    inputs: dict[str, _Input] = {}
    for tensor in tensors:
        what = f"model {model.name!r}, input {tensor.name!r}"
        spec = specs.get(tensor.name)
        if spec is None:
            raise invalid(f"{what}: expected one of {sorted(specs)}")
        if tensor.name in inputs:
            raise invalid(f"{what}: expected once, got twice")
        if tensor.datatype != spec.datatype.name:
            got = tensor.datatype if tensor.datatype in BY_NAME else repr(tensor.datatype)
            raise invalid(f"{what}: expected datatype {spec.datatype.name}, got {got}")
        shape = tuple(tensor.shape)
        spec.check(shape, what)
        place = _read_place(tensor.parameters, what)
        if place is not None and tensor.HasField("contents"):
            raise invalid(f"{what}: expected contents or a shared memory region, got both")
        inputs[tensor.name] = _Input(spec, shape, tensor, place, what)
    missing = [name for name in specs if name not in inputs]
    if missing:
        raise invalid(f"model {model.name!r}, input {missing[0]!r}: expected in the request, got {sorted(inputs)}")
    return list(inputs.values())


def _check_outputs(model: ServedModel, requested: Sequence[Any]) -> list[_Output]:
    """The outputs that a request names, in its order; all of the model's if it names none."""
    if not requested:
        return [_Output(spec, f"model {model.name!r}, output {spec.name!r}") for spec in model.outputs]
    specs = {spec.name: spec for spec in model.outputs}
    targets: list[_Output] = []
    for output in requested:
        what = f"model {model.name!r}, output {output.name!r}"
        spec = specs.pop(output.name, None)
        if spec is None:
            known = sorted(each.name for each in model.outputs)
            raise invalid(f"{what}: expected each of {known} at most once")
        if "classification" in output.parameters:
            raise invalid(f"{what}: classification is not offered here; take the tensor and sort it")
        targets.append(_Output(spec, what, output.parameters, _read_place(output.parameters, what)))
    return targets


def _decode(wanted: _Input, raw: Iterator[Buffer], has_raw: bool, memory: SharedMemory) -> Array:
    spec, shape, what = wanted.spec, wanted.shape, wanted.what
    if wanted.place is not None:
        return decode_raw(spec.datatype, shape, wanted.place.read(memory), what)
    if has_raw:
        if wanted.tensor.HasField("contents"):
            raise invalid(f"{what}: expected contents or raw_input_contents, got both")
        return decode_raw(spec.datatype, shape, next(raw), what)
    if spec.datatype.contents is None and math.prod(shape) == 0:
        return np.empty(shape, dtype=spec.datatype.numpy)
    return decode_contents(spec.datatype, shape, wanted.tensor.contents, what)


def deadline_of(wishes: Wishes, remaining_s: float | None, longest_s: float | None) -> float | None:
    """When a request's run must have started, on the clock of ``time.monotonic``; None for never."""
    limits = [limit for limit in (wishes.timeout_s, remaining_s, longest_s) if limit is not None]
    return time.monotonic() + min(limits) if limits else None


def _read_place(parameters: Mapping[str, Any], what: str) -> _Place | None:
    if _REGION not in parameters:
        return None
    size = _number(parameters, _REGION_SIZE, what)
    if size is None:
        raise invalid(f"{what}: expected {_REGION_SIZE}, got none")
    offset = int(_number(parameters, _REGION_OFFSET, what) or 0)
    return _Place(parameters[_REGION].string_param, offset, int(size), what)


def _number(parameters: Mapping[str, Any], name: str, what: str) -> float | None:
    if name not in parameters:
        return None
    parameter = parameters[name]
    kind = parameter.WhichOneof("parameter_choice")
    if kind not in ("int64_param", "uint64_param", "double_param"):
        raise invalid(f"{what}: parameter {name!r}: expected a number, got {kind or 'nothing'}")
    value: float = getattr(parameter, kind)
    if not (math.isfinite(value) and value >= 0):
        raise invalid(f"{what}: parameter {name!r}: expected a number of at least 0, got {value}")
    return value
