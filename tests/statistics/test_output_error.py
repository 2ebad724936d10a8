"""The relative error of outputs, and which tensors stand for them."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest

from edge_dac.statistics.output_error import comparable_tensors, output_error


def test_equal_outputs_have_no_error() -> None:
    values = np.arange(12.0, dtype=np.float32).reshape(3, 4)
    assert output_error([values], [values]) == 0.0


def test_a_constant_answer_has_error_one() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, size=(4, 50)).astype(np.float32)
    assert output_error([values], [np.full_like(values, values.mean())]) == pytest.approx(1.0, rel=1e-5)


def test_the_scale_of_an_output_does_not_count() -> None:
    rng = np.random.default_rng(0)
    values, noise = rng.normal(size=(2, 100)), rng.normal(size=(2, 100))
    small = output_error([values], [values + 0.1 * noise])
    assert output_error([1e4 * values], [1e4 * (values + 0.1 * noise)]) == pytest.approx(small)
    assert output_error([values, values], [values + 0.1 * noise, values]) == pytest.approx(small / 2)


def test_what_is_not_finite_is_infinitely_wrong() -> None:
    values = np.array([1.0, 2.0])
    assert output_error([values], [np.array([1.0, np.nan])]) == float("inf")


def test_a_constant_output_gives_a_finite_error() -> None:
    values = np.full((2, 3), 5.0)
    assert np.isfinite(output_error([values], [values + 1e-3]))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("y = Relu(x)", ["y"]),
        ("a = Relu(x)\n y = Softmax(a)", ["a"]),
        ("a = Relu(x)\n b = Sigmoid(a)\n y = Flatten(b)", ["a"]),
        ("a = Relu(x)\n b = Abs(x)\n c = Sigmoid(b)\n y = Concat<axis = 1>(a, c)", ["a", "b"]),
        ("a = Relu(x)\n b = Abs(x)\n y = Concat<axis = 1>(a, b)", ["y"]),
        ("y = Sigmoid(x)", ["y"]),
        ("a = Relu(x)\n b = Sigmoid(a)\n y = Mul(a, b)", ["y"]),
    ],
)
def test_numbers_before_a_final_squashing_are_compared(body: str, expected: list[str]) -> None:
    text = f'<ir_version: 8, opset_import: ["" : 13]> g (float[1,4] x) => (float[1,n] y) {{ {body} }}'
    assert list(comparable_tensors(onnx.parser.parse_model(text))) == expected
