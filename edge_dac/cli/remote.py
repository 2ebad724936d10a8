"""What the subcommands for daemons share: targets, one connection each, all at once, and one report."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_dac.cli.arguments import add_json
from edge_dac.cli.output import print_error, print_json, print_table
from edge_dac.client import ChangeOptions, ControlClient
from edge_dac.control_values import ChangeResult
from edge_dac.errors import EdgeDacError, RemoteError, UsageError
from edge_dac.tls import ClientTls

_DEFAULT_TARGET = "127.0.0.1:8001"
_TLS_CA = "EDGE_DAC_TLS_CA"
_MAX_PARALLEL = 32


@dataclass(frozen=True, slots=True)
class Answer:
    """What one device answered: a value, or the error."""

    target: str
    value: Any = None
    error: EdgeDacError | None = None


def add_target(parser: argparse.ArgumentParser) -> None:
    """Options of every command that talks to daemons."""
    parser.add_argument(
        "--target",
        default=os.environ.get("EDGE_DAC_TARGET", _DEFAULT_TARGET),
        metavar="ADDR[,ADDR...]",
        help=f"daemons, as host:port or unix:/path (EDGE_DAC_TARGET, else {_DEFAULT_TARGET})",
    )
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="file with the operator's token")
    parser.add_argument("--tls-ca", type=Path, metavar="FILE", help=f"speak TLS; authority of the daemons ({_TLS_CA})")
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate of this client, where one is wanted")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="its key")
    parser.add_argument("--timeout", type=float, default=None, metavar="S", help="longest wait for an answer, seconds")
    add_json(parser)


def add_change(parser: argparse.ArgumentParser, *, plans: bool) -> None:
    """Options of every command that changes something; ``plans``: those that matter where a plan is made."""
    parser.add_argument("--model", default="", metavar="NAME", help="model; needed where a daemon has several")
    parser.add_argument("--dry-run", action="store_true", help="tell what would come of it; change nothing")
    parser.add_argument(
        "--expected-generation", type=int, metavar="N", help="do it only if this is the newest generation"
    )
    parser.add_argument("--no-wait", action="store_true", help="come back when it is accepted, not when it is applied")
    parser.add_argument(
        "--allow-gap", action="store_true", help="where memory is short, unload first and let requests wait"
    )
    if plans:
        parser.add_argument("--best-effort", action="store_true", help="take the best there is if it cannot be met")


def options_of(arguments: argparse.Namespace) -> ChangeOptions:
    """The options of :func:`add_change`."""
    return ChangeOptions(
        expected_generation=arguments.expected_generation,
        dry_run=arguments.dry_run,
        best_effort=getattr(arguments, "best_effort", False),
        allow_gap=arguments.allow_gap,
        no_wait=arguments.no_wait,
    )


def targets_of(arguments: argparse.Namespace) -> list[str]:
    """The addresses.

    Raises:
        UsageError: there are none, or one has no port: gRPC would try that of HTTPS.
    """
    targets = [target.strip() for target in arguments.target.split(",") if target.strip()]
    if not (targets and all(map(_is_address, targets))):
        raise UsageError(f"--target: expected host:port or unix:/path, got {arguments.target!r}")
    return list(dict.fromkeys(targets))


def _is_address(target: str) -> bool:
    return target.startswith("unix:") or target.rpartition(":")[2].isdecimal()


def connect(arguments: argparse.Namespace, target: str) -> ControlClient:
    """A client for one target.

    Raises:
        UsageError: the token file or a certificate cannot be read.
    """
    limits = (
        {} if arguments.timeout is None else {"timeout_s": arguments.timeout, "change_timeout_s": arguments.timeout}
    )
    return ControlClient(target, token=_token(arguments.token_file), tls=_tls(arguments), **limits)


def _tls(arguments: argparse.Namespace) -> ClientTls | None:
    ca = arguments.tls_ca or (Path(os.environ[_TLS_CA]) if os.environ.get(_TLS_CA) else None)
    if ca is not None:
        return ClientTls(ca, arguments.tls_cert, arguments.tls_key)
    if arguments.tls_cert or arguments.tls_key:
        raise UsageError("--tls-cert, --tls-key: expected --tls-ca beside them, got none")
    return None


def _token(path: Path | None) -> str | None:
    if path is None:
        return os.environ.get("EDGE_DAC_TOKEN")
    try:
        return path.read_text().partition("\n")[0].strip()
    except OSError as error:
        raise UsageError(f"--token-file: {path}: cannot be read: {error.strerror}") from error


def ask_all(arguments: argparse.Namespace, ask: Callable[[ControlClient], Any]) -> list[Answer]:
    """Ask every target at once; one that fails does not keep the others from answering."""

    def ask_one(target: str) -> Answer:
        try:
            with connect(arguments, target) as client:
                return Answer(target, ask(client))
        except RemoteError as error:
            return Answer(target, error=error)

    targets = targets_of(arguments)
    with ThreadPoolExecutor(min(len(targets), _MAX_PARALLEL)) as pool:
        return list(pool.map(ask_one, targets))


def the_model(client: ControlClient, name: str) -> str:
    """The model that is meant: the named one, or the only one.

    Raises:
        RemoteError: the daemon has none or several.
    """
    if name:
        return name
    names = [model.name for model in client.models()]
    if len(names) != 1:
        raise RemoteError(f"--model: expected the name of one of {names}, got none")
    return names[0]


def report_errors(answers: Sequence[Answer]) -> int:
    """One line for each device that failed; returns the exit code: 0, or that of the first failure."""
    errors = [answer.error for answer in answers if answer.error is not None]
    for error in errors:
        print_error(str(error))
    return errors[0].exit_code if errors else 0


def json_of(answers: Sequence[Answer], show: Callable[[Any], Any]) -> list[dict[str, Any]]:
    """The answers as JSON values, one object a device."""
    return [
        {"target": answer.target, **({"error": str(answer.error)} if answer.error else show(answer.value))}
        for answer in answers
    ]


def change_all(arguments: argparse.Namespace, change: Callable[[ControlClient, str], ChangeResult]) -> int:
    """Make one change on the model of every target and report; returns the exit code."""

    def make(client: ControlClient) -> tuple[str, ChangeResult]:
        model = the_model(client, arguments.model)
        return model, change(client, model)

    answers = ask_all(arguments, make)
    if arguments.json:
        print_json(json_of(answers, lambda value: {"model": value[0], **value[1].to_json()}))
    else:
        rows = [
            _row(answer.target, answer.value[0], answer.value[1], arguments)
            for answer in answers
            if answer.error is None
        ]
        if rows:
            columns = ("device", "model", "generation", "result", "point", "latency ms", "of", "error")
            print_table(f"edge-dac {arguments.command}", columns, rows)
    return report_errors(answers)


def _row(target: str, model: str, result: ChangeResult, arguments: argparse.Namespace) -> tuple[object, ...]:
    if arguments.no_wait and not arguments.dry_run:
        return target, model, result.generation, "accepted", "", "", "", ""
    done = "applied" if result.applied else "would be"
    return (
        target,
        model,
        result.generation,
        done if result.budget_met else f"{done}, budget not met",
        result.point.id[:12],
        number(result.point.latency_ms),
        number(result.original_latency_ms),
        number(result.point.predicted_error, 4),
    )


def number(value: float | None, digits: int = 2) -> str:
    """A number for a table; empty if unknown."""
    return "" if value is None else f"{value:.{digits}f}"
