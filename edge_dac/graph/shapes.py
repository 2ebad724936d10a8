"""Shapes: of the inputs, as asked for, and of every tensor at those inputs.

Static inference answers first and costs no run. What it leaves open is measured: the model runs once with a ``Shape``
node behind each tensor in question, which is exact and keeps no tensor alive.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeAlias

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from edge_dac.errors import InputShapeError
from edge_dac.graph.detached import detach, open_detached
from edge_dac.graph.scopes import Array, inner_graphs, unique_name, value_names, walk

Shape: TypeAlias = tuple[int | None, ...]

_logger = logging.getLogger(__name__)

_LARGEST_EXTENT: Final = 2**31 - 1
_SMALL_TENSOR_ELEMENTS: Final = 256
"""Larger initializers cannot be shapes, so inference never needs their values."""

_DATA_DEPENDENT: Final = frozenset(
    {"Compress", "Loop", "NonMaxSuppression", "NonZero", "Range", "Scan", "SequenceAt", "StringSplit", "TopK", "Unique"}
)
"""Operators whose output shape can depend on values, not only on shapes."""

_SHAPE_OPERANDS: Final[Mapping[str, tuple[int, ...]]] = {
    "CenterCropPad": (1,),
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "OneHot": (1,),
    "Pad": (1, 3),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Tile": (1, 2),
    "Upsample": (1,),
}
"""Operators whose output shape follows from the values of some of their inputs, by place."""


def declared_inputs(model: onnx.ModelProto) -> dict[str, Shape]:
    """Inputs that a caller must give, with the extents that the model fixes; None where it leaves them open.

    Raises:
        InputShapeError: an input that is not a tensor, or whose number of axes is unknown.
    """
    initializers = {tensor.name for tensor in model.graph.initializer}
    initializers |= {tensor.values.name for tensor in model.graph.sparse_initializer}
    inputs: dict[str, Shape] = {}
    for value in model.graph.input:
        if value.name in initializers:
            continue
        if not value.type.HasField("tensor_type") or not value.type.tensor_type.HasField("shape"):
            raise InputShapeError(f"input {value.name!r}: expected a tensor with a known number of axes")
        inputs[value.name] = _declared_shape(value)
    return inputs


def resolve_input_shapes(model: onnx.ModelProto, requested: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    """Complete shapes of all inputs: what the model fixes, else what is requested, else 1 for the first axis.

    An open axis of an input that is not requested has the extent of the axes of the same name elsewhere.

    Raises:
        InputShapeError: an unknown input, a contradiction to the model, or an axis that nothing determines.
    """
    declared = declared_inputs(model)
    for name in requested:
        if name not in declared:
            raise InputShapeError(f"input {name!r}: unknown; the model's inputs are {', '.join(map(repr, declared))}")
    axis_names = {value.name: _axis_names(value) for value in model.graph.input if value.name in declared}
    extents = _extents_by_axis_name(axis_names, requested)
    shapes = {}
    for name, shape in declared.items():
        if name not in requested:
            axes = zip(shape, axis_names[name], strict=True)
            shape = tuple(extents.get(axis_name) if fixed is None else fixed for fixed, axis_name in axes)
        shapes[name] = _resolve(name, shape, requested.get(name))
    return shapes


def tensor_shapes(
    model: onnx.ModelProto,
    input_shapes: Mapping[str, Sequence[int]],
    names: Iterable[str] | None = None,
    input_values: Mapping[str, float] | None = None,
) -> dict[str, Shape]:
    """Shapes of tensors in all graphs of the model at ``input_shapes``; an extent that cannot be known is None.

    Args:
        names: the tensors in question; all of the model's by default.
        input_values: by name, the one number that an input always holds.

    Raises:
        InputShapeError: the model does not run at these shapes.
    """
    shapes = _inferred_shapes(model, input_shapes)
    wanted = set(names) if names is not None else {name for node in model.graph.node for name in node.output if name}
    computed = {name for node in model.graph.node for name in node.output}
    unknown = sorted(name for name in wanted & computed if None in shapes.get(name, (None,)))
    if unknown:
        shapes.update(_measured_shapes(model, input_shapes, unknown, input_values or {}))
    return shapes


def static_shapes(
    model: onnx.ModelProto,
    input_shapes: Mapping[str, Sequence[int]],
    shapes: Mapping[str, Shape],
    input_values: Mapping[str, float] | None = None,
) -> dict[str, Shape]:
    """Which of ``shapes``, found at ``input_shapes``, hold at *every* input; an extent that may vary is None.

    Where static inference stops, and the inputs can vary in their first axis at most, extents that come out the same
    for two batch sizes are taken as fixed, unless an operator makes shapes from values.
    """
    declared = declared_inputs(model)
    fixed = _inferred_shapes(model, declared)
    unknown = [name for name in shapes if None in fixed.get(name, (None, None))[1:]]
    only_batch_varies = all(None not in shape[1:] for shape in declared.values())
    if not unknown or not only_batch_varies or _shapes_follow_values(model):
        return fixed
    open_batch = {name for name, shape in declared.items() if shape[:1] == (None,)}
    other: Mapping[str, Shape] = shapes
    if open_batch:
        larger = {
            name: (shape[0] + 1, *shape[1:]) if name in open_batch else shape for name, shape in input_shapes.items()
        }
        try:
            other = tensor_shapes(model, larger, unknown, input_values)
        except InputShapeError:
            return fixed
    return fixed | {name: _agreement(shapes[name], other[name]) for name in unknown if name in other}


def fixed_shapes(model: onnx.ModelProto, names: Iterable[str]) -> dict[str, Shape]:
    """Shapes of ``names`` as far as the model itself fixes them, whatever its inputs hold; elsewhere None.

    Raises:
        InputShapeError: an input whose number of axes is unknown, or the model does not run at the shapes it declares.
    """
    declared = declared_inputs(model)
    complete = {name: tuple(extent for extent in shape if extent is not None) for name, shape in declared.items()}
    if complete == declared and not _shapes_follow_values(model):
        return tensor_shapes(model, complete, names)
    return _inferred_shapes(model, declared)


def _extents_by_axis_name(
    axis_names: Mapping[str, Sequence[str]], requested: Mapping[str, Sequence[int]]
) -> dict[str, int]:
    """Extents of the named axes (``batch``): what is requested, where that is one number; else 1 for first axes."""
    asked: dict[str, set[int]] = {}
    for name, shape in requested.items():
        for axis_name, extent in zip(axis_names[name], shape, strict=False):  # a wrong number of axes is refused later
            asked.setdefault(axis_name, set()).add(int(extent))
    for names in axis_names.values():
        if names:
            asked.setdefault(names[0], {1})
    return {
        axis_name: next(iter(extents))
        for axis_name, extents in asked.items()
        if len(extents) == 1 and axis_name.isidentifier()
    }


def _resolve(name: str, declared: Shape, requested: Sequence[int] | None) -> tuple[int, ...]:
    if requested is None:
        requested_shape: Shape = (None,) * len(declared)
    else:
        requested_shape = tuple(requested)
        if len(requested_shape) != len(declared):
            raise InputShapeError(
                f"input {name!r}: expected {len(declared)} axes {_text(declared)}, got {len(requested_shape)}"
            )
    resolved: list[int] = []
    for axis, (fixed, asked) in enumerate(zip(declared, requested_shape, strict=True)):
        if asked is not None and not 0 < asked <= _LARGEST_EXTENT:
            raise InputShapeError(f"input {name!r}: expected a positive extent on axis {axis}, got {asked}")
        if fixed is not None and asked is not None and fixed != asked:
            raise InputShapeError(f"input {name!r}: the model fixes axis {axis} at {fixed}, got {asked}")
        extent = fixed if fixed is not None else asked
        if extent is None and axis > 0:
            raise InputShapeError(
                f"input {name!r}: axis {axis} of {_text(declared)} is open; give it, for example "
                f"--shape {name}={_example(declared)}"
            )
        resolved.append(1 if extent is None else int(extent))
    return tuple(resolved)


def _example(declared: Shape) -> str:
    open_extents = (1, *(224 for _ in declared[1:]))
    return ",".join(str(fixed or example) for fixed, example in zip(declared, open_extents, strict=True))


def _text(shape: Shape) -> str:
    return "[" + ", ".join("?" if extent is None else str(extent) for extent in shape) + "]"


def _declared_shape(value: onnx.ValueInfoProto) -> Shape:
    return tuple(
        int(dim.dim_value) if dim.HasField("dim_value") and dim.dim_value > 0 else None
        for dim in value.type.tensor_type.shape.dim
    )


def _axis_names(value: onnx.ValueInfoProto) -> tuple[str, ...]:
    """The names that the model gives to the axes; empty where it gives none."""
    return tuple(dim.dim_param for dim in value.type.tensor_type.shape.dim)


def _inferred_shapes(model: onnx.ModelProto, input_shapes: Mapping[str, Sequence[int | None]]) -> dict[str, Shape]:
    """What static inference knows; nothing where it fails, which is common in models that run well."""
    skeleton = _skeleton(model, input_shapes)
    try:
        inferred = onnx.shape_inference.infer_shapes(skeleton, check_type=False, strict_mode=False, data_prop=True)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
        _logger.info("shape inference failed: %s", str(error).splitlines()[0] if str(error) else "no reason given")
        inferred = skeleton
    shapes: dict[str, Shape] = {}
    for scope in walk(inferred):
        for value in (*scope.graph.input, *scope.graph.value_info, *scope.graph.output):
            if value.type.HasField("tensor_type") and value.type.tensor_type.HasField("shape"):
                shape = _declared_shape(value)
                # Sibling branches may use the same name for different tensors.
                shapes[value.name] = _agreement(shapes[value.name], shape) if value.name in shapes else shape
    return shapes


def _skeleton(model: onnx.ModelProto, input_shapes: Mapping[str, Sequence[int | None]]) -> onnx.ModelProto:
    """The model without its large weights and without recorded shapes, its inputs at ``input_shapes``."""
    skeleton = onnx.ModelProto()
    skeleton.ir_version = max(model.ir_version, 4)
    skeleton.opset_import.extend(model.opset_import)
    skeleton.functions.extend(model.functions)
    graph = skeleton.graph
    graph.name = model.graph.name
    graph.node.extend(model.graph.node)
    graph.sparse_initializer.extend(model.graph.sparse_initializer)
    for value in model.graph.input:
        graph.input.add().CopyFrom(value)
        if value.name in input_shapes:
            _set_shape(graph.input[-1], input_shapes[value.name])
    for value in model.graph.output:
        graph.output.add().CopyFrom(value)
        if value.type.HasField("tensor_type"):
            graph.output[-1].type.tensor_type.ClearField("shape")
    declared = {value.name for value in graph.input}
    for tensor in model.graph.initializer:
        if int(np.prod(tensor.dims, dtype=np.int64)) <= _SMALL_TENSOR_ELEMENTS:
            graph.initializer.append(tensor)
        elif tensor.name not in declared:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    return skeleton


def _set_shape(value: onnx.ValueInfoProto, shape: Sequence[int | None]) -> None:
    dims = value.type.tensor_type.shape.dim
    for dim, extent in zip(dims, shape, strict=True):
        if extent is not None:
            dim.dim_value = extent


def _measured_shapes(
    model: onnx.ModelProto,
    input_shapes: Mapping[str, Sequence[int]],
    names: Sequence[str],
    input_values: Mapping[str, float],
) -> dict[str, Shape]:
    """Run the model once and read the shapes of ``names``; nothing where the runtime cannot load it."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    taken = value_names(model)
    outputs = [unique_name(f"{name}/shape", taken) for name in names]
    for name, output in zip(names, outputs, strict=True):
        probe.graph.node.append(helper.make_node("Shape", [name], [output]))
        probe.graph.output.append(helper.make_tensor_value_info(output, TensorProto.INT64, [None]))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    try:
        session = open_detached(detach(probe), options)
    except _RUNTIME_ERRORS as error:
        _logger.info("the runtime cannot load the model to measure shapes: %s", _first_line(error))
        return {}
    try:
        values = session.run(outputs, _sample_inputs(model, input_shapes, input_values))
    except _RUNTIME_ERRORS as error:
        shapes = ", ".join(f"{name}={_text(tuple(shape))}" for name, shape in input_shapes.items())
        raise InputShapeError(f"the model does not run at {shapes}: {_first_line(error)}") from error
    return {name: tuple(int(extent) for extent in value) for name, value in zip(names, values, strict=True)}


