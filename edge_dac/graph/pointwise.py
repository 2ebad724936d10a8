"""What happens to a map value by value before anything else reads it."""

from __future__ import annotations

import onnx

from edge_dac.graph.scopes import Scope, count_uses, inner_graphs, is_default_domain

_POINTWISE = frozenset(
    {"Add", "Clip", "Div", "Elu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mul", "Relu", "Sigmoid", "Sub", "Tanh"}
)

RECURRENT_LAYERS = frozenset({"GRU", "LSTM", "RNN"})
LAYERS = RECURRENT_LAYERS | {"Conv", "ConvTranspose", "Gemm", "MatMul"}


def leading_to_layers(graph: onnx.GraphProto) -> set[str]:
    """The tensors that a layer of the graph reads, at once or after other nodes."""
    leading: set[str] = set()
    for node in reversed(graph.node):
        if node.op_type in LAYERS or not leading.isdisjoint(node.output):
            leading.update(node.input)
    return leading


def pointwise_end(scope: Scope, tensor: str) -> str:
    """The tensor that holds ``tensor`` after all that is done to it value by value; itself where it is read otherwise too.

    ``x sigmoid(x)`` is one such function, in whatever operators it is written; constants in it are single numbers.
    """
    inside = {tensor}
    for node in scope.graph.node:
        if is_default_domain(node) and node.op_type in _POINTWISE and _is_pointwise(scope, node.input, inside):
            inside.update(node.output)
    read = {output.name for output in scope.graph.output}
    for node in scope.graph.node:
        if not inside.issuperset(node.output):
            read.update(node.input)
        for _, graph in inner_graphs(node):
            read.update(count_uses(graph))
    ends = inside & read
    return ends.pop() if len(ends) == 1 else tensor


def _is_pointwise(scope: Scope, inputs: list[str], inside: set[str]) -> bool:
    if inside.isdisjoint(inputs):
        return False
    constants = [scope.constant(name) for name in inputs if name and name not in inside]
    return all(constant is not None and constant.size == 1 for constant in constants)
