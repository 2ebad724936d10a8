"""The commands of docs/operations.md, typed as they stand there, against a real daemon."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

DOCUMENT = Path(__file__).parents[2] / "docs" / "operations.md"


def commands():
    section = DOCUMENT.read_text().partition("## Walk-through")[2].partition("\n## ")[0]
    return re.findall(r"^    edge-dac (.+)$", section, re.MULTILINE)


def run(command, address):
    return subprocess.run(
        [sys.executable, "-m", "edge_dac.cli.main", *command.split()],
        env={**os.environ, "EDGE_DAC_TARGET": address},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_walkthrough(serve, small_network):
    typed = commands()
    assert [command.split()[0] for command in typed] == [
        "discover", "status", "budget", "budget", "watch", "pin", "pin", "status", "rollback", "ranks"
    ]  # fmt: skip
    if importlib.util.find_spec("zeroconf") is None:
        typed.remove("discover")
    daemon = serve(small_network)
    for command in typed:
        done = run(command, daemon.address)
        assert done.returncode == 0, (command, done.stderr, daemon.log.read_text())
    status = json.loads(run("status --json", daemon.address).stdout)
    (model,) = status[0]["models"]
    applied = [(one["cause"], one["state"]) for one in model["history"]]
    causes = ["start", "set_budget", "set_active_point", "set_active_point", "rollback", "set_ranks"]
    assert applied == [(cause, "applied") for cause in causes]


def test_one_of_two_devices_does_not_answer(serve, prepared):
    daemon = serve(prepared.model, prepared.state)
    done = run(f"pin original --timeout 2 --json --target {daemon.address},127.0.0.1:1", daemon.address)
    assert done.returncode == 1
    assert "127.0.0.1:1: UNAVAILABLE" in done.stderr
    good, bad = json.loads(done.stdout)
    assert (good["generation"], good["point"]["id"]) == (2, "original")
    assert bad["target"] == "127.0.0.1:1"
    assert "error" in bad
