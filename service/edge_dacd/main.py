"""The command ``edge-dacd``: read the configuration and the flags, then serve."""

from __future__ import annotations

import argparse
import os
import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from edge_dac.cli.arguments import parse_values
from edge_dac.errors import EdgeDacError, ModelNotFoundError, UsageError
from edge_dac.planning.budget import Budget
from edge_dacd import logs, memory
from edge_dacd.authorization import read_token
from edge_dacd.config import CompressionConfig, Config, ConfigError, check, load_config
from edge_dacd.daemon import Daemon
from edge_dacd.models import ModelSource
from edge_dacd.sources import find_sources
from edge_dacd.tls import server_credentials


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the daemon in the foreground; returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        read = partial(_configuration, options)
        config = read()
        find = partial(
            find_sources,
            paths=options.models,
            budget=_budget(options),
            shapes=_shapes(options),
            values=_values(options),
        )
        sources = find(config)
        _check_repository(config)
        if options.check:
            _check_files(config, sources)
            print(f"models: {', '.join(sorted(sources)) or 'none'}")  # noqa: T201 - the answer of the command
            return 0
        logs.configure(config.server.log_level, config.server.log_format)
        memory.keep_buffers()
        _allow_descriptors()
        required = [path.stem for path in options.models] or (list(sources) if len(sources) == 1 else [])
        return Daemon(config, read, find, required, _state(config)).run()
    except EdgeDacError as error:
        print(f"edge-dacd: {error}", file=sys.stderr)  # noqa: T201 - the one line of a command that failed
        return error.exit_code


def _check_repository(config: Config) -> None:
    folder = config.repository.path
    if folder and not Path(folder).is_dir():
        raise ConfigError(f"repository.path: expected a folder, found none at {folder}")


def _check_files(config: Config, sources: Mapping[str, ModelSource]) -> None:
    """What a start would fail at, or go on without, for want of a file."""
    server_credentials(config.server)
    if config.control.token_file:
        read_token(Path(config.control.token_file))
    for name, source in sources.items():
        if not source.path.is_file():
            raise ModelNotFoundError(f"model {name!r}: expected an ONNX file, found none at {source.path}")


def _allow_descriptors() -> None:
    """As many as the system grants: each connection takes one, and 1024 are soon used up by clients that do nothing."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edge-dacd",
        description="Serve ONNX models over gRPC (Open Inference Protocol v2); without a model, the embedded demo.",
    )
    parser.add_argument("models", metavar="MODEL", nargs="*", type=Path, help="ONNX file, served under its stem")
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML configuration")
    parser.add_argument("--listen", action="append", metavar="ADDR", help="host:port or unix:PATH; may be repeated")
    parser.add_argument("--metrics-listen", metavar="HOST:PORT", help="Prometheus endpoint")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--budget-ms", type=float, metavar="N", help="compress to this latency in milliseconds")
    budget.add_argument("--speedup", type=float, metavar="X", help="compress to this speed-up over the original")
    parser.add_argument(
        "--shape", action="append", default=[], metavar="NAME=1,3,224,224", help="input shape of the one MODEL"
    )
    parser.add_argument(
        "--value", action="append", default=[], metavar="NAME=N", help="the number that an input of the one MODEL holds"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="threads for all runs together; 0 for all cores")
    parser.add_argument("--state-dir", metavar="DIR", help="operating points and history")
    parser.add_argument("--no-compress", action="store_true", help="serve the models as they are")
    parser.add_argument("--log-format", choices=("auto", "text", "json"))
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"))
    parser.add_argument("--check", action="store_true", help="check configuration and flags, list the models, and end")
    return parser


def _configuration(options: argparse.Namespace) -> Config:
    """The file, if there is one, with the flags over it."""
    config = _with_flags(load_config(options.config) if options.config else Config(), options)
    check(config)
    return config


def _with_flags(config: Config, options: argparse.Namespace) -> Config:
    """The configuration with the flags over it."""
    server, compute, state = config.server, config.compute, config.state
    if options.listen:
        server = replace(server, listen=tuple(options.listen))
    for name in ("metrics_listen", "log_format", "log_level"):
        if getattr(options, name) is not None:
            server = replace(server, **{name: getattr(options, name)})
    if options.threads is not None:
        compute = replace(compute, threads=options.threads)
    if options.state_dir:
        state = replace(state, path=options.state_dir)
    compression = CompressionConfig(enabled=False) if options.no_compress else config.compression
    return replace(config, server=server, compute=compute, state=state, compression=compression)


def _budget(options: argparse.Namespace) -> Budget | None:
    if options.budget_ms is None and options.speedup is None:
        return None
    return Budget(latency_ms=options.budget_ms, speedup=options.speedup)


def _shapes(options: argparse.Namespace) -> dict[str, tuple[int, ...]]:
    if options.shape and len(options.models) != 1:
        raise UsageError(f"--shape: expected one MODEL beside it, got {len(options.models)}")
    shapes = {}
    for text in options.shape:
        name, _, extents = text.rpartition("=")
        numbers = extents.split(",")
        if not name or not all(number.isdecimal() and int(number) > 0 for number in numbers):
            raise UsageError(f"--shape: expected NAME=1,3,224,224, got {text!r}")
        shapes[name] = tuple(map(int, numbers))
    return shapes


def _values(options: argparse.Namespace) -> dict[str, float]:
    if options.value and len(options.models) != 1:
        raise UsageError(f"--value: expected one MODEL beside it, got {len(options.models)}")
    return parse_values(options.value)


def _state(config: Config) -> Path:
    """The folder of the configuration, else systemd's, else the user's."""
    if config.state.path:
        return Path(config.state.path)
    # systemd gives a list with colons; one StateDirectory= makes one entry.
    given = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "edge-dac"
