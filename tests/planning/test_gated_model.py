from __future__ import annotations

import numpy as np
from architectures.tiny import TINY_SHAPE, make_tiny_network

from edge_dac.device.probes import open_session, session_options
from edge_dac.graph.layers import find_layers
from edge_dac.graph.rewriting import replace_layers
from edge_dac.lowerings import LOWERINGS
from edge_dac.planning.gated_model import GatedModel
from edge_dac.schemes import SCHEMES


def test_a_gate_switches_its_layer_and_no_other() -> None:
    model = make_tiny_network()
    inventory = find_layers(model, {"x": TINY_SHAPE})
    feeds = {"x": np.random.default_rng(1).normal(size=TINY_SHAPE).astype(np.float32)}
    factorizations = {layer.name: SCHEMES["channel"].factorize(layer, 2) for layer in inventory.layers}
    gated = GatedModel(model, inventory, factorizations, ["out"], 1)
    original = open_session(model.SerializeToString(), session_options(1)).run(None, feeds)[0]
    np.testing.assert_allclose(gated.run(feeds)[0], original, rtol=1e-4, atol=1e-5)
    for name, factorization in factorizations.items():
        replaced = replace_layers(
            model,
            inventory,
            {name: lambda layer, i, o, f=factorization: LOWERINGS["direct"].lower(layer, f, i, o)},  # type: ignore[misc]
        )
        expected = open_session(replaced.SerializeToString(), session_options(1)).run(None, feeds)[0]
        got = gated.run(feeds, [name])[0]
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
        assert np.abs(got - original).max() > 1e-3
