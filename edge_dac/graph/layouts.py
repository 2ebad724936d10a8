"""Arranging changes of layout so that ONNX Runtime merges them with its own.

A lowering that works channels last ends in a ``Transpose``. ONNX Runtime merges that with the reordering into its blocked
layout, or cancels it against the ``Transpose`` of a next such layer, but only where the two stand side by side:

1. Additions, concatenations and enlargements run in the blocked layout only where all that they read is in it; one map
   that is not puts them, and the reordering of the others, into the plain layout. Pooling and convolutions fetch their
   input into the blocked layout whatever it was: one that changes nothing is put before such a reader, and only runtimes
   with a blocked layout gain by it. It costs one pass over the map: a pooling over single pixels. Where the lowering
   adds a bias, strip by strip, a depthwise convolution with one tap of 1 takes over the bias and the activation
   behind it, which makes two passes less, and pays before any reader but the ``Transpose`` of a next such layer. Where that
   reader is a max pooling, it goes first and leaves a fraction of the pixels.
2. An activation behind the ``Transpose`` otherwise changes places with it; between them it costs two passes.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Set
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from edge_dac.graph.scopes import (
    Array,
    Scope,
    count_uses,
    drop_unused,
    forget_value,
    is_default_domain,
    unique_name,
    value_names,
    walk,
)

_ACTIVATIONS = frozenset({"Relu", "LeakyRelu", "Clip", "Elu", "HardSwish", "Tanh"})
"""Elementwise in their first input. Not those that end a model: what is before them stands for its outputs."""
_FUSED_ACTIVATIONS = frozenset({"Relu", "LeakyRelu", "Clip", "Tanh"})
"""Those of them that ONNX Runtime computes within a convolution."""
_MONOTONE_ACTIVATIONS = frozenset({"Relu", "Clip", "Tanh"})
"""Those that never decrease, whatever their attributes are."""
_CHANNELS_LAST_READERS = frozenset({"Transpose"}) | (_ACTIVATIONS - _FUSED_ACTIVATIONS)
"""What is better served as it is: a next such layer, and what then moves before the ``Transpose``."""
_FOLLOWERS = frozenset({"Add", "Sum", "Mul", "Concat", "Resize", "Upsample"})
"""What runs in the blocked layout only where its inputs are there already."""
_BLOCKED_DOMAIN = "com.microsoft.nchwc"


def merge_layouts(model: onnx.ModelProto, tensors: Set[str]) -> None:
    """Apply both rules, in place, to every ``Transpose`` that writes one of ``tensors``."""
    names: set[str] = set()
    released: set[str] = set()
    for scope in walk(model):
        writers = {node.output[0]: node for node in scope.graph.node if _writes(node, tensors)}
        if not writers:
            continue
        names = names or value_names(model)
        if runtime_has_blocked_layout():
            anchored = _anchor_biased(scope, writers, names, released)
            writers = {tensor: node for tensor, node in writers.items() if tensor not in anchored}
        settled = _sink(scope.graph, writers, names)
        if runtime_has_blocked_layout():
            _anchor(scope.graph, settled, names)
    drop_unused(model, released)


@functools.cache
def runtime_has_blocked_layout() -> bool:
    """Whether ONNX Runtime on this device puts convolutions into its blocked layout: asks it to optimise one."""
    weight = numpy_helper.from_array(np.ones((64, 64, 1, 1), np.float32), "w")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 64, 8, 8]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"])], "conv", ends[:1], ends[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        optimized = onnx.load(options.optimized_model_filepath)
    return any(node.domain == _BLOCKED_DOMAIN for node in optimized.graph.node)


def _writes(node: onnx.NodeProto, tensors: Set[str]) -> bool:
    return node.op_type == "Transpose" and is_default_domain(node) and node.output[0] in tensors


def _sink(graph: onnx.GraphProto, writers: dict[str, onnx.NodeProto], names: set[str]) -> list[str]:
    """Rule 2. Returns the tensors that the transposes write from now on."""
    uses = count_uses(graph)
    settled = dict.fromkeys(writers)
    for index, node in enumerate(graph.node):
        is_activation = node.op_type in _ACTIVATIONS and is_default_domain(node)
        if is_activation and node.input[0] in writers and uses[node.input[0]] == 1:
            del settled[node.input[0]]
            settled[node.output[0]] = None
            _swap(graph, writers[node.input[0]], index, names)
    return list(settled)


def _swap(graph: onnx.GraphProto, transpose: onnx.NodeProto, index: int, names: set[str]) -> None:
    """``activation(transpose(x))`` becomes ``transpose(activation(x))``; the activation is at ``index``."""
    activation = graph.node[index]
    between, result = activation.input[0], activation.output[0]
    forget_value(graph, between)
    moved = onnx.NodeProto()
    moved.CopyFrom(transpose)
    activation.input[0] = transpose.input[0]
    activation.output[0] = moved.input[0] = unique_name(f"{between}/activated", names)
    moved.output[0] = result
    # The transpose moves to behind the activation, so that every node still follows what it reads.
    del graph.node[_place(graph, between)]
    graph.node.insert(index, moved)


def _anchor_biased(scope: Scope, writers: dict[str, onnx.NodeProto], names: set[str], released: set[str]) -> set[str]:
    """Rule 1 where there is a bias to take over. Returns the tensors that a convolution writes from now on."""
    anchored = set()
    for tensor, transpose in writers.items():
        read_from = _behind_activation(scope.graph, tensor)
        readers = _readers(scope.graph, read_from)
        operators = {node.op_type for node in readers}
        wanted = operators & _FOLLOWERS or (operators and operators.isdisjoint(_CHANNELS_LAST_READERS))
        bias = _take_bias(scope, transpose, released) if wanted and _is_map(transpose) else None
        if bias is None:
            continue
        constants = {"weight": np.ones((len(bias), 1, 1, 1), bias.dtype), "bias": bias}
        inputs = [unique_name(f"{tensor}/{name}", names) for name in constants]
        for name, values in zip(inputs, constants.values(), strict=True):
            scope.add_initializer(numpy_helper.from_array(values, name))
        _insert_anchor(scope.graph, transpose, names, "Conv", inputs, group=len(bias))
        if operators == {"MaxPool"} and count_uses(scope.graph)[read_from] == 1:
            _pool_first(scope.graph, transpose, readers[0], names)
        anchored.add(tensor)
    return anchored


def _pool_first(graph: onnx.GraphProto, transpose: onnx.NodeProto, pooling: onnx.NodeProto, names: set[str]) -> None:
    """``pool(activation(anchor(x)))`` becomes ``activation(anchor(pool(x)))``, on as many pixels less.

    The same to the last bit: neither adding a bias nor an activation puts two values into another order.
    """
    (anchor,) = _readers(graph, transpose.output[0])
    behind = [] if pooling.input[0] == anchor.output[0] else _readers(graph, anchor.output[0])
    if any(node.op_type not in _MONOTONE_ACTIVATIONS for node in behind) or len(pooling.output) > 1:
        return
    result = pooling.output[0]
    for name in {anchor.output[0], pooling.input[0]}:
        forget_value(graph, name)
    moved = onnx.NodeProto()
    moved.CopyFrom(pooling)
    moved.input[0] = transpose.output[0]
    moved.output[0] = anchor.input[0] = unique_name(f"{pooling.name or pooling.op_type}/maxima", names)
    del graph.node[_place(graph, result)]
    graph.node.insert(_place(graph, transpose.output[0]) + 1, moved)
    for node in behind:
        node.input[0] = anchor.output[0] = unique_name(f"{anchor.output[0]}/pooled", names)
    (behind or [anchor])[-1].output[0] = result


def _anchor(graph: onnx.GraphProto, tensors: list[str], names: set[str]) -> None:
    """Rule 1 where there is no bias: a pooling over single pixels."""
    for tensor in tensors:
        transpose = graph.node[_place(graph, tensor)]
        if _is_map(transpose) and any(node.op_type in _FOLLOWERS for node in _readers(graph, tensor)):
            _insert_anchor(graph, transpose, names, "MaxPool", [])


def _is_map(transpose: onnx.NodeProto) -> bool:
    """Whether there are two spatial axes: others have no blocked layout."""
    return len(transpose.attribute[0].ints) == 4


def _insert_anchor(
    graph: onnx.GraphProto,
    transpose: onnx.NodeProto,
    names: set[str],
    operator: str,
    constants: list[str],
    **attributes: Any,
) -> None:
    """Put a node over single pixels between ``transpose`` and the tensor that it writes."""
    tensor = transpose.output[0]
    place = _place(graph, tensor)
    plain = unique_name(f"{tensor}/plain", names)
    transpose.output[0] = plain
    name = f"{transpose.name}/blocked"
    node = helper.make_node(operator, [plain, *constants], [tensor], name, kernel_shape=[1, 1], **attributes)
    graph.node.insert(place + 1, node)


def _behind_activation(graph: onnx.GraphProto, tensor: str) -> str:
    """What the activation writes that alone reads ``tensor`` and can be part of a convolution; else ``tensor``."""
    readers = _readers(graph, tensor)
    fuses = len(readers) == 1 and readers[0].op_type in _FUSED_ACTIVATIONS
    return readers[0].output[0] if fuses and count_uses(graph)[tensor] == 1 else tensor


def _take_bias(scope: Scope, transpose: onnx.NodeProto, released: set[str]) -> Array | None:
    """The bias ``[n]`` that all strips before ``transpose`` add as their last step, and no longer do then."""
    last = scope.producer(transpose.input[0])
    if last is None:
        return None
    strips = list(last.input) if last.op_type == "Concat" else list(transpose.input)
    reader = last if last.op_type == "Concat" else transpose
    additions = [scope.producer(name) for name in strips]
    rows = []
    for node in additions:
        addend = scope.constant(node.input[1]) if node is not None and node.op_type == "Add" else None
        if addend is None:
            return None
        rows.append(addend.reshape(-1, addend.shape[-1]))
    bias: Array = rows[0][0].copy()
    if any(np.any(row != bias) for row in rows):
        return None
    for index, node in enumerate(additions):
        assert node is not None
        released.add(node.input[1])
        reader.input[index] = node.input[0]
        del scope.graph.node[_place(scope.graph, node.output[0])]
    return bias


def _readers(graph: onnx.GraphProto, tensor: str) -> list[onnx.NodeProto]:
    """Nodes of the graph itself that read ``tensor``, without those of other domains."""
    return [node for node in graph.node if tensor in node.input and is_default_domain(node)]


def _place(graph: onnx.GraphProto, tensor: str) -> int:
    """Index of the node that writes ``tensor``."""
    return next(place for place, node in enumerate(graph.node) if tensor in node.output)
