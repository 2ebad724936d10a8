"""Arguments that several subcommands share, and their parsers."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Sequence
from pathlib import Path

from edge_dac.convolution import Rank
from edge_dac.errors import UsageError
from edge_dac.planning.budget import LayerRank

_SWITCHES = {"true": 1.0, "false": 0.0}


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="MODEL", help="ONNX file")


def add_shapes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--shape",
        action="append",
        default=[],
        metavar="NAME=D,D,...",
        help="shape of an input whose dimensions the model leaves open, for example images=1,3,224,224",
    )


def add_values(parser: argparse.ArgumentParser) -> None:
    """``--value``, for :func:`parse_values`."""
    parser.add_argument(
        "--value",
        action="append",
        default=[],
        metavar="NAME=N",
        help="the one number that an input holds in every run, for example sr=16000; true and false for a switch",
    )


def add_allow_external(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--allow-external", action="store_true", help="accept tensor data next to the model")


def add_threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=positive_integer, default=1, metavar="N", help="intra-op threads (1)")


def positive_integer(text: str) -> int:
    """Parser of a whole number above 0."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text!r}")
    return value


def add_total_rank(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """``--total-rank``."""
    text = "DAC with ranks of this sum over all layers, shared out where they lose least"
    parser.add_argument("--total-rank", type=positive_integer, metavar="N", help=text)


def add_layer_ranks(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """``--layer``, for :func:`parse_layer_ranks`."""
    parser.add_argument(
        "--layer",
        action="append",
        default=[],
        metavar="NAME=SCHEME:RANK",
        help="one layer: conv1=dac:3, conv2=tucker:16,24, conv3=dense (left alone); may be repeated",
    )


def parse_shapes(texts: list[str]) -> dict[str, tuple[int, ...]]:
    """``NAME=1,3,224,224`` texts by name.

    Raises:
        UsageError: a text of another form.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for text in texts:
        name, _, dimensions = text.rpartition("=")
        if not name or not re.fullmatch(r"[1-9][0-9]*([,x][1-9][0-9]*)*", dimensions):
            raise UsageError(f"--shape: expected NAME=D,D,... with whole numbers above 0, got {text!r}")
        shapes[name] = tuple(int(part) for part in re.split("[,x]", dimensions))
    return shapes


def parse_values(texts: Sequence[str]) -> dict[str, float]:
    """``NAME=N`` texts by name.

    Raises:
        UsageError: a text of another form.
    """
    values: dict[str, float] = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        try:
            value = _SWITCHES[number.lower()] if number.lower() in _SWITCHES else float(number)
        except ValueError:
            value = math.nan
        if not name or not math.isfinite(value):
            raise UsageError(f"--value: expected NAME=N with a finite number, true or false, got {text!r}")
        values[name] = value
    return values


def parse_numbers(option: str, text: str | None, count: int | None = None) -> tuple[float, ...] | None:
    """Comma-separated finite numbers, ``count`` of them where given.

    Raises:
        UsageError: anything else.
    """
    if text is None:
        return None
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or not all(map(math.isfinite, numbers)) or (count is not None and len(numbers) != count):
        expected = f"{count} numbers" if count else "numbers"
        raise UsageError(f"{option}: expected {expected} separated by commas, got {text!r}")
    return numbers


def parse_layer_ranks(texts: Sequence[str]) -> dict[str, LayerRank]:
    """``NAME=SCHEME:RANK`` texts by layer name.

    Raises:
        UsageError: a text of another form.
    """
    return dict(_layer(text) for text in texts)


def _layer(text: str) -> tuple[str, LayerRank]:
    # A layer's name may hold colons, slashes and equals signs; a choice does not.
    name, _, choice = text.rpartition("=")
    scheme, _, numbers = choice.partition(":")
    if not name or not scheme or bool(numbers) == (scheme == "dense"):
        raise UsageError(f"--layer: expected NAME=SCHEME:RANK or NAME=dense, got {text!r}")
    return name, LayerRank(scheme, _rank(text, numbers))


def _rank(text: str, numbers: str) -> Rank | None:
    if not numbers:
        return None
    try:
        ranks = [int(number) for number in numbers.split(",")]
    except ValueError:
        ranks = []
    if len(ranks) not in (1, 2) or min(ranks) < 1:
        raise UsageError(f"--layer: expected one or two ranks above 0, got {text!r}")
    return ranks[0] if len(ranks) == 1 else (ranks[0], ranks[1])
