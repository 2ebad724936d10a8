"""Arranging changes of layout so that ONNX Runtime merges them with its own.

A lowering that works channels last ends in a ``Transpose``. ONNX Runtime merges that with the reordering into its blocked
layout, or cancels it against the ``Transpose`` of a next such layer, but only where the two stand side by side:

1. An activation behind the ``Transpose`` changes places with it; between them it costs two passes over the map.
2. Additions, concatenations and enlargements run in the blocked layout only where all that they read is in it; one map
   that is not puts them, and the reordering of the others, into the plain layout. Pooling and convolutions fetch their
   input into the blocked layout whatever it was: a pooling over single pixels, which changes nothing, is put before
   such a reader. It costs one pass, and only runtimes with a blocked layout gain by it.
"""

from __future__ import annotations

import functools
import tempfile
from collections import defaultdict
from collections.abc import Set
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from edge_dac.graph.scopes import count_uses, forget_value, is_default_domain, unique_name, value_names, walk

_ACTIVATIONS = frozenset({"Relu", "LeakyRelu", "Clip", "Elu", "HardSwish", "Tanh"})
"""Elementwise in their first input. Not those that end a model: what is before them stands for its outputs."""
_FOLLOWERS = frozenset({"Add", "Sum", "Mul", "Concat", "Resize", "Upsample"})
"""What runs in the blocked layout only where its inputs are there already."""
_BLOCKED_DOMAIN = "com.microsoft.nchwc"


def merge_layouts(model: onnx.ModelProto, tensors: Set[str]) -> None:
    """Apply both rules, in place, to every ``Transpose`` that writes one of ``tensors``."""
    names: set[str] = set()
    for scope in walk(model):
        writers = {node.output[0]: node for node in scope.graph.node if _writes(node, tensors)}
        if not writers:
            continue
        names = names or value_names(model)
        settled = _sink(scope.graph, writers, names)
        if runtime_has_blocked_layout():
            _anchor(scope.graph, settled, names)


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
    """Rule 1. Returns the tensors that the transposes write from now on."""
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


def _anchor(graph: onnx.GraphProto, tensors: list[str], names: set[str]) -> None:
    """Rule 2, for maps over two axes: others have no blocked layout."""
    readers = defaultdict(set)
    for node in graph.node:
        for name in node.input:
            readers[name].add(node.op_type if is_default_domain(node) else "")
    for tensor in tensors:
        place = _place(graph, tensor)
        transpose = graph.node[place]
        if len(transpose.attribute[0].ints) != 4 or not readers[tensor] & _FOLLOWERS:
            continue
        transpose.output[0] = unique_name(f"{tensor}/plain", names)
        name = f"{transpose.name}/blocked"
        pooling = helper.make_node("MaxPool", transpose.output[:], [tensor], name=name, kernel_shape=[1, 1])
        graph.node.insert(place + 1, pooling)


def _place(graph: onnx.GraphProto, tensor: str) -> int:
    """Index of the node that writes ``tensor``."""
    return next(place for place, node in enumerate(graph.node) if tensor in node.output)
