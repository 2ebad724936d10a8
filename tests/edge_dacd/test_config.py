from __future__ import annotations

from pathlib import Path

import pytest

from edge_dacd.config import Config, ConfigError, load_config, needs_restart


def load(folder: Path, text: str) -> Config:
    path = folder / "config.toml"
    path.write_text(text)
    return load_config(path)


def test_empty_is_all_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, "") == Config()


def test_values_arrive_typed(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        '[server]\nlisten = ["unix:/run/x.sock"]\nmax_deadline_s = 2\n[models.a]\npath = "a.onnx"\n'
        "shapes = { image = [1, 3, 8, 8] }\nvalues = { sr = 16000 }\nbudget = { latency_ms = 5 }\n",
    )
    assert config.server.listen == ("unix:/run/x.sock",)
    assert config.server.max_deadline_s == 2.0
    assert isinstance(config.server.max_deadline_s, float)
    assert config.models["a"].shapes == {"image": (1, 3, 8, 8)}
    assert config.models["a"].values == {"sr": 16000.0}
    assert config.models["a"].budget == {"latency_ms": 5}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "x: unknown key; expected one of"),
        ("[server]\nport = 1", "server.port: unknown key"),
        ("[models.a]\npath = 'a'\nsize = 1", "models.a.size: unknown key"),
        ("[models.a]", "models.a.path: expected a value, got none"),
        ("[models]\na = 1", "models.a: expected a table, got 1"),
        ("server = 1", "server: expected a table, got 1"),
        ("[server]\nlisten = 'a:1'", "server.listen: expected a list, got 'a:1'"),
        ("[server]\nlisten = []", "server.listen: expected at least one address"),
        ("[server]\nlisten = [1]", r"server.listen\[0\]: expected str, got 1"),
        ("[server]\nlisten = ['a:70000']", "server.listen: expected host:port or unix:/path, got 'a:70000'"),
        ("[server]\nmetrics_listen = 'unix:/x'", "server.metrics_listen: expected host:port, got 'unix:/x'"),
        ("[server]\nshared_memory = 1", "server.shared_memory: expected bool, got 1"),
        ("[server]\nmax_message_bytes = true", "server.max_message_bytes: expected int, got True"),
        ("[server]\nmax_message_bytes = -1", "server.max_message_bytes: expected at least 0, got -1"),
        (
            f"[server]\nmax_message_bytes = {1 << 31}",
            "server.max_message_bytes: expected at most 2147483647, got 2147483648",
        ),
        ("[server]\nmax_connection_age_s = inf", "server.max_connection_age_s: expected at most 2147483, got inf"),
        ("[server]\nkeepalive_s = 3_000_000", "server.keepalive_s: expected at most 2147483, got 3000000.0"),
        ("[server]\ndrain_s = nan", "server.drain_s: expected at least 0, got nan"),
        ("[server]\nmax_deadline_s = 'x'", "server.max_deadline_s: expected float, got 'x'"),
        ("[server]\nlog_level = 'loud'", "server.log_level: expected one of"),
        ("[server]\ntls_certificate = 'x'", "server.tls_key: expected a file together with tls_certificate, got ''"),
        ("[server]\ntls_client_ca = 'x'", "server.tls_client_ca: expected tls_certificate too, got 'x'"),
        ("[compute]\nthreads = -2", "compute.threads: expected at least 0, got -2"),
        ("[compute]\nparallel_runs = 0", "compute.parallel_runs: expected at least 1, got 0"),
        ("[compression]\nmemory_mb = -1", "compression.memory_mb: expected at least 0, got -1"),
        ("[compression]\nnice = 20", "compression.nice: expected 0 to 19, got 20"),
        ("[models.a]\npath = 'a'\nqueue_size = -1", "models.a.queue_size: expected at least 0, got -1"),
        ("[models.a]\npath = 'a'\nshapes = { x = [0] }", "models.a.shapes.x: expected extents above 0"),
        ("[models.a]\npath = 'a'\nvalues = { x = nan }", "models.a.values.x: expected a finite number"),
        ("[models.a]\npath = 'a'\nvalues = { x = true }", "models.a.values.x: expected float, got True"),
        (
            "[models.a]\npath = 'a'\nbudget = { latency_ms = 0 }",
            "models.a.budget: latency_ms: expected a number above 0",
        ),
        ("[models.a]\npath = 'a'\nbudget = { ms = 1 }", "models.a.budget: budget: unknown key 'ms'"),
        ("[server", "not TOML"),
    ],
)
def test_what_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load(tmp_path, text)
    assert str(tmp_path / "config.toml") in str(caught.value)
    assert caught.value.exit_code == 2


def test_files_may_be_relative_to_the_configuration(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        """
        server = { tls_certificate = "tls/device.pem", tls_key = "/etc/device.key" }
        repository = { path = "." }
        control = { token_file = "token" }
        models = { a = { path = "../a.onnx" } }
        """,
    )
    assert config.server.tls_certificate == str(tmp_path / "tls" / "device.pem")
    assert config.server.tls_key == "/etc/device.key"
    assert config.server.tls_client_ca == config.state.path == ""
    assert config.repository.path == str(tmp_path)
    assert config.control.token_file == str(tmp_path / "token")
    assert config.models["a"].path == str(tmp_path / ".." / "a.onnx")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_config(tmp_path / "none.toml")


def test_what_needs_a_restart(tmp_path: Path) -> None:
    running = load(tmp_path, "")
    at_run_time = (
        '[server]\nmax_deadline_s = 2\nlog_level = "debug"\nlog_format = "json"\nshared_memory = false\ndrain_s = 1\n'
        '[control]\ntoken_file = "token"\nallow_gap = true\ngovernor = false\nannounce = true\n'
        '[repository]\npath = "models"\n[models.a]\npath = "a.onnx"\n'
    )
    assert needs_restart(running, load(tmp_path, at_run_time)) == []
    later = '[server]\nlisten = ["unix:/x"]\nkeepalive_s = 5\n[compute]\nthreads = 3\n'
    assert needs_restart(running, load(tmp_path, later)) == [
        "server.listen",
        "server.keepalive_s",
        "compute.threads",
    ]