_RUNTIME_ERRORS: Final = (
    onnxruntime.capi.onnxruntime_pybind11_state.Fail,
    onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument,
    onnxruntime.capi.onnxruntime_pybind11_state.InvalidGraph,
    onnxruntime.capi.onnxruntime_pybind11_state.InvalidProtobuf,
    onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented,
    onnxruntime.capi.onnxruntime_pybind11_state.RuntimeException,
)


def _sample_inputs(
    model: onnx.ModelProto, input_shapes: Mapping[str, Sequence[int]], input_values: Mapping[str, float]
) -> dict[str, Array]:
    """Inputs that any model survives: what is known, else small numbers, zeros as indices, empty strings."""
    generator = np.random.default_rng(0)
    samples: dict[str, Array] = {}
    for value in model.graph.input:
        if value.name in input_shapes:
            dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            shape = tuple(input_shapes[value.name])
            if value.name in input_values:
                samples[value.name] = np.full(shape, input_values[value.name]).astype(dtype)
            elif value.type.tensor_type.elem_type == TensorProto.STRING:
                samples[value.name] = np.full(shape, "", object)
            elif np.issubdtype(dtype, np.floating):
                samples[value.name] = generator.uniform(0, 1, shape).astype(dtype)
            else:
                samples[value.name] = np.zeros(shape, dtype)
    return samples


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0][:300]


def _shapes_follow_values(model: onnx.ModelProto) -> bool:
    """Whether the shape of a tensor may depend on what the inputs hold, not only on their shapes."""
    computed: set[str] = set()
    """Tensors whose values depend on the values of inputs."""
    for scope in walk(model):
        computed.update(value.name for value in scope.graph.input if scope.constant(value.name) is None)
        for node in scope.graph.node:
            if node.op_type in _DATA_DEPENDENT or node.domain not in ("", "ai.onnx", "com.microsoft"):
                return True
            operands = [node.input[place] for place in _SHAPE_OPERANDS.get(node.op_type, ()) if place < len(node.input)]
            if computed.intersection(operands):
                return True
            if node.op_type not in ("Shape", "Size") and (computed.intersection(node.input) or _holds_graph(node)):
                computed.update(node.output)
    return False


def _holds_graph(node: onnx.NodeProto) -> bool:
    return any(True for _ in inner_graphs(node))


def _agreement(left: Shape, right: Shape) -> Shape:
    if len(left) != len(right):
        return (None,) * len(left)
    return tuple(a if a == b else None for a, b in zip(left, right, strict=True))
