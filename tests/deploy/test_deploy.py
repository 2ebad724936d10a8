"""The unit and the configuration that are shipped say what the daemon does."""

from __future__ import annotations

import configparser
import shutil
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest

from edge_dacd.config import Config, ModelConfig, load_config

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.fixture
def unit() -> configparser.SectionProxy:
    parser = configparser.ConfigParser(strict=False, interpolation=None, comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(DEPLOY / "edge-dac.service")
    return parser["Service"]


def test_the_unit_fits_the_daemon(unit: configparser.SectionProxy) -> None:
    config = load_config(DEPLOY / "config.toml")
    assert unit["Type"] == "notify"
    assert int(unit["WatchdogSec"]) > 0
    assert unit["Restart"] == "on-failure"
    assert int(unit["TimeoutStopSec"]) > config.server.drain_s
    assert unit["ExecStart"].endswith("edge-dacd --config /etc/edge-dac/config.toml")
    assert unit["StateDirectory"] == unit["RuntimeDirectory"] == unit["User"] == "edge-dac"
    assert "unix:/run/edge-dac/inference.sock" in config.server.listen


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    text = (DEPLOY / "edge-dac.service").read_text().replace("/opt/edge-dac/bin/edge-dacd", "/bin/true")
    (tmp_path / "edge-dac.service").write_text(text)
    command = ["systemd-analyze", "verify", str(tmp_path / "edge-dac.service")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def test_the_configuration_shows_every_key_with_its_default() -> None:
    text = (DEPLOY / "config.toml").read_text()
    config = load_config(DEPLOY / "config.toml")
    chosen_for_the_service = {"listen", "metrics_listen", "path"}
    for section in ("server", "compute", "repository", "state", "compression", "control"):
        for item in fields(getattr(config, section)):
            assert f"\n{item.name} = " in text, f"{section}.{item.name}"
            if item.name not in chosen_for_the_service:
                assert getattr(getattr(config, section), item.name) == getattr(getattr(Config(), section), item.name)
    for item in fields(ModelConfig):
        assert f"# {item.name} = " in text, item.name
