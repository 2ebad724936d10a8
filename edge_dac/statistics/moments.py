"""First and second moments of every layer's input patches, by running the model on samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar
from zlib import crc32

import numpy as np
import numpy.typing as npt
import onnx

from edge_dac.convolution import ConvAttributes, ConvLayer, FloatArray
from edge_dac.graph.exposing import Exposure, layer_nodes
from edge_dac.graph.scopes import Site
from edge_dac.schemes.scheme import Moments, ProbedMoments
from edge_dac.statistics.execution import Array, Inputs, extract, feeds, needed, open_session
from edge_dac.statistics.patch_sums import ROWS_AT_ONCE, MomentsSum, PatchSum, ProbedSum

PATCHES_PER_LAYER = 6000
MEMORY_BYTES = 120_000_000
PROBED_PATCH = 1024
"""Covariances up to this size are kept whole also where they only judge."""
PROBES = 256
"""Random directions that stand in for a large covariance; the estimate scatters by a few percent."""
WIDEST_PATCH = 6000
"""Layers with longer patches are left out: their covariance would not fit a small device."""


@dataclass(frozen=True, slots=True)
class _Source:
    """A layer and the tensor that it reads."""

    layer: ConvLayer
    tensor: str


@dataclass(frozen=True, slots=True)
class _Sampling:
    """How patches are taken.

    Attributes:
        input_shapes: shapes the model is run at, batch included.
        patches_per_layer: how many patches to aim at (fewer where a layer has fewer output positions).
        seed: of the positions.
        threads: of ONNX Runtime.
        memory_bytes: bound on the sums of a group of layers; its activations for one batch come on top.
    """

    input_shapes: Mapping[str, Sequence[int]]
    patches_per_layer: int
    seed: int
    threads: int
    memory_bytes: int


def collect_moments(
    model: onnx.ModelProto,
    layers: Sequence[ConvLayer],
    inputs: Inputs,
    input_shapes: Mapping[str, Sequence[int]],
    sites: Mapping[str, Site] | None = None,
    *,
    patches_per_layer: int = PATCHES_PER_LAYER,
    seed: int = 0,
    threads: int = 1,
    memory_bytes: int = MEMORY_BYTES,
) -> Iterator[tuple[str, Moments]]:
    """Layer name and moments, layer by layer in the order of the graph.

    The model is run in pieces, one for each group of layers whose sums fit ``memory_bytes`` together; a piece goes on from
    what the one before computed, where that takes little room, else from the inputs. Patches are taken at output positions
    drawn at random, the same number from every run; positions in the zero padding count as zeros. Left out are layers inside
    ``Loop`` and ``Scan`` and in branches that are not taken, layers with patches longer than :data:`WIDEST_PATCH` and layers
    that see a number that is not finite.

    Args:
        model: the graph that ``layers`` were found in.
        inputs: samples for every input, ``[count, *shape without batch]``.
        input_shapes: shapes the model is run at, batch included.
        sites: where the layers are in ``model``; by default nodes of their names in the main graph.
        patches_per_layer: how many patches to aim at (fewer where a layer has fewer output positions).
        seed: of the positions.
        threads: of ONNX Runtime.
        memory_bytes: bound on the sums of a group of layers; its activations for one batch come on top.

    Raises:
        UsageError: an input has no samples.
    """
    sampling = _Sampling(input_shapes, patches_per_layer, seed, threads, memory_bytes)
    part, sources = _sources(model, layers, sites)
    for layer, total in _sum_patches(part, sources, inputs, sampling, lambda layer: MomentsSum()):
        moments = total.moments()
        if moments is not None:
            yield layer.name, moments
        del moments  # Large; the next layer's sums come before it is assigned again.


def collect_judging_moments(
    model: onnx.ModelProto,
    layers: Sequence[ConvLayer],
    inputs: Inputs,
    input_shapes: Mapping[str, Sequence[int]],
    sites: Mapping[str, Site] | None = None,
    *,
    patches_per_layer: int = PATCHES_PER_LAYER,
    seed: int = 0,
    threads: int = 1,
    memory_bytes: int = MEMORY_BYTES,
) -> Iterator[tuple[str, Moments | ProbedMoments]]:
    """:func:`collect_moments` for judging factorizations only: long patches are probed, which takes far less of everything.

    Raises:
        UsageError: an input has no samples.
    """
    sampling = _Sampling(input_shapes, patches_per_layer, seed, threads, memory_bytes)

    def start(layer: ConvLayer) -> MomentsSum | ProbedSum:
        return ProbedSum(PROBES, seed) if _patch_length(layer) > PROBED_PATCH else MomentsSum()

    part, sources = _sources(model, layers, sites)
    for layer, total in _sum_patches(part, sources, inputs, sampling, start):
        moments = total.moments()
        if moments is not None:
            yield layer.name, moments


AnySum = TypeVar("AnySum", bound=PatchSum)


def _sum_patches(
    model: onnx.ModelProto,
    sources: Sequence[_Source],
    inputs: Inputs,
    sampling: _Sampling,
    start: Callable[[ConvLayer], AnySum],
) -> Iterator[tuple[ConvLayer, AnySum]]:
    """The sums of every layer over the patches of all samples."""
    groups = list(_groups(sources, sampling.memory_bytes))
    batches: list[dict[str, Array]] = list(feeds(inputs, sampling.input_shapes, list(inputs)))
    for index, group in enumerate(groups):
        later = [source.tensor for following in groups[index + 1 :] for source in following]
        sums = [start(source.layer) for source in group]
        _gather(model, list(zip(group, sums, strict=True)), batches, later, sampling)
        for source in group:
            yield source.layer, sums.pop(0)


def _sources(
    model: onnx.ModelProto, layers: Sequence[ConvLayer], sites: Mapping[str, Site] | None
) -> tuple[onnx.ModelProto, list[_Source]]:
    """What each layer reads, and a model that computes it in its main graph."""
    exposure = Exposure(model)
    nodes = layer_nodes(model, [layer for layer in layers if not is_too_wide(layer)], sites)
    sources = [
        _Source(layer, exposure.name_of(nodes[layer.name][0], nodes[layer.name][1].input[0], layer.dtype))
        for layer in layers
        if layer.name in nodes
    ]
    return exposure.model, sources


def is_too_wide(layer: ConvLayer) -> bool:
    """Whether the layer's patches are longer than :data:`WIDEST_PATCH`."""
    return _patch_length(layer) > WIDEST_PATCH


