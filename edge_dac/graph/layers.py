"""Finding the layers of a model, or the typed reason why one is left as it is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import onnx

from edge_dac.convolution import ConvLayer, Reason, Refusal
from edge_dac.graph.exposing import Exposure, only_branches
from edge_dac.graph.operators import LinearNode, NotALayerError, read_linear
from edge_dac.graph.scopes import Site, default_opset, scope_at, unique_name, walk
from edge_dac.graph.shapes import Shape, static_shapes, tensor_shapes

OLDEST_OPSET: Final = 9


@dataclass(frozen=True, eq=False)
class Inventory:
    """The layers of one model.

    Attributes:
        layers: in the order of the nodes.
        refusals: convolutions and matrix products that stay as they are, each with the reason.
        sites: where each layer's node is in the model that the inventory was made from.
        unobserved: layers inside ``Loop`` and ``Scan``, whose inputs nobody sees.
    """

    layers: tuple[ConvLayer, ...]
    refusals: tuple[Refusal, ...]
    sites: Mapping[str, Site]
    unobserved: frozenset[str] = frozenset()


@dataclass(frozen=True, eq=False)
class _Found:
    name: str
    node: onnx.NodeProto
    linear: LinearNode
    site: Site


def find_layers(
    model: onnx.ModelProto,
    input_shapes: Mapping[str, Sequence[int]],
    input_values: Mapping[str, float] | None = None,
) -> Inventory:
    """All layers of a model, with sizes at ``input_shapes``.

    Covers ``Conv`` with one or two spatial axes, and ``Gemm`` and ``MatMul`` with a constant matrix, in the main graph
    and in the graphs of ``If``, ``Loop`` and ``Scan`` nodes. Other forms of convolution and matrix product become
    refusals; products of two computed matrices are not listed.

    Args:
        input_values: by name, the one number that an input always holds, where the model may run for none other.

    Raises:
        InputShapeError: the model does not run at ``input_shapes``.
        ModelFormatError: a constant whose data do not fit its shape and type.
    """
    refusals: list[Refusal] = []
    found = list(_found(model, refusals))
    opset = default_opset(model)
    if opset < OLDEST_OPSET:
        message = f"the model imports operator set {opset}; expected {OLDEST_OPSET} or newer"
        refused = [Refusal(item.name, Reason.UNSUPPORTED_OPERATOR, message) for item in found]
        return Inventory((), (*refused, *refusals), {})
    shapes = tensor_shapes(model, input_shapes, {item.node.input[0] for item in found}, input_values)
    convolved = {item.node.input[0] for item in found if item.node.op_type == "Conv"}
    static = static_shapes(model, input_shapes, {name: shapes[name] for name in convolved & set(shapes)}, input_values)
    inner = _measured_in_branches(model, [item for item in found if item.site.path], input_shapes, input_values)
    layers = tuple(
        _layer(item, inner.get(item.name, shapes.get(item.node.input[0])), static.get(item.node.input[0]), opset)
        for item in found
    )
    unobserved = frozenset(item.name for item in found if not only_branches(model, item.site.path))
    return Inventory(layers, tuple(refusals), {item.name: item.site for item in found}, unobserved)


def _found(model: onnx.ModelProto, refusals: list[Refusal]) -> Iterator[_Found]:
    taken: set[str] = set()
    for scope in walk(model):
        for index, node in enumerate(scope.graph.node):
            try:
                linear = read_linear(node, scope)
            except NotALayerError as refused:
                refusals.append(Refusal(_name(node, taken), refused.reason, refused.message))
                continue
            if linear is not None:
                yield _Found(_name(node, taken), node, linear, Site(scope.path, index))
    for function in model.functions:
        for node in function.node:
            if node.op_type in ("Conv", "Gemm", "MatMul"):
                message = f"{node.op_type} inside the function {function.name!r}; expected it in the graph"
                refusals.append(Refusal(_name(node, taken), Reason.UNSUPPORTED_OPERATOR, message))


def _name(node: onnx.NodeProto, taken: set[str]) -> str:
    output = next((name for name in node.output if name), node.op_type)
    return unique_name(node.name if node.name and node.name not in taken else output, taken)


def _measured_in_branches(
    model: onnx.ModelProto,
    found: Sequence[_Found],
    input_shapes: Mapping[str, Sequence[int]],
    input_values: Mapping[str, float] | None,
) -> dict[str, Shape]:
    """What layers in branches of ``If`` nodes read, by layer; inference knows little of what is inside of them."""
    exposure = Exposure(model)
    names = {
        item.name: exposure.name_of(scope_at(model, item.site.path), item.node.input[0], item.linear.dtype)
        for item in found
        if only_branches(model, item.site.path)
    }
    shapes = tensor_shapes(exposure.model, input_shapes, names.values(), input_values) if names else {}
    # A branch that is not taken shows an empty tensor of one axis.
    return {layer: shapes[name] for layer, name in names.items() if len(shapes.get(name, ())) > 1}


def _layer(item: _Found, shape: Shape | None, static: Shape | None, opset: int) -> ConvLayer:
    linear = item.linear
    axes = linear.weight.ndim - 2
    is_conv = item.node.op_type == "Conv"
    size = tuple(shape[2:]) if is_conv and shape is not None and len(shape) == axes + 2 else (None,) * axes
    leading = 1 if shape is None else math.prod(extent or 1 for extent in (shape[:1] if is_conv else shape[:-1]))
    return ConvLayer(
        name=item.name,
        weight=linear.weight,
        bias=linear.bias,
        attributes=linear.attributes,
        input_size=size,
        operator=item.node.op_type,
        dtype=linear.dtype,
        positions=1 if is_conv else leading,
        batch=leading if is_conv else 1,
        static_size=not is_conv or (None not in size and static is not None and static[2:] == size),
        opset=opset,
    )
