"""Walking a model's graphs, and what is constant in each of them.

A graph inside an ``If``, ``Loop`` or ``Scan`` node sees the names of the graphs around it; a constant may be an
initializer or come from a ``Constant`` node, in the same graph or further out, behind ``Identity``, ``Cast`` or
``Transpose``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from edge_dac.errors import ModelFormatError
from edge_dac.shared_constants import made_whole, shared_array

Array = npt.NDArray[np.generic]
GraphPath = tuple[tuple[int, str], ...]
"""Way from the main graph to an inner one: index of the node that holds it, name of the attribute, and so on."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where a layer's node is: the graph, and the node's index in it."""

    path: GraphPath
    index: int


DEFAULT_DOMAINS = ("", "ai.onnx")
PASS_THROUGH = ("Identity", "Cast", "Transpose")
OVERRIDABLE_SINCE_IR = 4
"""From this IR version on, an initializer that is also a graph input is only a default value."""


def is_default_domain(node: onnx.NodeProto) -> bool:
    """Whether the node's operator belongs to the standard operator set."""
    return node.domain in DEFAULT_DOMAINS


def default_opset(model: onnx.ModelProto) -> int:
    """Version of the standard operator set that the model imports; 0 if it imports none."""
    return max((int(entry.version) for entry in model.opset_import if entry.domain in DEFAULT_DOMAINS), default=0)


def attributes(node: onnx.NodeProto) -> dict[str, object]:
    """The node's attributes as Python values; strings as ``bytes``."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def inner_graphs(node: onnx.NodeProto) -> Iterator[tuple[str, onnx.GraphProto]]:
    """Graphs that the node holds, with the attribute they are in."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.name, attribute.g


@dataclass(frozen=True, eq=False)
class Scope:
    """One graph of a model and what its nodes can see."""

    graph: onnx.GraphProto
    ir_version: int
    path: GraphPath = ()
    outer: Scope | None = None
    _initializers: dict[str, onnx.TensorProto] = field(init=False)
    _producers: dict[str, onnx.NodeProto] = field(init=False)
    _inputs: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        graph = self.graph
        object.__setattr__(self, "_initializers", {tensor.name: tensor for tensor in graph.initializer})
        object.__setattr__(self, "_producers", {name: node for node in graph.node for name in node.output if name})
        object.__setattr__(self, "_inputs", frozenset(value.name for value in graph.input))

    def producer(self, name: str) -> onnx.NodeProto | None:
        """The node that computes ``name``, in this graph or around it; None for inputs and initializers."""
        owner = self._owner(name)
        return None if owner is None else owner._producers.get(name)

    def path_of(self, name: str) -> GraphPath:
        """Way to the graph that ``name``, as read in this one, belongs to; the main graph's where it is unknown."""
        owner = self._owner(name)
        return () if owner is None else owner.path

    def constant(self, name: str) -> Array | None:
        """The value of ``name`` if it is the same in every run, else None."""
        owner = self._owner(name)
        if owner is None:
            return None
        if name in owner._initializers:
            overridable = name in owner._inputs and (owner.path or owner.ir_version >= OVERRIDABLE_SINCE_IR)
            return None if overridable else tensor_value(owner._initializers[name])
        node = owner._producers.get(name)
        return None if node is None or not is_default_domain(node) else owner._computed_constant(node)

    def add_initializer(self, tensor: onnx.TensorProto) -> None:
        """Add a constant to the graph, declared as an input where old IR versions demand that.

        Only the main graph's constants may lie beside the model (``shared_constants.py``): others get their numbers here.
        """
        if self.path:
            tensor = made_whole(tensor)
        self.graph.initializer.append(tensor)
        self._initializers[tensor.name] = tensor
        if not self.path and self.ir_version < OVERRIDABLE_SINCE_IR:
            value = helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            self.graph.input.append(value)

    def _owner(self, name: str) -> Scope | None:
        scope: Scope | None = self
        while scope is not None:
            if name in scope._initializers or name in scope._producers or name in scope._inputs:
                return scope
            scope = scope.outer
        return None

    def _computed_constant(self, node: onnx.NodeProto) -> Array | None:
        values = attributes(node)
        if node.op_type == "Constant":
            return _constant_value(values)
        if node.op_type not in PASS_THROUGH:
            return None
        source = self.constant(node.input[0])
        if source is None or node.op_type == "Identity":
            return source
        if node.op_type == "Cast":
            return source.astype(helper.tensor_dtype_to_np_dtype(int(str(values["to"]))))
        permutation = values.get("perm")
        return np.transpose(source, permutation if isinstance(permutation, list) else None)


