"""Wrong usage of the remote commands: no daemon is asked."""

import pytest

from edge_dac.cli.main import build_parser, main
from edge_dac.cli.watch import show
from edge_dac.control_values import Event


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["budget"], "expected at least one of --ms"),
        (["budget", "--ms", "0"], "latency_ms: expected a number above 0, got 0.0"),
        (["budget", "--ms", "nan"], "latency_ms: expected a finite number, got nan"),
        (["budget", "--ms", "5", "--percentile", "100"], "percentile: expected 1 to 99"),
        (["ranks"], "expected at least one of --rank"),
        (["ranks", "--layer", "conv1"], "expected NAME=SCHEME:RANK or NAME=dense, got 'conv1'"),
        (["ranks", "--layer", "conv1=dac"], "expected NAME=SCHEME:RANK"),
        (["ranks", "--layer", "conv1=dense:4"], "expected NAME=SCHEME:RANK"),
        (["ranks", "--layer", "conv1=dac:1,2,3"], "expected one or two ranks above 0"),
        (["ranks", "--layer", "conv1=dac:0"], "expected one or two ranks above 0"),
        (["status", "--target", ","], "--target: expected host:port"),
        (["status", "--target", "camera-7"], "--target: expected host:port or unix:/path, got 'camera-7'"),
        (["status", "--tls-cert", "x", "--tls-key", "y"], "expected --tls-ca beside them"),
        (["status", "--tls-ca", "/no/such/file"], "expected a PEM file for TLS"),
        (["status", "--token-file", "/no/such/file"], "cannot be read"),
    ],
)
def test_one_line_and_exit_code_2(words, message, capsys):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("words", [["pin"], ["pin", "x", "--auto"], ["budget", "--ms", "1", "--speedup", "2"]])
def test_argparse_refuses(words):
    with pytest.raises(SystemExit) as end:
        build_parser((words[0],)).parse_args(words)
    assert end.value.code == 2


def test_nobody_answers(capsys):
    assert main(["status", "--target", "127.0.0.1:1,127.0.0.1:2", "--timeout", "1"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 2
    assert "127.0.0.1:1: UNAVAILABLE" in error


@pytest.mark.parametrize(
    ("kind", "values", "line"),
    [
        (
            "progress",
            {"phase": "probe", "percent": 50.0, "eta_s": 3.2, "message": "ranks", "generation": 1},
            "probe 50 %, 3 s left ranks",
        ),
        (
            "decision",
            {"from_point": "a" * 64, "to_point": "original", "reason": "x"},
            "governor: aaaaaaaaaaaa -> original",
        ),
        ("failure", {"generation": 3, "code": "INTERNAL", "message": "why"}, "failed generation 3: INTERNAL: why"),
        ("applied", {"generation": 3, "active_point": "original"}, "applied generation 3, point original"),
    ],
)
def test_events_on_one_line(kind, values, line):
    shown = show("dev:1", Event(1, 0, "m", kind, values))
    assert shown.startswith("00:00:00 dev:1 m ")
    assert line in shown
    assert "\n" not in shown
