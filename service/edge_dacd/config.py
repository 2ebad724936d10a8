"""The daemon's configuration: typed, from TOML, nothing in it that is not known.

A configuration file has the tables ``[server]``, ``[compute]``, ``[repository]``, ``[state]``, ``[compression]``,
``[control]`` and one ``[models.NAME]`` for each model; the fields of the dataclasses below are their keys.
``deploy/config.toml`` shows them all. Files and folders may be relative to the configuration file.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from edge_dac.errors import BudgetError, UsageError
from edge_dac.planning.budget import Budget

_T = TypeVar("_T")
_TABLES_AT_RUN_TIME = frozenset({"models", "repository", "control"})
_KEYS_AT_RUN_TIME = frozenset(
    f"server.{name}" for name in ("max_deadline_s", "shared_memory", "drain_s", "log_level", "log_format")
)
"""What a running daemon takes over from a configuration that has changed."""
LARGEST_MESSAGE_BYTES = (1 << 31) - 1
"""gRPC and protobuf count a message's bytes with a sign in 32 bits."""
_LONGEST_S = (1 << 31) // 1000
"""gRPC takes milliseconds in as many bits: 24 days."""


class ConfigError(UsageError):
    """The configuration says something that cannot be used; the message names file and key."""


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """``[server]``: where and how to listen.

    Attributes:
        listen: ``host:port`` or ``unix:/path``; port 0 takes a free one.
        tls_certificate, tls_key: PEM files; with them every address over TCP speaks TLS only. Empty for none.
        tls_client_ca: PEM file; only clients with a certificate of this authority may connect over TCP. Empty for all.
        metrics_listen: ``host:port`` of the Prometheus endpoint; empty for none.
        max_message_bytes: largest message, at most 2 GiB - 1, as gRPC has it; 0 derives it from the inputs of the models
            at the start, at least 64 MiB.
        max_concurrent_requests: inferences in work at once, and as many other calls, streams among them; more are
            refused.
        max_deadline_s: no request waits longer than this for its run; 0 for no limit.
        max_connection_age_s: connections are renewed after this; 0 for never.
        keepalive_s: a silent connection is probed after this.
        shared_memory: whether clients on this device may register shared memory.
        drain_s: how long requests in flight may take after SIGTERM.
        log_level: ``debug``, ``info``, ``warning`` or ``error``.
        log_format: ``text``, ``json``, or ``auto`` (text, with levels that journald reads when it listens).
    """

    listen: tuple[str, ...] = ("127.0.0.1:8001",)
    tls_certificate: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""
    metrics_listen: str = ""
    max_message_bytes: int = 0
    max_concurrent_requests: int = 64
    max_deadline_s: float = 0.0
    max_connection_age_s: float = 0.0
    keepalive_s: float = 60.0
    shared_memory: bool = True
    drain_s: float = 20.0
    log_level: str = "info"
    log_format: str = "auto"


@dataclass(frozen=True, slots=True)
class ComputeConfig:
    """``[compute]``: the thread budget of the device.

    Attributes:
        threads: for all runs together, at most the cores that the daemon may use; 0 for all of them.
        parallel_runs: runs at once; each has ``threads / parallel_runs`` threads.
    """

    threads: int = 0
    parallel_runs: int = 1


@dataclass(frozen=True, slots=True)
class RepositoryConfig:
    """``[repository]``: ``path`` of a folder with ``NAME.onnx`` or ``NAME/VERSION/model.onnx``; empty for none."""

    path: str = ""


@dataclass(frozen=True, slots=True)
class StateConfig:
    """``[state]``: ``path`` of the folder for operating points and history; empty for systemd's, or the user's."""

    path: str = ""


@dataclass(frozen=True, slots=True)
class CompressionConfig:
    """``[compression]``: whether models with a budget are compressed; the limits of the process that does it."""

    enabled: bool = True
    memory_mb: int = 0
    nice: int = 10


