"""The model that a subcommand's arguments name."""

from __future__ import annotations

import argparse

from edge_dac.cli.arguments import parse_shapes, parse_values
from edge_dac.planning.subject import Subject, load_subject


def load_named_subject(arguments: argparse.Namespace) -> Subject:
    """``MODEL``, with what ``--shape``, ``--value`` and ``--allow-external`` say of it.

    Raises:
        RefusedError: the model cannot be worked on (see its subclasses).
        UsageError: a shape or a value cannot be read.
    """
    return load_subject(
        arguments.model,
        input_shapes=parse_shapes(arguments.shape),
        input_values=parse_values(arguments.value),
        allow_external=arguments.allow_external,
    )
