"""Making what is computed inside ``If`` nodes readable in the main graph.

A tensor of a branch becomes one more output of the branch and of the ``If``; the other branch gives an empty tensor of the
same type, so that a branch that is not taken has nothing to show. Bodies of ``Loop`` and ``Scan`` stay closed: what they
compute differs from turn to turn in number and, at times, in shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from edge_dac.convolution import ConvLayer
from edge_dac.graph.scopes import GraphPath, Scope, Site, inner_graphs, scope_at, unique_name, value_names


def layer_nodes(
    model: onnx.ModelProto, layers: Sequence[ConvLayer], sites: Mapping[str, Site] | None = None
) -> dict[str, tuple[Scope, onnx.NodeProto]]:
    """The node of each layer and the graph that it is in, by layer name; without those inside ``Loop`` and ``Scan``.

    Args:
        sites: where the layers are; by default nodes of their names in the main graph.
    """
    chosen = _sites_by_name(model, layers) if sites is None else sites
    scopes: dict[GraphPath, Scope] = {}
    found = {}
    for layer in layers:
        site = chosen.get(layer.name)
        if site is None or not only_branches(model, site.path):
            continue
        if site.path not in scopes:
            scopes[site.path] = scope_at(model, site.path)
        scope = scopes[site.path]
        found[layer.name] = (scope, scope.graph.node[site.index])
    return found


def _sites_by_name(model: onnx.ModelProto, layers: Sequence[ConvLayer]) -> dict[str, Site]:
    operators = {layer.name: layer.operator for layer in layers}
    names = [{node.name, node.output[0]} & operators.keys() if node.output else set() for node in model.graph.node]
    return {
        name: Site((), index)
        for index, node in reversed(list(enumerate(model.graph.node)))
        for name in names[index]
        if operators[name] == node.op_type
    }


def only_branches(model: onnx.ModelProto, path: GraphPath) -> bool:
    """Whether ``path`` leads through branches of ``If`` nodes only; the main graph's does."""
    graph = model.graph
    for index, name in path:
        node = graph.node[index]
        if node.op_type != "If":
            return False
        graph = dict(inner_graphs(node))[name]
    return True


@dataclass(eq=False)
class Exposure:
    """A model and the main graph's names for tensors of its branches, asked for one by one.

    Args:
        model: it is not changed; it is copied when the first tensor of a branch is asked for.
    """

    model: onnx.ModelProto
    _names: dict[tuple[GraphPath, str], str] = field(default_factory=dict)
    _types: dict[str, np.dtype[np.generic]] = field(default_factory=dict)
    _taken: set[str] = field(default_factory=set)

    @property
    def types(self) -> dict[str, np.dtype[np.generic]]:
        """Element types of the tensors that were taken out of branches, by their names in the main graph."""
        return dict(self._types)

    def name_of(self, scope: Scope, tensor: str, dtype: npt.DTypeLike) -> str:
        """The name in the main graph of a tensor that ``scope``, a graph of the model as it was given, can read.

        Args:
            dtype: of its elements.
        """
        path = scope.path_of(tensor)
        if not path:
            return tensor
        key = (path, tensor)
        if key not in self._names:
            if not self._names:
                copy = onnx.ModelProto()
                copy.CopyFrom(self.model)
                self.model, self._taken = copy, value_names(copy)
            self._names[key] = self._lift(path, tensor, dtype)
            self._types[self._names[key]] = np.dtype(dtype)
        return self._names[key]

    def _lift(self, path: GraphPath, tensor: str, dtype: npt.DTypeLike) -> str:
        name = tensor
        for depth in range(len(path) - 1, -1, -1):
            index, branch = path[depth]
            node = scope_at(self.model, path[:depth]).graph.node[index]
            fresh = unique_name(f"{tensor}/exposed", self._taken)
            for attribute, graph in inner_graphs(node):
                output = name
                if attribute != branch:
                    output = unique_name(f"{tensor}/missing", self._taken)
                    graph.initializer.append(numpy_helper.from_array(np.empty(0, dtype), output))
                elif any(value.name == name for value in graph.output):
                    output = unique_name(f"{tensor}/again", self._taken)
                    graph.node.append(onnx.helper.make_node("Identity", [name], [output]))
                graph.output.append(onnx.ValueInfoProto(name=output))
            node.output.append(fresh)
            name = fresh
        return name
