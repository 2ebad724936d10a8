"""Finding out what a model expects at its inputs: told by the user, else read off the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx

from edge_dac.errors import InputShapeError, UsageError
from edge_dac.graph.pointwise import LAYERS, RECURRENT_LAYERS
from edge_dac.graph.scopes import inner_graphs
from edge_dac.statistics.execution import graph_inputs, node_inputs
from edge_dac.statistics.indices import read_indices
from edge_dac.statistics.input_values import InputSpec, Layout
from edge_dac.statistics.normalization import Normalization, stated_normalization
from edge_dac.statistics.response import respond_to_ranges
from edge_dac.statistics.states import mark_states

__all__ = ["InputSpec", "Layout", "infer_input_specs"]

_SIGNAL_LENGTH = 1000
"""From this many numbers in a row on, ``[batch, numbers]`` is taken for a wave form instead of features."""
_FIRST_STATE = 5
"""Inputs of a recurrent layer from this one on are states; the one before holds the lengths of the sequences."""


def infer_input_specs(
    model: onnx.ModelProto,
    input_shapes: Mapping[str, Sequence[int]],
    *,
    input_range: tuple[float, float] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    values: Mapping[str, float] | None = None,
) -> tuple[InputSpec, ...]:
    """Find out what each input of ``model`` expects, in the order of the graph inputs.

    The user's word counts first (for images and signals); then metadata of the model; then a normalisation at the
    head of the graph; last the response of the first layer to the usual ranges. Give the model as it was loaded,
    before batch normalisation is folded: its statistics are the best witness.

    Args:
        model: with shapes of all inputs in ``input_shapes``.
        input_shapes: complete shape of each input, batch included.
        input_range: values of black and white.
        mean, std: per channel, subtracted and divided by after that; in units of ``input_range`` (0 to 255 where
            that is not given and one of them is above 2, else 0 to 1).
        values: by input name, the one number that it always holds.

    Raises:
        InputShapeError: no shape is given for an input.
        UsageError: ``input_range``, ``mean``, ``std`` or one of ``values`` is not usable.
    """
    given = _given_normalization(input_range, mean, std)
    numbers = dict(values or {})
    specs: list[InputSpec] = []
    for value in graph_inputs(model):
        if value.name not in input_shapes:
            raise InputShapeError(f"input {value.name!r}: expected a shape, got shapes for {sorted(input_shapes)}")
        shape = tuple(int(extent) for extent in input_shapes[value.name])
        if value.name in numbers:
            specs.append(_given_constant(value, shape, numbers.pop(value.name)))
        else:
            specs.append(_read_layout(model, value, shape))
    if numbers:
        names = ", ".join(repr(spec.name) for spec in specs)
        raise UsageError(f"value of input {next(iter(numbers))!r}: unknown; the model's inputs are {names}")
    specs = mark_states(model, specs)
    for index, spec in enumerate(specs):
        if spec.is_image or spec.layout is Layout.SIGNAL:
            known = given or stated_normalization(model, spec)
            specs[index] = known.applied_to(spec) if known else respond_to_ranges(model, tuple(specs), index)
    return tuple(specs)


def _given_normalization(
    input_range: tuple[float, float] | None, mean: Sequence[float] | None, std: Sequence[float] | None
) -> Normalization | None:
    """What the user said, checked; None if nothing was said."""
    if input_range is None and mean is None and std is None:
        return None
    means, stds = tuple(mean or (0.0,)), tuple(std or (1.0,))
    if input_range is None:
        input_range = (0.0, 255.0) if max(*means, *stds, 0.0) > 2.0 else (0.0, 1.0)
    if not np.isfinite([*input_range, *means, *stds]).all():
        raise UsageError(f"input range: expected finite numbers, got range {input_range}, mean {means}, std {stds}")
    if input_range[0] >= input_range[1]:
        raise UsageError(f"input range: expected low below high, got {input_range[0]:g},{input_range[1]:g}")
    if min(stds) <= 0:
        raise UsageError(f"std: expected numbers above 0, got {', '.join(f'{value:g}' for value in stds)}")
    return Normalization(*input_range, means, stds, "given by the user")


def _given_constant(value: onnx.ValueInfoProto, shape: tuple[int, ...], number: float) -> InputSpec:
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
    with np.errstate(all="ignore"):
        fits = dtype.kind in "biuf" and np.isfinite(number) and np.isfinite(np.asarray(number).astype(dtype))
        fits = fits and (dtype.kind == "f" or float(np.asarray(number).astype(dtype)) == number)
    if not fits:
        raise UsageError(f"value of input {value.name!r}: expected a number that {dtype} can hold, got {number:g}")
    note = f"{value.name}: {number:g}; given by the user"
    return InputSpec(value.name, shape, str(dtype), Layout.CONSTANT, low=number, high=number, assumptions=(note,))


def _read_layout(model: onnx.ModelProto, value: onnx.ValueInfoProto, shape: tuple[int, ...]) -> InputSpec:
    """Layout and element type, with the range still open."""
    dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    base = InputSpec(value.name, shape, str(dtype))
    consumers = [node for node in model.graph.node if value.name in node_inputs(node)]
    indices = read_indices(model, base)
    if indices is not None:
        return indices
    if len(shape) == 4:
        return _read_image_layout(base, consumers)
    return _read_row_layout(base, consumers, _first_layer(model.graph, {value.name}))


def _read_row_layout(
    base: InputSpec, consumers: Sequence[onnx.NodeProto], first_layer: tuple[onnx.NodeProto, int] | None
) -> InputSpec:
    """Whether an input that has not the axes of an image is one all the same, a signal, or features."""
    shape = base.shape
    if len(shape) == 3 and min(shape[1:]) >= 16 and not any(node.op_type == "Conv" for node in consumers):
        note = f"{base.name}: shape {list(shape)} taken for images without a channel axis"
        return replace(base, layout=Layout.NHW, assumptions=(note,))
    layer, place = first_layer or (onnx.NodeProto(), 0)
    is_state = layer.op_type in RECURRENT_LAYERS and place >= _FIRST_STATE
    is_wave = len(shape) == 2 and (shape[1] >= _SIGNAL_LENGTH or layer.op_type == "Conv")
    if not is_state and (len(shape) >= 3 or is_wave):
        note = f"{base.name}: shape {list(shape)} taken for a signal"
        return replace(base, layout=Layout.SIGNAL, assumptions=(note,))
    note = f"{base.name}: shape {list(shape)} taken for features of mean 0 and deviation 1"
    return replace(base, layout=Layout.FEATURES, mean=(0.5,), std=(0.25,), assumptions=(note,))


def _first_layer(graph: onnx.GraphProto, reached: set[str]) -> tuple[onnx.NodeProto, int] | None:
    """The first layer that the tensors ``reached`` come to, and at which of its inputs; None without a layer."""
    for node in graph.node:
        if reached.isdisjoint(node_inputs(node)):
            continue
        if node.op_type in LAYERS:
            return node, next(place for place, name in enumerate(node.input) if name in reached)
        inner = (_first_layer(body, set(reached)) for _, body in inner_graphs(node))
        found = next((layer for layer in inner if layer is not None), None)
        if found is not None:
            return found
        reached.update(node.output)
    return None


def _read_image_layout(base: InputSpec, consumers: Sequence[onnx.NodeProto]) -> InputSpec:
    """NCHW or NHWC: by a ``Transpose`` at the input, else by where an image's channel count stands."""
    shape = base.shape
    for node in consumers:
        if node.op_type == "Transpose":
            permutation = [list(a.ints) for a in node.attribute if a.name == "perm"]
            if permutation == [[0, 3, 1, 2]]:
                note = f"{base.name}: layout NHWC, from the Transpose at the input"
                return replace(base, layout=Layout.NHWC, channels=shape[3], assumptions=(note,))
    if any(node.op_type == "Conv" for node in consumers):
        return replace(
            base,
            layout=Layout.NCHW,
            channels=shape[1],
            assumptions=(f"{base.name}: layout NCHW, from the Conv at the input",),
        )
    if shape[3] in (1, 3, 4) and shape[1] not in (1, 3, 4):
        note = f"{base.name}: layout NHWC, from the extent {shape[3]} of the last axis"
        return replace(base, layout=Layout.NHWC, channels=shape[3], assumptions=(note,))
    note = f"{base.name}: layout NCHW, from the extent {shape[1]} of the second axis"
    return replace(base, layout=Layout.NCHW, channels=shape[1], assumptions=(note,))
