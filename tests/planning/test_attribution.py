from __future__ import annotations

import numpy as np
import pytest
from architectures.tiny import TINY_SHAPE, make_tiny_network

from edge_dac.device.probes import profile_models
from edge_dac.graph.layers import find_layers
from edge_dac.graph.rewriting import replace_layers
from edge_dac.planning.attribution import Attribution
from edge_dac.planning.candidates import Candidate, enumerate_candidates
from edge_dac.planning.probing import probe_replacement

LAYERS = ("first", "second", "third")


def test_every_layer_of_the_untouched_model_is_found() -> None:
    model = make_tiny_network()
    (timing,) = profile_models([model.SerializeToString()], {"x": np.ones(TINY_SHAPE, np.float32)}, 1, rounds=2)
    assert set(Attribution(model, LAYERS).layer_ms(timing.node_ms)) == set(LAYERS)


def test_every_candidate_in_every_lowering_is_found() -> None:
    model = make_tiny_network()
    inventory = find_layers(model, {"x": TINY_SHAPE})
    feeds = {"x": np.ones(TINY_SHAPE, np.float32)}
    layer = next(layer for layer in inventory.layers if layer.name == "second")
    by_lowering: dict[tuple[str, str], Candidate] = {}
    for candidate in enumerate_candidates(layer, ("int8", "dac", "spatial_vh", "channel", "tucker")):
        by_lowering.setdefault((candidate.scheme, candidate.lowering), candidate)
    assert {"winograd4", "branch_sum", "int8"} <= {lowering for _, lowering in by_lowering}
    protos = [replace_layers(model, inventory, {"second": probe_replacement(c)}) for c in by_lowering.values()]
    timings = profile_models([proto.SerializeToString() for proto in protos], feeds, 1, rounds=2)
    for candidate, proto, timing in zip(by_lowering.values(), protos, timings, strict=True):
        attributed = Attribution(proto, LAYERS).layer_ms(timing.node_ms)
        assert attributed.get("second", 0.0) > 0.0, candidate
        # What no rule explains is the pool and layout reorders at the ends, not a part of a layer.
        assert sum(attributed.values()) > 0.8 * timing.total_ms, candidate


@pytest.mark.parametrize(
    ("profiled", "owner"),
    [("first", "first"), ("z1_nchwc", "first"), ("fused second", "second"), ("second/winograd/matmul", "second")],
)
def test_names_that_the_runtime_gives(profiled: str, owner: str) -> None:
    assert Attribution(make_tiny_network(), LAYERS).layer_ms({profiled: 1.0}) == {owner: 1.0}


def test_reorders_count_for_their_neighbour() -> None:
    spent = {"ReorderInput": 0.5, "first": 1.0, "ReorderOutput_token_3": 0.25, "pool": 4.0}
    assert Attribution(make_tiny_network(), LAYERS).layer_ms(spent) == {"first": 1.75}


def test_a_reorder_counts_for_the_rewritten_layer_that_asked_for_it() -> None:
    spent = {
        "first": 1.0,
        "ReorderOutput_token_3": 0.25,
        "second/factor0/windows": 2.0,
        "ReorderOutput": 0.5,
        "z1_nchwc": 1.0,
    }
    assert Attribution(make_tiny_network(), LAYERS).layer_ms(spent) == {"first": 2.0, "second": 2.75}


def test_changes_of_layout_around_integers_count_for_the_layer_before() -> None:
    spent = {"first/quantize": 0.25, "Transpose_token_2": 0.5, "first": 1.0, "Transpose": 0.25, "pool": 4.0}
    assert Attribution(make_tiny_network(), LAYERS).layer_ms(spent) == {"first": 2.0}
