"""From an inference request to validated arrays, and from the arrays of a run to an answer."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_dacd.executor import DEFAULT_PRIORITY
from edge_dacd.framing import InferAnswer, InferRequest, ModelInferResponse
from edge_dacd.models import ServedModel
from edge_dacd.shared_memory import SharedMemory
from edge_dacd.status import invalid
from edge_dacd.tensors import BY_NAME, BY_NUMPY, Array, TensorSpec, decode_contents, decode_raw, encode_raw

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
class OutputTarget:
    """A requested output, and where in shared memory it goes; None for into the answer."""

    spec: TensorSpec
    memory: memoryview | None
    parameters: Any = None


def read_wishes(request: InferRequest) -> Wishes:
    """The request's parameters. Unknown ones are ignored, as the protocol says.

    Raises:
        RequestError: INVALID_ARGUMENT for one of a wrong type or range.
    """
    parameters = request.message.parameters
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


def decode_inputs(model: ServedModel, request: InferRequest, memory: SharedMemory) -> dict[str, Array]:
    """The feeds of a run: every input of the model, checked against its spec.

    Raises:
        RequestError: INVALID_ARGUMENT naming the input, what was expected and what came; NOT_FOUND for an unknown
            shared memory region.
    """
    specs = {spec.name: spec for spec in model.inputs}
    tensors = request.message.inputs
    if request.raw:
        in_message = sum(_REGION not in tensor.parameters for tensor in tensors)
        if len(request.raw) != in_message:
            raise invalid(
                f"raw_input_contents: expected {in_message} entries, one for each input that is not in shared memory, "
                f"got {len(request.raw)}"
            )
    raw = iter(request.raw)
    feeds: dict[str, Array] = {}
    for tensor in tensors:
        what = f"model {model.name!r}, input {tensor.name!r}"
        spec = specs.get(tensor.name)
        if spec is None:
            raise invalid(f"{what}: expected one of {sorted(specs)}")
        if tensor.name in feeds:
            raise invalid(f"{what}: expected once, got twice")
        feeds[tensor.name] = _decode_input(spec, tensor, raw, bool(request.raw), memory, what)
    missing = [name for name in specs if name not in feeds]
    if missing:
        raise invalid(f"model {model.name!r}, input {missing[0]!r}: expected in the request, got {sorted(feeds)}")
    return feeds


def _decode_input(
    spec: TensorSpec, tensor: Any, raw: Iterable[Any], has_raw: bool, memory: SharedMemory, what: str
) -> Array:
    if tensor.datatype not in BY_NAME:
        raise invalid(f"{what}: expected datatype {spec.datatype.name}, got {tensor.datatype!r}")
    if tensor.datatype != spec.datatype.name:
        raise invalid(f"{what}: expected datatype {spec.datatype.name}, got {tensor.datatype}")
    shape = tuple(tensor.shape)
    spec.check(shape, what)
    if _REGION in tensor.parameters:
        if tensor.HasField("contents"):
            raise invalid(f"{what}: expected contents or a shared memory region, got both")
        return decode_raw(spec.datatype, shape, _region_view(tensor.parameters, memory, what), what)
    if has_raw:
        if tensor.HasField("contents"):
            raise invalid(f"{what}: expected contents or raw_input_contents, got both")
        return decode_raw(spec.datatype, shape, next(iter(raw)), what)
    if spec.datatype.contents is None and math.prod(shape) == 0:
        return np.empty(shape, dtype=spec.datatype.numpy)
    return decode_contents(spec.datatype, shape, tensor.contents, what)


def choose_outputs(model: ServedModel, request: InferRequest, memory: SharedMemory) -> list[OutputTarget]:
    """The outputs that the request names, in its order; all of the model's if it names none.

    Raises:
        RequestError: INVALID_ARGUMENT for an unknown or doubled name or a parameter that cannot be honoured; NOT_FOUND
            for an unknown shared memory region.
    """
    if not request.message.outputs:
        return [OutputTarget(spec, None) for spec in model.outputs]
    specs = {spec.name: spec for spec in model.outputs}
    targets: list[OutputTarget] = []
    for requested in request.message.outputs:
        what = f"model {model.name!r}, output {requested.name!r}"
        spec = specs.pop(requested.name, None)
        if spec is None:
            known = sorted(output.name for output in model.outputs)
            raise invalid(f"{what}: expected each of {known} at most once")
        if "classification" in requested.parameters:
            raise invalid(f"{what}: classification is not offered here; take the tensor and sort it")
        if _REGION in requested.parameters:
            view = _region_view(requested.parameters, memory, what)
            targets.append(OutputTarget(spec, view, requested.parameters))
        else:
            targets.append(OutputTarget(spec, None))
    return targets


def encode_answer(
    model: ServedModel, request_id: str, targets: Sequence[OutputTarget], arrays: Sequence[Array]
) -> InferAnswer:
    """The answer with ``arrays`` in the order of ``targets``; writes those that go to shared memory.

    Raises:
        RequestError: INVALID_ARGUMENT for an output that is larger than its place in shared memory.
    """
    answer = InferAnswer(ModelInferResponse(model_name=model.name, model_version=model.source.version, id=request_id))
    for target, value in zip(targets, arrays, strict=True):
        array = np.asarray(value)
        datatype = BY_NUMPY.get(array.dtype, target.spec.datatype)
        output = answer.message.outputs.add(name=target.spec.name, datatype=datatype.name, shape=array.shape)
        content = encode_raw(array)
        if target.memory is None:
            answer.raw.append(content)
            continue
        if len(content) > len(target.memory):
            raise invalid(
                f"model {model.name!r}, output {target.spec.name!r}: expected room for {len(content)} bytes in shared "
                f"memory, got {len(target.memory)}"
            )
        target.memory[: len(content)] = content
        output.parameters[_REGION].CopyFrom(target.parameters[_REGION])
        output.parameters[_REGION_SIZE].uint64_param = len(content)
        output.parameters[_REGION_OFFSET].CopyFrom(target.parameters[_REGION_OFFSET])
        answer.raw.append(b"")
    return answer


def deadline_of(wishes: Wishes, remaining_s: float | None, longest_s: float | None) -> float | None:
    """When a request's run must have started, on the clock of ``time.monotonic``; None for never."""
    limits = [limit for limit in (wishes.timeout_s, remaining_s, longest_s) if limit is not None]
    return time.monotonic() + min(limits) if limits else None


def _region_view(parameters: Mapping[str, Any], memory: SharedMemory, what: str) -> memoryview:
    name = parameters[_REGION].string_param
    size = _number(parameters, _REGION_SIZE, what)
    if size is None:
        raise invalid(f"{what}: expected {_REGION_SIZE}, got none")
    return memory.get(name).view(int(_number(parameters, _REGION_OFFSET, what) or 0), int(size), what)


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
