"""Announcing and finding over real multicast on this machine."""

import signal
import subprocess
import time

import pytest
import tritonclient.grpc as triton
from control.serving import ServingProcess, poll

from edge_dac.cli.main import main
from edge_dac.discovery import find_daemons

pytest.importorskip("zeroconf")


def found(*daemons):
    """What the network tells of these daemons, once it tells of all of them."""
    addresses = {daemon.address for daemon in daemons}

    def look():
        entries = [one for one in find_daemons(time.monotonic() + 0.3) if one.address in addresses]
        return entries if len(entries) == len(addresses) else None

    return poll(look, f"{addresses} are found")


def test_devices_with_one_name_are_told_apart(serve, prepared, tmp_path):
    config = tmp_path / "config.toml"
    config.write_text("[control]\nannounce = true\n")
    first = serve(prepared.model, prepared.state, "--config", str(config), "--listen", "127.0.0.1:0")
    port = first.address.rpartition(":")[2]
    second = serve(
        prepared.model, tmp_path / "another", "--config", str(config), "--listen", f"127.0.0.2:{port}", "--no-compress"
    )
    entries = found(first, second)
    assert len({one.name for one in entries}) == 2
    assert [one.models for one in entries] == [("scale",)] * 2


def test_the_entry_follows_configuration_and_models(serve, prepared, tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    config = tmp_path / "config.toml"
    repository = f"[repository]\npath = '{folder}'\n"
    config.write_text(repository)
    daemon = serve(prepared.model, prepared.state, "--config", str(config), "--listen", "0.0.0.0:0")
    port = daemon.address.rpartition(":")[2]

    def announce(wanted):
        config.write_text(f"{repository}[control]\nannounce = {wanted}\n")
        count = len(daemon.entries("reloaded"))
        daemon.process.send_signal(signal.SIGHUP)
        poll(lambda: len(daemon.entries("reloaded")) > count, "reloaded")

    def models():
        entries = [one for one in find_daemons(time.monotonic() + 0.3) if one.address.endswith(f":{port}")]
        return [one.models for one in entries]

    announce("true")
    poll(lambda: models() == [("scale",)], "it is found")
    (folder / "another.onnx").write_bytes(prepared.model.read_bytes())
    with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
        client.load_model("another")
        poll(lambda: models() == [("another", "scale")], "the second too")
        client.unload_model("scale")
        poll(lambda: models() == [("another",)], "the first is gone")
    announce("false")
    assert models() == []
    assert not daemon.entries("not announced")
    assert not daemon.entries("these changes need a restart")


def test_without_a_network_it_serves_all_the_same(prepared, tmp_path):
    config = tmp_path / "config.toml"
    config.write_text("[control]\nannounce = true\n")
    alone = ("unshare", "--user", "--map-root-user", "--net")
    if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system makes no network namespaces")
    listen = ("--listen", "127.0.0.1:0", "--listen", f"unix:{tmp_path / 'socket'}")
    daemon = ServingProcess(prepared.model, prepared.state, "--config", str(config), *listen, before=alone)
    poll(lambda: daemon.entries("listening"), "it listens")
    (entry,) = poll(lambda: daemon.entries("not announced"), "the log says why")
    assert entry["level"] == "error"
    assert daemon.stop() == 0


def test_sighup_cannot_announce_a_daemon_without_tcp(serve, prepared, tmp_path):
    config = tmp_path / "config.toml"
    config.write_text("")
    daemon = serve(prepared.model, prepared.state, "--config", str(config), "--listen", f"unix:{tmp_path / 's'}")
    assert daemon.address.startswith("unix:")
    config.write_text("[control]\nannounce = true\n")
    daemon.process.send_signal(signal.SIGHUP)
    poll(lambda: daemon.entries("reloaded"), "reloaded")
    (entry,) = daemon.entries("configuration not reloaded")
    assert "expected an address over TCP to announce" in entry["reason"]


def test_command_prints_what_it_found(capsys):
    assert main(["discover", "--seconds", "0.1", "--json"]) == 0
    assert capsys.readouterr().out.startswith("[")
