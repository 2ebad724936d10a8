"""Announcing and finding over real multicast on this machine."""

import time

import pytest

from edge_dac.cli.main import main
from edge_dac.discovery import find_daemons

pytest.importorskip("zeroconf")


def test_daemon_is_found(serve, prepared, tmp_path):
    config = tmp_path / "config.toml"
    config.write_text("[control]\nannounce = true\n[server]\nlisten = ['0.0.0.0:0']\n")
    daemon = serve(prepared.model, prepared.state, "--config", str(config))
    port = daemon.address.rpartition(":")[2]
    found = [one for one in find_daemons(time.monotonic() + 5) if one.address.endswith(f":{port}")]
    assert [one.models for one in found] == [("scale",)]


def test_command_prints_what_it_found(capsys):
    assert main(["discover", "--seconds", "0.1", "--json"]) == 0
    assert capsys.readouterr().out.startswith("[")
