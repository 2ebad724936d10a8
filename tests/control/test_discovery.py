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


def test_daemon_is_found(serve, prepared, tmp_path):
    config = tmp_path / "config.toml"
    config.write_text("[control]\nannounce = true\n[server]\nlisten = ['0.0.0.0:0']\n")
    daemon = serve(prepared.model, prepared.state, "--config", str(config))
    port = daemon.address.rpartition(":")[2]
    found = [one for one in find_daemons(time.monotonic() + 5) if one.address.endswith(f":{port}")]
    assert [one.models for one in found] == [("scale",)]


def test_devices_with_one_name_are_told_apart(serve, prepared, tmp_path):
    config = tmp_path / "config.toml"
    config.write_text("[control]\nannounce = true\n")
    first = serve(prepared.model, prepared.state, "--config", str(config), "--listen", "127.0.0.1:0")
    port = first.address.rpartition(":")[2]
    second = serve(
        prepared.model, tmp_path / "another", "--config", str(config), "--listen", f"127.0.0.2:{port}", "--no-compress"
    )
    wanted = {first.address, second.address}
    found = poll(lambda: wanted_among(wanted), "both are found")
    assert len({one.name for one in found}) == 2


def wanted_among(addresses):
    found = [one for one in find_daemons(time.monotonic() + 2) if one.address in addresses]
    return found if len(found) == len(addresses) else None


def test_sighup_announces_and_takes_it_back(serve, prepared, tmp_path):
    config = tmp_path / "config.toml"
    config.write_text("")
    daemon = serve(prepared.model, prepared.state, "--config", str(config), "--listen", "127.0.0.1:0")

    def reload(text):
        config.write_text(text)
        count = len(daemon.entries("reloaded"))
        daemon.process.send_signal(signal.SIGHUP)
        poll(lambda: len(daemon.entries("reloaded")) > count, "reloaded")

    address = daemon.address
    reload("[control]\nannounce = true\n")
    poll(lambda: wanted_among({address}), "it is found")
    reload("[control]\nannounce = false\n")
    assert not wanted_among({address})
    assert not daemon.entries("these changes need a restart")


def test_the_entry_follows_models_that_come_and_go(serve, prepared, tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    config = tmp_path / "config.toml"
    config.write_text(f"[control]\nannounce = true\n[repository]\npath = '{folder}'\n")
    daemon = serve(prepared.model, prepared.state, "--config", str(config), "--listen", "127.0.0.1:0")

    def shows(*models):
        found = [one for one in find_daemons(time.monotonic() + 3) if one.address == daemon.address]
        return [one.models for one in found] == [models]

    (folder / "another.onnx").write_bytes(prepared.model.read_bytes())
    with triton.InferenceServerClient(daemon.address) as client:
        client.load_model("another")
        poll(lambda: shows("another", "scale"), "the second too")
        client.unload_model("scale")
        poll(lambda: shows("another"), "the first is gone")
    assert not daemon.entries("not announced")


def test_without_a_network_it_serves_all_the_same(prepared, tmp_path):
    config = tmp_path / "config.toml"
    config.write_text("[control]\nannounce = true\n")
    alone = ("unshare", "--user", "--map-root-user", "--net")
    if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system makes no network namespaces")
    listen = ("--listen", "127.0.0.1:0", "--listen", f"unix:{tmp_path / 'socket'}")
    daemon = ServingProcess(prepared.model, prepared.state, "--config", str(config), *listen, before=alone)
    poll(lambda: daemon.entries("listening"), "it listens")
    (entry,) = daemon.entries("not announced")
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
