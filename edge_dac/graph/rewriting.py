"""Putting other nodes in the place of layers; everything else of the model computes what it did.

The only nodes outside of a replacement that may move or go are activations and poolings right behind one: see `layouts` and
`quantizers`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import onnx

from edge_dac.convolution import ConvLayer
from edge_dac.errors import VerificationError
from edge_dac.graph.layers import Inventory
from edge_dac.graph.layouts import merge_layouts
from edge_dac.graph.quantizers import merge_quantizers
from edge_dac.graph.scopes import drop_unused, inner_graphs, scope_at, unique_name, value_names, walk

PLAN_KEY = "edge_dac.plan"
"""Key in the model's ``metadata_props`` under which the plan is recorded."""


class Replacement(Protocol):
    """Nodes and constants that stand in a layer's place; made by a lowering."""

    @property
    def nodes(self) -> Sequence[onnx.NodeProto]:
        """In topological order; the first reads the layer's input, the last writes its output."""

    @property
    def initializers(self) -> Sequence[onnx.TensorProto]:
        """Constants that the nodes read."""


MakeReplacement: TypeAlias = Callable[[ConvLayer, str, str], Replacement]
"""Called with the layer and the names by which the nodes read its input and write its output."""


def replace_layers(
    model: onnx.ModelProto,
    inventory: Inventory,
    replacements: Mapping[str, MakeReplacement],
    *,
    metadata: Mapping[str, str] | None = None,
) -> onnx.ModelProto:
    """A new model with other nodes in the place of layers.

    Args:
        model: the model that ``inventory`` was made from; it is not changed.
        replacements: by layer name; layers that are not named stay.
        metadata: entries to set in ``metadata_props``; the others stay.

    Raises:
        VerificationError: a replacement reads or writes other tensors than its own and the layer's, or ``replacements``
            names a layer that the inventory does not hold.
    """
    layers = {layer.name: layer for layer in inventory.layers}
    for name in replacements:
        if name not in layers:
            raise VerificationError(f"layer {name!r}: not in the model's inventory")
    result = onnx.ModelProto()
    result.CopyFrom(model)
    outputs: set[str] = set()
    values = value_names(model)
    nodes = {node.name for scope in walk(model) for node in scope.graph.node}
    released: set[str] = set()
    # Innermost graphs and last nodes first, so that the recorded places stay valid.
    for name in sorted(replacements, key=lambda name: _depth_and_index(inventory, name), reverse=True):
        site = inventory.sites[name]
        scope = scope_at(result, site.path)
        node = scope.graph.node[site.index]
        # Stand-ins, because the model's own names may be among those that the replacement makes up.
        ends = {f"input of {name}": node.input[0], f"output of {name}": node.output[0]}
        fresh = _renamed(name, replacements[name](layers[name], *ends), ends, values, nodes)
        released.update(node.input[1:])
        outputs.add(node.output[0])
        del scope.graph.node[site.index]
        for offset, replacing in enumerate(fresh.nodes):
            scope.graph.node.insert(site.index + offset, replacing)
        for tensor in fresh.initializers:
            scope.add_initializer(tensor)
        del fresh  # Its constants may be large, and the model holds copies now.
    drop_unused(result, released - {""})
    merge_layouts(result, outputs)
    merge_quantizers(result, outputs)
    _record(result, metadata or {})
    return result


def _depth_and_index(inventory: Inventory, name: str) -> tuple[int, int]:
    site = inventory.sites[name]
    return len(site.path), site.index


@dataclass(frozen=True, eq=False)
class _Fresh:
    """A replacement whose names are free in the model."""

    nodes: list[onnx.NodeProto]
    initializers: list[onnx.TensorProto]


def _renamed(layer: str, made: Replacement, ends: Mapping[str, str], values: set[str], node_names: set[str]) -> _Fresh:
    """``made``, used up, between the tensors that ``ends`` stands for, with other names that the model does not use yet.

    Raises:
        VerificationError: a node reads a tensor that does not exist yet, or the output is not written by the last.
    """
    input_name, output_name = ends
    constants = {tensor.name: unique_name(tensor.name, values) for tensor in made.initializers}
    readable = {input_name, "", *constants}
    renamed = {**ends, **constants}
    nodes = []
    for original in made.nodes:
        for name in original.input:
            if name not in readable:
                raise VerificationError(f"layer {layer!r}: its replacement reads {name!r}, which it does not make")
        renamed.update({name: unique_name(name, values) for name in original.output if name and name not in ends})
        readable.update(original.output)
        node = onnx.NodeProto()
        node.CopyFrom(original)
        node.name = unique_name(original.name or f"{layer}/{original.op_type}", node_names)
        _rename_reads(node, renamed)
        node.output[:] = [renamed.get(name, name) for name in original.output]
        nodes.append(node)
    if not nodes or ends[output_name] not in nodes[-1].output:
        raise VerificationError(
            f"layer {layer!r}: the last node of its replacement does not write {ends[output_name]!r}"
        )
    for tensor in made.initializers:
        tensor.name = renamed[tensor.name]
    return _Fresh(nodes, list(made.initializers))


def _rename_reads(node: onnx.NodeProto, renamed: Mapping[str, str]) -> None:
    """Rename what a node reads, also from within the graphs that it holds."""
    node.input[:] = [renamed.get(name, name) for name in node.input]
    for _, graph in inner_graphs(node):
        own = {name for inner in graph.node for name in inner.output} | {value.name for value in graph.input}
        visible = {old: new for old, new in renamed.items() if old not in own}
        for inner in graph.node:
            _rename_reads(inner, visible)


def _record(model: onnx.ModelProto, metadata: Mapping[str, str]) -> None:
    existing = {entry.key: entry for entry in model.metadata_props}
    for key, value in metadata.items():
        entry = existing[key] if key in existing else model.metadata_props.add(key=key)
        entry.value = value