def _groups(sources: Sequence[_Source], memory_bytes: int) -> Iterator[list[_Source]]:
    group: list[_Source] = []
    used = 0
    for source in sources:
        length = _patch_length(source.layer)
        size = 4 * length * (length + ROWS_AT_ONCE) * source.layer.attributes.groups
        if group and used + size > memory_bytes:
            yield group
            group, used = [], 0
        group.append(source)
        used += size
    if group:
        yield group


def _patch_length(layer: ConvLayer) -> int:
    return math.prod(layer.weight.shape[1:])


def _gather(
    model: onnx.ModelProto,
    group: Sequence[tuple[_Source, AnySum]],
    batches: list[dict[str, Array]],
    later: Sequence[str],
    sampling: _Sampling,
) -> None:
    """Add the patches of one group of layers to its sums.

    Args:
        batches: by tensor name, for every run, what is known: the inputs, or what an earlier piece computed. Replaced,
            run by run, by what the groups that follow go on from.
        later: tensors that are wanted after this group.
    """
    known = {name: value.dtype for name, value in batches[0].items()}
    tensors = list(dict.fromkeys(source.tensor for source, _ in group))
    computed = [name for name in tensors if name not in known]
    part = extract(model, computed, known) if computed else None
    session = open_session(part, threads=sampling.threads) if part else None
    names = [value.name for value in session.get_inputs()] if session else []
    wanted_later = needed(model, later, {*known, *computed}) if later else []
    # A generator a layer: its patches do not depend on which other layers are asked about.
    generators = [np.random.default_rng([sampling.seed, crc32(source.layer.name.encode())]) for source, _ in group]
    per_batch = -(-sampling.patches_per_layer // len(batches))
    is_kept = False
    for index, batch in enumerate(batches):
        values = dict(batch)
        if session is not None:
            values.update(zip(computed, session.run(computed, {name: batch[name] for name in names}), strict=True))
        for (source, total), rng in zip(group, generators, strict=True):
            total.add(sample_patches(source.layer, values[source.tensor], per_batch, rng))
        reached = {name: values[name] for name in wanted_later}
        if index == 0:  # Else too much to keep: the next piece starts where this one did.
            is_kept = sum(value.nbytes for value in reached.values()) * len(batches) <= sampling.memory_bytes
        if is_kept:
            batches[index] = reached


def sample_patches(
    layer: ConvLayer,
    activation: npt.NDArray[np.generic],
    count: int,
    rng: np.random.Generator,
) -> FloatArray:
    """At most ``count`` patches ``[count, groups, d]`` of an activation, ordered as ``layer.weight[o].ravel()``."""
    if activation.size == 0:  # of a branch that is not taken
        return np.empty((0, layer.attributes.groups, _patch_length(layer)), np.float32)
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
