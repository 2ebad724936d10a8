"""Exact folds that leave more to gain: what a layer's neighbours do linearly becomes part of the layer.

Rules (``x`` input, ``W`` weight, ``b`` bias of a ``Conv``):

1. ``BatchNormalization(Conv(x))`` in inference mode, where nothing else reads the convolution: with
   ``s = scale / sqrt(variance + epsilon)`` the weight becomes ``s W`` and the bias ``s (b - mean) + shift``, computed
   in float64 and rounded once to the type of the model.
2. ``Conv(Pad(x))`` where the padding is constant, zero, not negative and on spatial axes only: the pads are added to
   those of the convolution.
3. ``Resize`` by a whole number, where the model fixes its sizes: see :mod:`edge_dac.graph.resizing`.
4. Operator set 9 becomes 10 where nothing changes by it: see :mod:`edge_dac.graph.operator_sets`.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edge_dac.graph.operator_sets import raise_operator_set
from edge_dac.graph.resizing import fix_scales
from edge_dac.graph.scopes import (
    Array,
    Scope,
    attributes,
    count_uses,
    default_opset,
    drop_unused,
    forget_value,
    is_default_domain,
    unique_name,
    value_names,
    walk,
)

_PADS_ARE_INPUTS_SINCE_OPSET = 11


def canonicalize(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the model with the folds done; where nothing can be folded, an equal copy.

    Raises:
        ModelFormatError: a constant whose data do not fit its shape and type.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    canonicalize_in_place(result)
    return result


def canonicalize_in_place(model: onnx.ModelProto) -> None:
    """:func:`canonicalize` without the copy, which of a large model is hundreds of megabytes.

    Raises:
        ModelFormatError: a constant whose data do not fit its shape and type.
    """
    folding = _Folding(model)
    for scope in list(walk(model)):
        folding.fold(scope)
    drop_unused(model, folding.released - {""})
    fix_scales(model)
    raise_operator_set(model)


class _Folding:
    """The state of one pass over a model: how often the names of a graph are read, which are taken, which may go."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.opset = default_opset(model)
        self.uses: Counter[str] = Counter()
        self.names = value_names(model)
        self.released: set[str] = set()

    def fold(self, scope: Scope) -> None:
        """Fold everything in one graph, its inner graphs not included."""
        nodes = scope.graph.node
        self.uses = count_uses(scope.graph)
        writers = {node.output[0]: index for index, node in enumerate(nodes) if node.output}
        folded: set[int] = set()
        for index, node in enumerate(nodes):
            source = writers.get(node.input[0]) if node.input else None
            if source is None or not (is_default_domain(node) and is_default_domain(nodes[source])):
                continue
            kinds = (nodes[source].op_type, node.op_type)
            if kinds == ("Conv", "BatchNormalization") and self._fold_norm(scope, nodes[source], node):
                writers[node.output[0]] = source
                folded.add(index)
            elif kinds == ("Pad", "Conv") and self._fold_pad(scope, nodes[source], node):
                folded.add(source)
        for index in sorted(folded, reverse=True):
            del nodes[index]

    def _fold_norm(self, scope: Scope, conv: onnx.NodeProto, norm: onnx.NodeProto) -> bool:
        """Rule 1. The convolution takes over the output of the normalization."""
        intermediate = conv.output[0]
        inference = not attributes(norm).get("training_mode", 0) and len([name for name in norm.output if name]) == 1
        if self.uses[intermediate] != 1 or not inference:
            return False
        normalized = _normalized(scope, conv, norm)
        if normalized is None:
            return False
        self.released.update((*conv.input[1:], *norm.input[1:]))
        subject = conv.name or norm.output[0]
        data = conv.input[0]
        del conv.input[:]
        conv.input.append(data)
        for suffix, value in zip(("folded_weight", "folded_bias"), normalized, strict=True):
            conv.input.append(unique_name(f"{subject}/{suffix}", self.names))
            scope.add_initializer(numpy_helper.from_array(value, conv.input[-1]))
        conv.output[0] = norm.output[0]
        forget_value(scope.graph, intermediate)
        return True

    def _fold_pad(self, scope: Scope, pad: onnx.NodeProto, conv: onnx.NodeProto) -> bool:
        """Rule 2. Returns whether nothing reads the padding any more, so that it can go."""
        values = attributes(conv)
        weight = scope.constant(conv.input[1])
        if weight is None or values.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
            return False
        axes = weight.ndim - 2
        extra = self._zero_pads(scope, pad, axes)
        if extra is None:
            return False
        own = values.get("pads", [0] * (2 * axes))
        if not isinstance(own, list) or len(own) != len(extra):
            return False
        kept = [attribute for attribute in conv.attribute if attribute.name not in ("pads", "auto_pad")]
        del conv.attribute[:]
        conv.attribute.extend(kept)
        conv.attribute.append(helper.make_attribute("pads", [a + b for a, b in zip(own, extra, strict=True)]))
        self.uses[pad.output[0]] -= 1
        self.uses[pad.input[0]] += 1
        conv.input[0] = pad.input[0]
        unread = self.uses[pad.output[0]] == 0
        if unread:
            self.released.update(pad.input[1:])
            forget_value(scope.graph, pad.output[0])
        return unread

    def _zero_pads(self, scope: Scope, pad: onnx.NodeProto, axes: int) -> list[int] | None:
        """Begins, then ends of the spatial axes; None where the padding is something else than zeros there."""
        values = attributes(pad)
        if values.get("mode", b"constant") != b"constant":
            return None
        if self.opset < _PADS_ARE_INPUTS_SINCE_OPSET:
            fill, found, over = values.get("value", 0.0), values.get("pads"), None
        else:
            inputs = [scope.constant(name) if name else None for name in (*pad.input, "", "")]
            if any(name and value is None for name, value in zip(pad.input[1:], inputs[1:], strict=False)):
                return None
            found, fill, over = inputs[1], 0.0 if inputs[2] is None else inputs[2], inputs[3]
        rank = axes + 2
        pads = np.asarray(found, np.int64).ravel() if found is not None else np.empty(0, np.int64)
        where = np.arange(rank) if over is None else np.asarray(over, np.int64).ravel() % rank
        if np.any(np.asarray(fill) != 0) or pads.size != 2 * where.size or np.any(pads < 0):
            return None
        full = np.zeros((2, rank), np.int64)
        full[:, where] = pads.reshape(2, -1)
        return None if full[:, :2].any() else [int(extent) for extent in full[:, 2:].ravel()]