def tensor_value(tensor: onnx.TensorProto) -> Array:
    """The tensor as an array.

    Raises:
        ModelFormatError: its data do not fit its shape and type.
    """
    shared = shared_array(tensor)
    if shared is not None:
        return shared
    try:
        return np.asarray(numpy_helper.to_array(tensor))
    except (ValueError, TypeError) as error:
        raise ModelFormatError(f"tensor {tensor.name!r}: its data do not fit its shape and type") from error


def _constant_value(values: dict[str, object]) -> Array | None:
    match values:
        case {"value": onnx.TensorProto() as tensor}:
            return tensor_value(tensor)
        case {"value_float": float(number)}:
            return np.asarray(number, np.float32)
        case {"value_floats": list(numbers)}:
            return np.asarray(numbers, np.float32)
        case {"value_int": int(number)}:
            return np.asarray(number, np.int64)
        case {"value_ints": list(numbers)}:
            return np.asarray(numbers, np.int64)
    return None


def walk(model: onnx.ModelProto) -> Iterator[Scope]:
    """All graphs of a model, outer before inner, in the order of their nodes. Functions are not graphs of the model."""
    yield from _walk(Scope(model.graph, model.ir_version))


def _walk(scope: Scope) -> Iterator[Scope]:
    yield scope
    for index, node in enumerate(scope.graph.node):
        for name, graph in inner_graphs(node):
            yield from _walk(Scope(graph, scope.ir_version, (*scope.path, (index, name)), scope))


def scope_at(model: onnx.ModelProto, path: GraphPath) -> Scope:
    """The graph that ``path`` leads to."""
    scope = Scope(model.graph, model.ir_version)
    for index, name in path:
        graph = dict(inner_graphs(scope.graph.node[index]))[name]
        scope = Scope(graph, model.ir_version, (*scope.path, (index, name)), scope)
    return scope


def count_uses(graph: onnx.GraphProto) -> Counter[str]:
    """How often each name is read in a graph and in those inside it; being a graph's output is a use."""
    uses: Counter[str] = Counter(value.name for value in graph.output)
    for node in graph.node:
        uses.update(name for name in node.input if name)
        for _, inner in inner_graphs(node):
            uses += count_uses(inner)
    return uses


def value_names(model: onnx.ModelProto) -> set[str]:
    """Every name of a value in any graph of the model."""
    names: set[str] = set()
    for scope in walk(model):
        graph = scope.graph
        names.update(value.name for value in (*graph.input, *graph.output, *graph.value_info))
        names.update(tensor.name for tensor in graph.initializer)
        names.update(tensor.values.name for tensor in graph.sparse_initializer)
        for node in graph.node:
            names.update((*node.input, *node.output))
    return names


def unique_name(name: str, taken: set[str]) -> str:
    """``name``, made different from all ``taken`` by a number where it must be; the result is taken from then on."""
    candidate, number = name, 1
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    taken.add(candidate)
    return candidate


def forget_value(graph: onnx.GraphProto, name: str) -> None:
    """Remove what is recorded about a value that no longer exists."""
    _delete(graph.value_info, {name})


def drop_unused(model: onnx.ModelProto, candidates: set[str]) -> None:
    """Remove constants named in ``candidates`` that nothing reads any more, and what only they were made from.

    Names are counted over all graphs at once, so that at worst a constant stays that could go.
    """
    while candidates:
        uses = count_uses(model.graph)
        gone = {name for name in candidates if not uses[name]}
        candidates = set()
        for scope in walk(model):
            candidates |= _drop(scope, gone)


def _drop(scope: Scope, gone: set[str]) -> set[str]:
    """Remove ``gone`` from one graph; return the names that the removed nodes read."""
    graph = scope.graph
    freed: set[str] = set()
    for index, node in reversed(list(enumerate(graph.node))):
        constant = is_default_domain(node) and node.op_type in ("Constant", *PASS_THROUGH)
        if constant and all(name in gone for name in node.output):
            freed.update(node.input)
            del graph.node[index]
    initializers = gone & set(scope._initializers)
    _delete(graph.initializer, initializers)
    if not scope.path and scope.ir_version < OVERRIDABLE_SINCE_IR:
        _delete(graph.input, initializers)
    return freed


def _delete(entries: Any, names: set[str]) -> None:
    """Remove entries by name in place: a copy of the rest could be hundreds of megabytes."""
    for index in reversed([index for index, entry in enumerate(entries) if entry.name in names]):
        del entries[index]
