"""First and second moments of every layer's input patches, by running the model on samples."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from edge_dac.convolution import ConvAttributes, ConvLayer, FloatArray
from edge_dac.schemes.scheme import Moments
from edge_dac.statistics.execution import Inputs, extract, feeds, open_session

PATCHES_PER_LAYER = 6000
MEMORY_BYTES = 120_000_000
_ROWS_AT_ONCE = 512
_BLOCK = 768
WIDEST_PATCH = 6000
"""Layers with longer patches are left out: their covariance would not fit a small device."""


@dataclass(frozen=True, slots=True)
class _Source:
    """A layer and the tensor that it reads."""

    layer: ConvLayer
    tensor: str


def collect_moments(
    model: onnx.ModelProto,
    layers: Sequence[ConvLayer],
    inputs: Inputs,
    input_shapes: Mapping[str, Sequence[int]],
    *,
    patches_per_layer: int = PATCHES_PER_LAYER,
    seed: int = 0,
    threads: int = 1,
    memory_bytes: int = MEMORY_BYTES,
) -> Iterator[tuple[str, Moments]]:
    """Layer name and moments, layer by layer in the order of the graph.

    The model is run once for each group of layers whose sums fit ``memory_bytes`` together. Patches are taken at
    output positions drawn at random, the same number from every run; positions in the zero padding count as zeros.
    Left out are layers inside ``If``, ``Loop`` and ``Scan``, layers with patches longer than :data:`WIDEST_PATCH` and
    layers that see a number that is not finite.

    Args:
        model: the graph that ``layers`` were found in.
        inputs: samples for every input, ``[count, *shape without batch]``.
        input_shapes: shapes the model is run at, batch included.
        patches_per_layer: how many patches to aim at (fewer where a layer has fewer output positions).
        seed: of the positions.
        threads: of ONNX Runtime.
        memory_bytes: bound on the sums of a group of layers; its activations for one batch come on top.

    Raises:
        UsageError: an input has no samples.
    """
    rng = np.random.default_rng(seed)
    for group in _groups(_sources(model, layers), memory_bytes):
        sums = _gather(model, group, inputs, input_shapes, patches_per_layer, rng, threads)
        for source in group:
            moments = sums.pop(source.layer.name).moments()
            if moments is not None:
                yield source.layer.name, moments


class MomentsSum:
    """Sums that the moments of one layer are made of; patches may come in any number of parts."""

    def __init__(self) -> None:
        self._count = 0
        self._pending: list[FloatArray] = []
        self._shift: FloatArray | None = None
        self._first: npt.NDArray[np.float64] | None = None
        self._second: FloatArray | None = None

    def add(self, patches: FloatArray) -> None:
        """Add ``[count, groups, d]`` float32 patches, which are used up."""
        self._pending.append(patches)
        if sum(map(len, self._pending)) >= _ROWS_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        """Fold the pending patches into the sums: few large products are faster than many small ones."""
        if not self._pending:
            return
        patches = np.concatenate(self._pending) if len(self._pending) > 1 else self._pending[0]
        self._pending.clear()
        if self._shift is None or self._first is None or self._second is None:
            # Centred near the mean, sums of squares lose nothing to cancellation in float32.
            self._shift = patches.mean(axis=0, dtype=np.float64).astype(np.float32)
            self._first = np.zeros(self._shift.shape)
            self._second = np.zeros((*self._shift.shape, self._shift.shape[1]), dtype=np.float32)
        patches -= self._shift
        self._count += len(patches)
        self._first += patches.sum(axis=0, dtype=np.float64)
        for group, total in enumerate(self._second):
            rows = patches[:, group]
            for begin, end in _blocks(len(total)):
                total[begin:end, :end] += rows[:, begin:end].T @ rows[:, :end]

    def moments(self) -> Moments | None:
        """Moments of everything added, the sums being used up; None if a number was not finite or there is none."""
        self._flush()
        if self._shift is None or self._first is None or self._second is None:
            return None
        offset = self._first / self._count
        covariance, self._second = self._second, None
        for matrix, row in zip(covariance, offset.astype(np.float32), strict=True):
            for begin, end in _blocks(len(matrix)):
                matrix[begin:end, :end] /= np.float32(self._count)
                matrix[begin:end, :end] -= np.outer(row[begin:end], row[:end])
                matrix[:begin, begin:end] = matrix[begin:end, :begin].T
        mean = (self._shift + offset).astype(np.float32)
        if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
            return None
        return Moments(mean, covariance, self._count)


def _blocks(length: int) -> Iterator[tuple[int, int]]:
    """Block rows of a symmetric matrix: half the products, and no second matrix of its size in between."""
    for begin in range(0, length, _BLOCK):
        yield begin, min(begin + _BLOCK, length)


def _sources(model: onnx.ModelProto, layers: Sequence[ConvLayer]) -> list[_Source]:
    nodes = {node.output[0]: node for node in model.graph.node if node.output}
    for node in reversed(model.graph.node):
        if node.name:
            nodes[node.name] = node
    return [
        _Source(layer, nodes[layer.name].input[0])
        for layer in layers
        if math.prod(layer.weight.shape[1:]) <= WIDEST_PATCH
        and layer.name in nodes
        and nodes[layer.name].op_type == layer.operator
    ]


def _groups(sources: Sequence[_Source], memory_bytes: int) -> Iterator[list[_Source]]:
    group: list[_Source] = []
    used = 0
    for source in sources:
        length = math.prod(source.layer.weight.shape[1:])
        size = 4 * length * (length + _ROWS_AT_ONCE) * source.layer.attributes.groups
        if group and used + size > memory_bytes:
            yield group
            group, used = [], 0
        group.append(source)
        used += size
    if group:
        yield group


def _gather(
    model: onnx.ModelProto,
    group: Sequence[_Source],
    inputs: Inputs,
    input_shapes: Mapping[str, Sequence[int]],
    patches_per_layer: int,
    rng: np.random.Generator,
    threads: int,
) -> dict[str, MomentsSum]:
    """Layer name -> sums over the patches of all samples, for one group of layers."""
    given = set(inputs)
    tensors = list(dict.fromkeys(source.tensor for source in group))
    computed = [name for name in tensors if name not in given]
    session = open_session(extract(model, computed), threads=threads) if computed else None
    names = [value.name for value in session.get_inputs()] if session else []
    batches = list(feeds(inputs, input_shapes, dict.fromkeys([*names, *(name for name in tensors if name in given)])))
    per_batch = -(-patches_per_layer // len(batches))
    sums = {source.layer.name: MomentsSum() for source in group}
    for feed in batches:
        values: dict[str, npt.NDArray[np.generic]] = dict(feed)
        if session is not None:
            answers = session.run(computed, {name: feed[name] for name in names})
            values.update(zip(computed, answers, strict=True))
        for source in group:
            sums[source.layer.name].add(sample_patches(source.layer, values[source.tensor], per_batch, rng))
    return sums


def sample_patches(
    layer: ConvLayer,
    activation: npt.NDArray[np.generic],
    count: int,
    rng: np.random.Generator,
) -> FloatArray:
    """At most ``count`` patches ``[count, groups, d]`` of an activation, ordered as ``layer.weight[o].ravel()``."""
    if layer.axes == 0:
        rows = activation.reshape(-1, activation.shape[-1])
        chosen = _choose(rng, len(rows), count)
        return rows[chosen].reshape(len(chosen), 1, -1).astype(np.float32)
    batch, channels, *size = activation.shape
    output_size = tuple(int(extent or 0) for extent in layer.attributes.output_size(layer.kernel, tuple(size)))
    chosen = _choose(rng, batch * math.prod(output_size), count)
    image, *position = np.unravel_index(chosen, (batch, *output_size))
    index, inside = _taps(layer.attributes, layer.kernel, tuple(size), output_size, position)
    flat = activation.reshape(batch, channels, -1)
    # [count, taps, channels] -> [count, channels, taps]: the order of a kernel, channel by channel.
    values = flat[image[:, None], :, index].astype(np.float32, copy=False)
    values *= inside[:, :, None]
    groups = layer.attributes.groups
    return np.ascontiguousarray(values.swapaxes(1, 2)).reshape(len(chosen), groups, -1)


def _choose(rng: np.random.Generator, available: int, count: int) -> npt.NDArray[np.intp]:
    if available <= count:
        return np.arange(available)
    return np.sort(rng.choice(available, size=count, replace=False, shuffle=False))


def _taps(
    attributes: ConvAttributes,
    kernel: tuple[int, ...],
    size: tuple[int, ...],
    output_size: tuple[int, ...],
    position: Sequence[npt.NDArray[np.intp]],
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    """Flat input index of every tap of every patch, ``[count, taps]``, and whether it is inside the input."""
    count = len(position[0])
    index = np.zeros((count, 1), dtype=np.intp)
    inside = np.ones((count, 1), dtype=np.bool_)
    for axis, extent in enumerate(size):
        begin = _begin_pad(attributes, kernel[axis], extent, output_size[axis], axis)
        offsets = np.arange(kernel[axis]) * attributes.dilations[axis] - begin
        coordinate = position[axis][:, None] * attributes.strides[axis] + offsets
        valid = (coordinate >= 0) & (coordinate < extent)
        coordinate = np.clip(coordinate, 0, extent - 1)
        index = (index[:, :, None] * extent + coordinate[:, None, :]).reshape(count, -1)
        inside = (inside[:, :, None] & valid[:, None, :]).reshape(count, -1)
    return index, inside


def _begin_pad(attributes: ConvAttributes, kernel: int, extent: int, output: int, axis: int) -> int:
    """Padding before the first element of an axis, also where ``auto_pad`` decides it."""
    if attributes.auto_pad == "NOTSET":
        return attributes.pads[axis]
    reach = (output - 1) * attributes.strides[axis] + (kernel - 1) * attributes.dilations[axis] + 1
    total = max(0, reach - extent)
    return total // 2 if attributes.auto_pad == "SAME_UPPER" else total - total // 2
