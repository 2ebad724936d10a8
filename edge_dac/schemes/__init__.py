"""Factorization schemes. Only numpy."""

from edge_dac.schemes.dac import Dac
from edge_dac.schemes.dense import Dense
from edge_dac.schemes.scheme import Scheme

SCHEMES: dict[str, Scheme] = {scheme.name: scheme for scheme in (Dense(), Dac())}
"""Every scheme by its name."""
