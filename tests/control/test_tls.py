"""TLS between a real daemon and its clients, with certificates made for the test."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import tritonclient.grpc as triton
from control.authorities import Authority
from control.serving import poll

from edge_dac.client import AsyncControlClient, ClientTls, ControlClient, ControlError
from edge_dac.errors import UsageError
from edge_dacd.config import ServerConfig
from edge_dacd.tls import server_credentials

TOKEN = "a-secret-of-this-test"


@pytest.fixture
def fleet(tmp_path):
    return Authority(tmp_path, "fleet")


@pytest.fixture
def device(fleet):
    return fleet.issue("device")


def configure(tmp_path, device, *server):
    (tmp_path / "token").write_text(TOKEN)
    lines = [
        "[server]", 'listen = ["127.0.0.1:0"]',
        f'tls_certificate = "{device[0]}"', f'tls_key = "{device[1]}"', *server,
        "[control]", f'token_file = "{tmp_path / "token"}"',
    ]  # fmt: skip
    path = tmp_path / "config.toml"
    path.write_text("\n".join(lines))
    return "--config", str(path)


def test_control_and_inference_over_tls(serve, prepared, tmp_path, fleet, device):
    daemon = serve(prepared.model, prepared.state, *configure(tmp_path, device))
    with ControlClient(daemon.address, token=TOKEN, tls=ClientTls(fleet.certificate)) as client:
        assert client.pin("scale", "original").applied

    async def look():
        async with AsyncControlClient(daemon.address, token=TOKEN, tls=ClientTls(fleet.certificate)) as client:
            return await client.model("scale")

    assert asyncio.run(look()).active_point == "original"
    with triton.InferenceServerClient(daemon.address, ssl=True, root_certificates=str(fleet.certificate)) as client:
        tensor = triton.InferInput("x", [1, 8], "FP32")
        tensor.set_data_from_numpy(np.ones((1, 8), np.float32))
        assert client.infer("scale", [tensor]).as_numpy("y").tolist() == [[1.0] * 8]


def test_renewed_certificate_needs_no_restart(serve, prepared, tmp_path, fleet, device):
    daemon = serve(prepared.model, prepared.state, *configure(tmp_path, device))
    with ControlClient(daemon.address, token=TOKEN, tls=ClientTls(fleet.certificate)) as client:
        assert client.models()
    text = device[0].read_text()
    device[0].write_text("damaged")
    with ControlClient(daemon.address, token=TOKEN, tls=ClientTls(fleet.certificate)) as client:
        assert client.models()  # what cannot be used does not lock operators out
    assert daemon.entries("the certificates before stay in use")
    device[0].write_text(text)
    other = Authority(tmp_path, "other")
    for new, old in zip(other.issue("renewed"), device, strict=True):
        new.replace(old)
    with ControlClient(daemon.address, token=TOKEN, tls=ClientTls(other.certificate)) as client:
        assert client.models()


def is_turned_away(address, tls):
    with ControlClient(address, token=TOKEN, tls=tls, timeout_s=1) as client:
        with pytest.raises(ControlError, match=r"UNAVAILABLE.*TLS\?" if tls is None else "UNAVAILABLE"):
            client.models()
        return True


def test_neither_clear_text_nor_a_foreign_certificate(serve, prepared, tmp_path, device):
    daemon = serve(prepared.model, prepared.state, *configure(tmp_path, device))
    other = Authority(tmp_path, "other")
    strangers = (None, ClientTls(other.certificate))
    with ThreadPoolExecutor() as pool:  # each tries for a second
        assert all(pool.map(partial(is_turned_away, daemon.address), strangers))


def test_clients_of_the_authority_only(serve, prepared, tmp_path, fleet, device):
    arguments = configure(tmp_path, device, f'tls_client_ca = "{fleet.certificate}"')
    daemon = serve(prepared.model, prepared.state, *arguments)
    stranger = Authority(tmp_path, "other").issue("stranger")
    strangers = (ClientTls(fleet.certificate), ClientTls(fleet.certificate, *stranger))
    with ThreadPoolExecutor() as pool:
        assert all(pool.map(partial(is_turned_away, daemon.address), strangers))
    with ControlClient(daemon.address, token=TOKEN, tls=ClientTls(fleet.certificate, *fleet.issue("me"))) as client:
        assert [model.name for model in client.models()] == ["scale"]


def test_commands(serve, prepared, tmp_path, fleet, device):
    arguments = configure(tmp_path, device, f'tls_client_ca = "{fleet.certificate}"')
    daemon = serve(prepared.model, prepared.state, *arguments)
    certificate, key = fleet.issue("me")
    command = ["status", "--json", "--tls-cert", str(certificate), "--tls-key", str(key)]
    settings = {"EDGE_DAC_TARGET": daemon.address, "EDGE_DAC_TLS_CA": str(fleet.certificate), "EDGE_DAC_TOKEN": TOKEN}
    done = subprocess.run(
        [sys.executable, "-m", "edge_dac.cli.main", *command],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["models"][0]["name"] == "scale"


def test_the_watchdog_is_fed(serve, prepared, tmp_path, fleet, device, monkeypatch):
    """The daemon must find itself alive, also where it lets in only clients with certificates."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "400000")
        arguments = configure(tmp_path, device, f'tls_client_ca = "{fleet.certificate}"')
        daemon = serve(prepared.model, prepared.state, *arguments)
        poll(lambda: b"WATCHDOG=1" in manager.recv(4096), "the watchdog is fed")
        assert daemon.entries("no answer from the own server") == []
        assert daemon.stop(signal.SIGTERM) == 0


def test_files_that_cannot_be_used(tmp_path, fleet, device):
    certificate, key = (str(path) for path in device)
    text = tmp_path / "text"
    text.write_text("not a certificate")
    assert server_credentials(ServerConfig()) is None
    for config, message in (
        (ServerConfig(tls_certificate="/no/such/file", tls_key=key), "No such file"),
        (ServerConfig(tls_certificate=certificate, tls_key=str(fleet.issue("another")[1])), "belong together"),
        (ServerConfig(tls_certificate=str(text), tls_key=key), "PEM form"),
        (ServerConfig(tls_certificate=certificate, tls_key=key, tls_client_ca=str(text)), "server.tls_client_ca"),
    ):
        with pytest.raises(UsageError, match=message):
            server_credentials(config)
    with pytest.raises(UsageError, match="expected a PEM file"):
        ControlClient("127.0.0.1:1", tls=ClientTls(tmp_path / "none"))
    with pytest.raises(UsageError, match="together"):
        ControlClient("127.0.0.1:1", tls=ClientTls(fleet.certificate, device[0]))