@dataclass(frozen=True, slots=True)
class ControlConfig:
    """``[control]``: who may change budgets, and whether the daemon changes operating points by itself.

    Attributes:
        token_file: file with the token that operators outside the Unix socket need; empty lets only this device in.
        governor: whether it moves along the ladder to hold a latency budget.
        allow_gap: whether every change may unload the active point first where memory for two is short.
        announce: whether to announce itself on the local network by mDNS; needs the package zeroconf.
    """

    token_file: str = ""
    governor: bool = True
    allow_gap: bool = False
    announce: bool = False


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """``[models.NAME]``.

    Attributes:
        path: the ONNX file.
        queue_size: requests that may wait in a burst; more are refused at once, and in a lasting overload earlier.
        max_batch_size: requests that may share a run, for models with a free first dimension; 1 for none.
        shapes: input shapes to warm up and plan at, for inputs with free extents.
        values: the one number that an input holds in every run, such as a sampling rate: what to warm up and plan with.
        budget: the keys of a budget: ``latency_ms`` and ``percentile``, ``speedup``, ``max_error``, ...
    """

    path: str
    queue_size: int = 16
    max_batch_size: int = 1
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)
    budget: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Config:
    """The whole file."""

    server: ServerConfig = field(default_factory=ServerConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    repository: RepositoryConfig = field(default_factory=RepositoryConfig)
    state: StateConfig = field(default_factory=StateConfig)
    compression: CompressionConfig = field(default_factory=CompressionConfig)
    control: ControlConfig = field(default_factory=ControlConfig)
    models: dict[str, ModelConfig] = field(default_factory=dict)


def load_config(path: Path) -> Config:
    """Read and check a configuration file.

    Raises:
        ConfigError: it cannot be read, is not TOML, has an unknown key or a value of a wrong type or range.
    """
    try:
        values = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    try:
        config = _read(Config, values, "")
        check(config)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return _located(config, path.parent)


def _located(config: Config, folder: Path) -> Config:
    """``config`` with relative files and folders put behind ``folder``."""

    def located(table: _T, *names: str) -> _T:
        found = {name: str(folder / path) for name in names if (path := getattr(table, name))}
        return replace(table, **found)  # type: ignore[type-var]

    return replace(
        config,
        server=located(config.server, "tls_certificate", "tls_key", "tls_client_ca"),
        repository=located(config.repository, "path"),
        state=located(config.state, "path"),
        control=located(config.control, "token_file"),
        models={name: located(model, "path") for name, model in config.models.items()},
    )


def needs_restart(running: Config, wanted: Config) -> list[str]:
    """The keys in which ``wanted`` differs from ``running`` and that a running daemon cannot take over."""
    return [
        key
        for table in fields(Config)
        if table.name not in _TABLES_AT_RUN_TIME
        for item in fields(getattr(running, table.name))
        if (key := f"{table.name}.{item.name}") not in _KEYS_AT_RUN_TIME
        and getattr(getattr(running, table.name), item.name) != getattr(getattr(wanted, table.name), item.name)
    ]


def check(config: Config) -> None:
    """Refuse values of the right type that make no sense.

    Raises:
        ConfigError: with the key, what was expected and what came.
    """
    server, compute = config.server, config.compute
    _expect(bool(server.listen), "server.listen", "at least one address", server.listen)
    for address in server.listen:
        _check_address("server.listen", address, unix=True)
    if server.metrics_listen:
        _check_address("server.metrics_listen", server.metrics_listen, unix=False)
    has_tls = bool(server.tls_certificate)
    _expect(bool(server.tls_key) == has_tls, "server.tls_key", "a file together with tls_certificate", server.tls_key)
    _expect(has_tls or not server.tls_client_ca, "server.tls_client_ca", "tls_certificate too", server.tls_client_ca)
    for name in ("max_message_bytes", "max_deadline_s", "max_connection_age_s", "drain_s"):
        value = getattr(server, name)
        _expect(value >= 0, f"server.{name}", "at least 0", value)
    _expect(
        server.max_message_bytes <= LARGEST_MESSAGE_BYTES,
        "server.max_message_bytes",
        f"at most {LARGEST_MESSAGE_BYTES}",
        server.max_message_bytes,
    )
    for name in ("max_connection_age_s", "drain_s", "keepalive_s"):
        value = getattr(server, name)
        _expect(value <= _LONGEST_S, f"server.{name}", f"at most {_LONGEST_S}", value)
    _expect(
        server.max_concurrent_requests >= 1,
        "server.max_concurrent_requests",
        "at least 1",
        server.max_concurrent_requests,
    )
    _expect(server.keepalive_s >= 1, "server.keepalive_s", "at least 1", server.keepalive_s)
    levels, formats = ("debug", "info", "warning", "error"), ("auto", "text", "json")
    _expect(server.log_level in levels, "server.log_level", f"one of {levels}", server.log_level)
    _expect(server.log_format in formats, "server.log_format", f"one of {formats}", server.log_format)
    _expect(compute.threads >= 0, "compute.threads", "at least 0", compute.threads)
    _expect(compute.parallel_runs >= 1, "compute.parallel_runs", "at least 1", compute.parallel_runs)
    memory_mb, nice = config.compression.memory_mb, config.compression.nice
    _expect(memory_mb >= 0, "compression.memory_mb", "at least 0", memory_mb)
    _expect(0 <= nice <= 19, "compression.nice", "0 to 19", nice)
    for name, model in config.models.items():
        key = f"models.{name}"
        _expect(bool(model.path), f"{key}.path", "a file", model.path)
        _expect(model.queue_size >= 0, f"{key}.queue_size", "at least 0", model.queue_size)
        _expect(model.max_batch_size >= 1, f"{key}.max_batch_size", "at least 1", model.max_batch_size)
        for tensor, shape in model.shapes.items():
            _expect(all(extent > 0 for extent in shape), f"{key}.shapes.{tensor}", "extents above 0", list(shape))
        for tensor, number in model.values.items():
            _expect(math.isfinite(number), f"{key}.values.{tensor}", "a finite number", number)
        try:
            Budget.from_json(model.budget)
        except BudgetError as error:
            raise ConfigError(f"{key}.budget: {error}") from error


def _check_address(key: str, address: str, *, unix: bool) -> None:
    if unix and address.startswith("unix:") and len(address) > len("unix:"):
        return
    host, colon, port = address.rpartition(":")
    wanted = "host:port or unix:/path" if unix else "host:port"
    _expect(bool(host and colon) and port.isdecimal() and int(port) < 65536, key, wanted, address)


def _expect(holds: bool, key: str, expected: str, got: object) -> None:
    if not holds:
        raise ConfigError(f"{key}: expected {expected}, got {got!r}")


def _read(kind: type[_T], values: Any, key: str) -> _T:
    """An instance of the dataclass ``kind`` from a TOML table."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{key}: expected a table, got {values!r}")
    hints = get_type_hints(kind)
    prefix = f"{key}." if key else ""
    for name in values:
        if name not in hints:
            raise ConfigError(f"{prefix}{name}: unknown key; expected one of {sorted(hints)}")
    for item in fields(kind):  # type: ignore[arg-type]
        if item.name not in values and item.default is MISSING and item.default_factory is MISSING:
            raise ConfigError(f"{prefix}{item.name}: expected a value, got none")
    return kind(**{name: _convert(hints[name], value, f"{prefix}{name}") for name, value in values.items()})


def _convert(hint: Any, value: Any, key: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if is_dataclass(hint):
        return _read(hint, value, key)  # type: ignore[arg-type]
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{key}: expected a table, got {value!r}")
        return {name: _convert(arguments[1], item, f"{key}.{name}") for name, item in value.items()}
    if origin is tuple:
        if not isinstance(value, list):
            raise ConfigError(f"{key}: expected a list, got {value!r}")
        return tuple(_convert(arguments[0], item, f"{key}[{index}]") for index, item in enumerate(value))
    if hint is Any:
        return value
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise ConfigError(f"{key}: expected {hint.__name__}, got {value!r}")
    return value
