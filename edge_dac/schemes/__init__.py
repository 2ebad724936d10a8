"""Factorization schemes. Only numpy."""

from edge_dac.schemes.channel import Channel
from edge_dac.schemes.dac import Dac
from edge_dac.schemes.decoupled import Decoupled
from edge_dac.schemes.dense import Dense
from edge_dac.schemes.int8 import Int8
from edge_dac.schemes.scheme import Scheme
from edge_dac.schemes.spatial import Spatial
from edge_dac.schemes.tucker import Tucker

SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        Dense(),
        Dac(),
        Decoupled(),
        Spatial("spatial_vh", first_axis=0),
        Spatial("spatial_hv", first_axis=1),
        Channel(),
        Tucker(),
        Int8(),
    )
}
"""Every scheme by its name."""
