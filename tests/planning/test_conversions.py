"""What layers in real numbers pay among layers in integers, and selections that settle at such prices."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_dac.graph.layers import find_layers
from edge_dac.planning.candidates import ORIGINAL, Candidate
from edge_dac.planning.conversions import Conversions, in_integers, neighbours
from edge_dac.planning.selection import Limits, Option, cheapest_damage, fastest_within

INTEGERS = Candidate("int8", 8, "int8")
CHAIN = {"a": {"b"}, "b": {"a", "c"}, "c": {"b"}}


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


def test_neighbours_write_read_or_meet() -> None:
    model = residual_network()
    assert neighbours(model, find_layers(model, {"x": (1, 2, 4, 4)})) == {
        "a": {"b", "c"},
        "b": {"a", "c"},
        "c": {"a", "b"},
        "d": {"e"},
        "e": {"d"},
    }


def test_real_layers_pay_for_the_share_of_their_neighbours_in_integers() -> None:
    conversions = Conversions({"a": 1.0, "b": 2.0, "c": 4.0, "alone": 8.0}, CHAIN)
    assert conversions.paid_ms(set()) == 0.0
    assert conversions.paid_ms({"b"}) == 5.0
    assert conversions.paid_ms({"a"}) == 1.0
    assert conversions.paid_ms({"a", "b", "c"}) == 0.0


def total_ms(conversions: Conversions, choices: dict[str, Option]) -> float:
    return sum(o.latency_ms for o in choices.values()) + conversions.paid_ms(in_integers(choices))


@pytest.mark.parametrize(("limit_ms", "integers"), [(30.0, set()), (17.5, {"a", "b", "c"}), (14.0, None)])
def test_a_layer_slower_in_integers_takes_them_where_that_spares_conversions(
    limit_ms: float, integers: set[str] | None
) -> None:
    conversions = Conversions({"a": 3.0, "b": 3.0, "c": 3.0}, CHAIN)
    options = {
        "a": [option(ORIGINAL, 10.0), option(INTEGERS, 4.0, 1e-3)],
        "b": [option(ORIGINAL, 7.0), option(INTEGERS, 7.5, 1e-3)],
        "c": [option(ORIGINAL, 10.0), option(INTEGERS, 6.0, 1e-3)],
    }

    def choose(priced: list[list[Option]], twice_ms: float) -> list[int] | None:
        return cheapest_damage(priced, Limits(limit_ms + twice_ms))

    settled = [c for c in conversions.settle(options, choose) if total_ms(conversions, c) <= limit_ms]
    found = [in_integers(c) for c in sorted(settled, key=lambda c: sum(o.damage for o in c.values()))]
    assert (found[0] if found else None) == integers


@pytest.mark.parametrize("seed", range(20))
def test_what_settles_fastest_is_near_the_best_of_all(seed: int) -> None:
    """Against every selection of a chain of seven layers."""
    rng = np.random.default_rng(seed)
    names = [f"l{index}" for index in range(7)]
    around = {name: {*names[i - 1 : i], *names[i + 1 : i + 2]} for i, name in enumerate(names)}
    conversions = Conversions({name: float(rng.uniform(0, 3)) for name in names}, around)
    options = {
        name: [option(ORIGINAL, float(rng.uniform(3, 6))), option(INTEGERS, float(rng.uniform(1, 6)), 1e-3)]
        for name in names
    }

    def choose(priced: list[list[Option]], _: float) -> Sequence[int]:
        return fastest_within(priced, np.inf)

    fastest = min(total_ms(conversions, choices) for choices in conversions.settle(options, choose))
    every = (dict(zip(names, chosen, strict=True)) for chosen in product(*options.values()))
    assert fastest <= 1.1 * min(total_ms(conversions, choices) for choices in every)
