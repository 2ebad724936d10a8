"""The relative error of outputs, and which tensors stand for them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx.parser
import pytest

from edge_dac.statistics.output_error import (
    comparable_tensors,
    features_behind,
    has_variety,
    output_error,
    output_spreads,
)


def error_over_runs(references: Sequence[Sequence[np.ndarray]], answers: Sequence[Sequence[np.ndarray]]) -> float:
    spreads = output_spreads(references)
    return float(np.mean([output_error(*pair, spreads) for pair in zip(references, answers, strict=True)]))


def test_equal_outputs_have_no_error() -> None:
    values = np.arange(12.0, dtype=np.float32).reshape(3, 4)
    assert error_over_runs([[values]], [[values]]) == 0.0


def test_a_constant_answer_has_error_one() -> None:
    runs = np.random.default_rng(0).normal(3.0, 2.0, size=(5, 4, 50)).astype(np.float32)
    constant = [[np.full((4, 50), runs.mean())] for _ in runs]
    assert error_over_runs([[values] for values in runs], constant) == pytest.approx(1.0, rel=1e-5)


def test_an_answer_of_one_number_is_judged_by_how_it_varies_from_run_to_run() -> None:
    runs = np.random.default_rng(0).normal(3.0, 2.0, size=(400, 1, 1)).astype(np.float32)
    near = [[values + np.float32(0.2)] for values in runs]
    assert error_over_runs([[values] for values in runs], near) == pytest.approx(0.01, rel=0.2)


def test_the_scale_of_an_output_does_not_count() -> None:
    rng = np.random.default_rng(0)
    values, noise = rng.normal(size=(2, 100)), rng.normal(size=(2, 100))
    small = error_over_runs([[values]], [[values + 0.1 * noise]])
    assert error_over_runs([[1e4 * values]], [[1e4 * (values + 0.1 * noise)]]) == pytest.approx(small)
    assert error_over_runs([[values, values]], [[values + 0.1 * noise, values]]) == pytest.approx(small / 2)


def test_what_is_not_finite_is_infinitely_wrong() -> None:
    values = np.array([1.0, 2.0])
    assert error_over_runs([[values]], [[np.array([1.0, np.nan])]]) == float("inf")


def test_what_is_not_finite_in_the_original_is_left_out() -> None:
    wanted = np.array([1.0, np.nan, 3.0, np.inf])
    assert error_over_runs([[wanted]], [[np.array([1.0, 7.0, 3.0, np.nan])]]) == 0.0
    assert error_over_runs([[wanted]], [[np.array([2.0, 7.0, 2.0, 0.0])]]) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([[np.zeros(3)], [np.zeros(3)]], False),
        ([[np.full(3, np.nan)], [np.full(3, np.nan)]], False),
        ([[np.array([np.nan, 2.0])], [np.array([2.0, np.inf])]], False),
        ([[np.zeros(1), np.zeros(3)], [np.zeros(1), np.ones(3)]], True),
        ([[np.array([0.0, 1.0])]], True),
    ],
)
def test_outputs_that_hold_one_number_tell_nothing(runs: list[list[np.ndarray]], expected: bool) -> None:
    assert has_variety(runs) is expected


def test_an_answer_of_other_extents_is_as_good_as_none() -> None:
    assert error_over_runs([[np.ones((3, 2))]], [[np.ones((2, 2))]]) == 1.0
    assert error_over_runs([[np.ones((3, 2))]], [[np.full((2, 2), np.nan)]]) == float("inf")


def test_an_answer_of_other_axes_is_infinitely_wrong() -> None:
    assert error_over_runs([[np.ones((3, 2))]], [[np.ones(6)]]) == float("inf")


def test_a_constant_output_gives_a_finite_error() -> None:
    values = np.full((2, 3), 5.0)
    assert np.isfinite(error_over_runs([[values]], [[values + 1e-3]]))


def test_outputs_may_differ_in_shape_from_run_to_run() -> None:
    runs = [[np.ones((3, 2))], [np.zeros((1, 2))]]
    assert error_over_runs(runs, runs) == 0.0


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
        ("a = MatMul(x, w)\n b = Softmax(a)\n y = ArgMax(b)", ["a"]),
    ],
)
def test_numbers_before_a_final_squashing_are_compared(body: str, expected: list[str]) -> None:
    text = f'<ir_version: 8, opset_import: ["" : 13]> g (float[1,4] x, float[4,4] w) => (float[1,n] y) {{ {body} }}'
    assert list(comparable_tensors(onnx.parser.parse_model(text))) == expected


def test_features_are_what_the_last_layer_reads() -> None:
    model = onnx.parser.parse_model(
        """
        <ir_version: 8, opset_import: ["": 17]>
        network (float[1, 4] x, float[4, 4] w, float[2] b) => (float[1, 2] y, float[1, 4] z)
        {
            h = MatMul(x, w)
            features = Relu(h)
            product = MatMul(features, w)
            sum = Add(b, product)
            y = Softmax(sum)
            z = Neg(h)
        }
        """
    )
    assert features_behind(model, "sum") == "features"
    assert features_behind(model, "z") is None  # its layer reads an input of the model
    assert features_behind(model, "b") is None
