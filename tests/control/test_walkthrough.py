"""The commands of docs/operations.md, typed as they stand there, against a real daemon."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from edge_dac.cli.main import main

DOCUMENT = Path(__file__).parents[2] / "docs" / "operations.md"


def commands():
    section = DOCUMENT.read_text().partition("## Walk-through")[2].partition("\n## ")[0]
    return re.findall(r"^    edge-dac (.+)$", section, re.MULTILINE)


def start(command, address):
    return subprocess.Popen(
        [sys.executable, "-m", "edge_dac.cli.main", *command.split()],
        env={**os.environ, "EDGE_DAC_TARGET": address},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_walkthrough(serve, small_network, monkeypatch, capsys):
    typed = commands()
    assert [command.split()[0] for command in typed] == [
        "discover", "status", "budget", "budget", "watch", "pin", "pin", "status", "rollback", "ranks"
    ]  # fmt: skip
    daemon = serve(small_network)
    # It listens for three seconds, whatever is found.
    discover = start(typed.pop(0), daemon.address) if importlib.util.find_spec("zeroconf") else None
    monkeypatch.setenv("EDGE_DAC_TARGET", daemon.address)
    for command in typed:
        assert main(command.split()) == 0, (command, capsys.readouterr().err, daemon.log.read_text())
    capsys.readouterr()
    assert main(["status", "--json"]) == 0
    (model,) = json.loads(capsys.readouterr().out)[0]["models"]
    applied = [(one["cause"], one["state"]) for one in model["history"]]
    causes = ["start", "set_budget", "set_active_point", "set_active_point", "rollback", "set_ranks"]
    assert applied == [(cause, "applied") for cause in causes]
    if discover is not None:
        assert discover.communicate(timeout=60)[1] == ""
        assert discover.returncode == 0


def test_one_of_two_devices_does_not_answer(serve, prepared):
    daemon = serve(prepared.model, prepared.state)
    done = start(f"pin original --timeout 1.3 --json --target {daemon.address},127.0.0.1:1", daemon.address)
    out, err = done.communicate(timeout=60)
    assert done.returncode == 1
    assert "127.0.0.1:1: UNAVAILABLE" in err
    good, bad = json.loads(out)
    assert (good["generation"], good["point"]["id"]) == (2, "original")
    assert bad["target"] == "127.0.0.1:1"
    assert "error" in bad