def _normalized(scope: Scope, conv: onnx.NodeProto, norm: onnx.NodeProto) -> tuple[Array, Array] | None:
    """Weight and bias of the convolution with the normalization in it; None if something is not constant or finite."""
    constants = [scope.constant(name) for name in (*conv.input[1:2], *norm.input[1:])]
    has_bias = len(conv.input) > 2 and bool(conv.input[2])
    bias = scope.constant(conv.input[2]) if has_bias else None
    present = [constant for constant in constants if constant is not None]
    if len(present) != 5 or (has_bias and bias is None):
        return None
    weight, scale, shift, mean, variance = (constant.astype(np.float64) for constant in present)
    channels = weight.shape[0]
    if any(vector.shape != (channels,) for vector in (scale, shift, mean, variance)):
        return None
    epsilon = float(str(attributes(norm).get("epsilon", 1e-5)))
    with np.errstate(all="ignore"):
        factor = scale / np.sqrt(variance + epsilon)
        own_bias = np.zeros(channels) if bias is None else bias.astype(np.float64)
        dtype = present[0].dtype
        folded = (weight * factor.reshape(-1, *(1,) * (weight.ndim - 1))).astype(dtype)
        folded_bias = ((own_bias - mean) * factor + shift).astype(dtype)
    return (folded, folded_bias) if np.isfinite(folded).all() and np.isfinite(folded_bias).all() else None
