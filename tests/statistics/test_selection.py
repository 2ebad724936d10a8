"""What answers are chosen from."""

from __future__ import annotations

import onnx.parser
import pytest

from edge_dac.statistics.selection import chosen_from


def _graph(body: str) -> onnx.GraphProto:
    text = f'<ir_version: 8, opset_import: ["" : 13]> g (float[1,4] x, float[4,4] w) => (float[n,m] y) {{ {body} }}'
    return onnx.parser.parse_model(text).graph


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("a = MatMul(x, w)\n y = Relu(a)", ["y"]),
        ("a = MatMul(x, w)\n y = NonZero(a)", ["a"]),
        ("a = MatMul(x, w)\n y = ArgMax(a)", ["a"]),
        ("a = MatMul(x, w)\n b = Relu(a)\n k = NonZero(b)\n y = GatherND(a, k)", ["a", "b"]),
        ("a = MatMul(x, w)\n s = Shape(a)\n y = NonZero(s)", ["y"]),
        ("a = MatMul(x, w)\n b = Greater(a, x)\n y = NonZero(b)", ["a"]),
        ("y = NonZero(x)", ["y"]),
        ("a = MatMul(x, w)\n b = Relu(a)\n k = ArgMax(b)\n c = Gather(b, k)\n y = MatMul(c, w)", ["y"]),
    ],
)
def test_answers_are_traced_back_to_what_layers_computed(body: str, expected: list[str]) -> None:
    assert chosen_from(_graph(body), "y") == expected


def test_a_choice_inside_a_branch_counts() -> None:
    branches = [f"{name} = {name} () => (int64[n,m] {name}z) {{{name}z = NonZero(a)}}" for name in ("then", "else")]
    choice = "y = If(c) <" + ", ".join(b.replace(" = ", "_branch = ", 1) for b in branches) + ">"
    assert chosen_from(_graph(f"a = MatMul(x, w)\n d = ReduceSum(x)\n c = Cast<to = 9>(d)\n {choice}"), "y") == ["a"]
