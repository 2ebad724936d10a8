"""What layers in real numbers pay beside layers in integers, and selections at such prices."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise, product

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_dac.graph.layers import find_layers
from edge_dac.planning.candidates import ORIGINAL, Candidate
from edge_dac.planning.conversions import Conversions, converted_bytes, in_integers
from edge_dac.planning.selection import Limits, Option

INTEGERS = Candidate("int8", 8, "int8")
LOW_RANK = Candidate("channel", 8, "direct")


def residual_network() -> onnx.ModelProto:
    """``a``, then ``b`` beside it, added; ``c`` after the sum; ``d``, whose size is read off ``c``, then ``e``."""
    kernel = np.ones((2, 2, 1, 1), np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["ya"], name="a"),
        helper.make_node("Relu", ["ya"], ["ra"]),
        helper.make_node("Conv", ["ra", "w"], ["yb"], name="b"),
        helper.make_node("Add", ["ra", "yb"], ["sum"]),
        helper.make_node("Conv", ["sum", "w"], ["yc"], name="c"),
        helper.make_node("Conv", ["x", "w"], ["yd"], name="d"),
        helper.make_node("Shape", ["yc"], ["shape"]),
        helper.make_node("Reshape", ["yd", "shape"], ["y"]),
        helper.make_node("Conv", ["y", "w"], ["z"], name="e"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 4, 4])
    z = helper.make_tensor_value_info("z", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "residual", [x], [z], [numpy_helper.from_array(kernel, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def option(candidate: Candidate, latency_ms: float, damage: float = 0.0) -> Option:
    return Option(candidate, latency_ms, macs=1, size_bytes=1, error=damage, damage=damage)


def test_maps_are_converted_where_integers_are_written_and_real_numbers_read() -> None:
    model = residual_network()
    size = 4.0 * 2 * 4 * 4
    assert converted_bytes(model, find_layers(model, {"x": (1, 2, 4, 4)})) == {
        ("a", "b"): 1.5 * size,  # half a share of what both its readers take, and a map that meets the other's
        ("b", "a"): 1.5 * size,
        ("a", "c"): 0.25 * size,  # half of a sum
        ("c", "a"): 0.25 * size,
        ("b", "c"): 0.5 * size,
        ("c", "b"): 0.5 * size,
        ("d", "e"): size,
        ("e", "d"): size,
    }


def test_an_enlarged_map_is_converted_at_its_new_size() -> None:
    kernel = np.ones((2, 2, 1, 1), np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["ya"], name="a"),
        helper.make_node("Resize", ["ya", "", "scales"], ["large"]),
        helper.make_node("Conv", ["large", "w"], ["yb"], name="b"),
    ]
    constants = {"w": kernel, "scales": np.array([1, 1, 2, 2], np.float32)}
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 4, 4])
    y = helper.make_tensor_value_info("yb", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(v, k) for k, v in constants.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    size = 4.0 * 2 * 4 * 4
    found = converted_bytes(model, find_layers(model, {"x": (1, 2, 4, 4)}))
    assert found == {("a", "b"): size, ("b", "a"): 4 * size}


def test_real_layers_beside_integers_pay() -> None:
    conversions = Conversions({("a", "b"): 1.0, ("b", "a"): 2.0, ("b", "c"): 4.0})
    assert conversions.paid_ms(set()) == 0.0
    assert conversions.paid_ms({"b"}) == 6.0
    assert conversions.paid_ms({"a"}) == 1.0
    assert conversions.paid_ms({"a", "b", "c"}) == 0.0


def total_ms(conversions: Conversions, choices: dict[str, Option]) -> float:
    return sum(o.latency_ms for o in choices.values()) + conversions.paid_ms(in_integers(choices))


def least_damage(
    conversions: Conversions, options: dict[str, list[Option]], limit_ms: float
) -> dict[str, Option] | None:
    return conversions.least_damage(options, Limits(), 1.0, lambda _: limit_ms)


def both_ways(names: str, ms: float) -> Conversions:
    return Conversions({pair: ms for one, other in pairwise(names) for pair in ((one, other), (other, one))})


@pytest.mark.parametrize(("limit_ms", "integers"), [(30.0, set()), (17.5, {"a", "b", "c"}), (14.0, None)])
def test_a_layer_slower_in_integers_takes_them_where_that_spares_conversions(
    limit_ms: float, integers: set[str] | None
) -> None:
    conversions = both_ways("abc", 1.5)
    options = {
        "a": [option(ORIGINAL, 10.0), option(INTEGERS, 4.0, 1e-3)],
        "b": [option(ORIGINAL, 7.0), option(INTEGERS, 7.5, 1e-3)],
        "c": [option(ORIGINAL, 10.0), option(INTEGERS, 6.0, 1e-3)],
    }
    found = least_damage(conversions, options, limit_ms)
    assert (None if found is None else in_integers(found)) == integers


def test_a_neighbour_without_a_choice_makes_integers_pay() -> None:
    conversions = Conversions({("a", "fixed"): 5.0})
    options = {"a": [option(ORIGINAL, 10.0), option(INTEGERS, 6.0, 1e-3)]}
    assert in_integers(conversions.least_latency(options, 1.0)) == set()


def drawn_network(seed: int) -> tuple[Conversions, dict[str, list[Option]]]:
    """Seven layers in a chain with two skips: so few that one layer more or less in integers counts for much."""
    rng = np.random.default_rng(seed)
    names = [f"l{index}" for index in range(7)]
    pairs = [*pairwise(names), (names[0], names[3]), (names[2], names[6])]
    prices = {pair: float(rng.uniform(0, 2)) for one, other in pairs for pair in ((one, other), (other, one))}
    options = {
        name: [
            option(ORIGINAL, float(rng.uniform(4, 6))),
            option(LOW_RANK, float(rng.uniform(2, 4)), float(rng.uniform(1, 9)) * 1e-2),
            option(INTEGERS, float(rng.uniform(1, 5)), float(rng.uniform(1, 9)) * 1e-3),
        ]
        for name in names
    }
    return Conversions(prices), options


def every_selection(options: dict[str, list[Option]]) -> Iterator[dict[str, Option]]:
    return (dict(zip(options, chosen, strict=True)) for chosen in product(*options.values()))


@pytest.mark.parametrize("seed", range(6))
def test_what_is_found_is_near_the_best_of_all(seed: int) -> None:
    conversions, options = drawn_network(seed)
    every = np.array([(total_ms(conversions, c), sum(o.damage for o in c.values())) for c in every_selection(options)])
    times, damage = every.T
    fastest = times.min()
    assert total_ms(conversions, conversions.least_latency(options, np.inf)) == pytest.approx(fastest)
    for share in (1.02, 1.1, 1.3, 1.6):
        limit_ms = share * fastest
        found = least_damage(conversions, options, limit_ms)
        assert found is not None
        assert total_ms(conversions, found) <= limit_ms * (1 + 1e-9)
        best = damage[times <= limit_ms].min()
        assert sum(o.damage for o in found.values()) <= 1.4 * best
    for most in (0.01, 0.03, 0.1):
        quick = conversions.least_latency(options, most)
        assert sum(o.damage for o in quick.values()) <= most * (1 + 1e-9)
        assert total_ms(conversions, quick) <= 1.1 * times[damage <= most].min()
