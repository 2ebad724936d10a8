"""One model in which every layer can be switched between itself and a factorization, run by run.

Every replaced layer becomes an ``If`` on a boolean graph input; only the chosen branch runs. One session then serves for
the sensitivity of all layers, where a session per layer would spend most of its time on loading.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.helper

from edge_dac.convolution import ConvLayer, Factor, Factorization
from edge_dac.device.probes import Feeds, open_session, session_options
from edge_dac.graph.detached import detach
from edge_dac.graph.layers import Inventory
from edge_dac.graph.rewriting import replace_layers
from edge_dac.graph.scopes import walk
from edge_dac.lowerings import lowering_of
from edge_dac.lowerings.lowering import LoweredLayer
from edge_dac.statistics.execution import extract

Arrays = list[npt.NDArray[Any]]


class GatedModel:
    """A session over the gated model.

    Args:
        proto: canonical model.
        inventory: its layers.
        factorizations: what stands behind the gate of each layer (by layer name).
        tensors: what to compute.
        threads: intra-op threads.
    """

    def __init__(
        self,
        proto: onnx.ModelProto,
        inventory: Inventory,
        factorizations: Mapping[str, Factorization],
        tensors: Sequence[str],
        threads: int,
    ) -> None:
        self._gates = {name: f"{name}/gate" for name in factorizations}
        replacements = {name: self._replacement(factorization) for name, factorization in factorizations.items()}
        replaced = replace_layers(proto, inventory, replacements)
        _lift_constants(replaced, set(self._gates.values()))
        gated = extract(replaced, tensors)
        # A constant that is declared as an input may be overridden by the caller, and is not folded.
        for gate in self._gates.values():
            gated.graph.input.append(onnx.helper.make_tensor_value_info(gate, onnx.TensorProto.BOOL, []))
        detached = detach(gated)
        del gated
        self._session = open_session(detached, session_options(threads))

    def run(self, feeds: Feeds, active: Iterable[str] = ()) -> Arrays:
        """The tensors with the factorizations of the ``active`` layers in place, the original elsewhere."""
        gates = {self._gates[name]: np.array(True) for name in active}
        values: Arrays = self._session.run(None, {**feeds, **gates})
        return values

    def _replacement(self, factorization: Factorization) -> Callable[[ConvLayer, str, str], LoweredLayer]:
        def replace(layer: ConvLayer, input_name: str, output_name: str) -> LoweredLayer:
            branches: dict[str, onnx.GraphProto] = {}
            gate = self._gates[layer.name]
            initializers = [onnx.helper.make_tensor(gate, onnx.TensorProto.BOOL, [], [False])]
            for kind, content in (("then_branch", factorization), ("else_branch", _dense(layer))):
                prefixed = f"{layer.name}/{kind}"
                name = "direct" if content.quantization is None else "int8"
                lowered = lowering_of(name).lower(layer, content, input_name, prefixed)
                rename = {tensor.name: f"{prefixed}/{tensor.name}" for tensor in lowered.initializers}
                rename |= {o: f"{prefixed}/{o}" for node in lowered.nodes for o in node.output if o != prefixed}
                branches[kind] = onnx.helper.make_graph(
                    [_renamed(node, rename, prefixed) for node in lowered.nodes],
                    prefixed,
                    [],
                    [onnx.ValueInfoProto(name=prefixed)],
                )
                for tensor in lowered.initializers:
                    tensor.name = rename[tensor.name]
                    initializers.append(tensor)
            node = onnx.helper.make_node("If", [gate], [output_name], name=f"{layer.name}/if", **branches)
            return LoweredLayer([node], initializers)

        return replace


def _lift_constants(model: onnx.ModelProto, names: Set[str]) -> None:
    """Move constants of inner graphs to the main graph, where a caller can override them."""
    for scope in walk(model):
        found = [tensor for tensor in scope.graph.initializer if tensor.name in names] if scope.path else []
        model.graph.initializer.extend(found)
        for tensor in found:
            scope.graph.initializer.remove(tensor)


def _dense(layer: ConvLayer) -> Factorization:
    return Factorization("dense", 1, (Factor(layer.weight, layer.attributes),), layer.bias)


def _renamed(node: onnx.NodeProto, rename: Mapping[str, str], prefix: str) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.name = f"{prefix}/{node.name}"
    for tensors in (copy.input, copy.output):
        renamed: Sequence[str] = [rename.get(name, name) for name in tensors]
        del tensors[:]
        tensors.extend(renamed)
    return copy
