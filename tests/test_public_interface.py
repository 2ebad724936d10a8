from __future__ import annotations

import subprocess
import sys

import pytest

import edge_dac


@pytest.mark.parametrize("name", edge_dac.__all__)
def test_every_public_name_exists(name: str) -> None:
    assert getattr(edge_dac, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        edge_dac.nonsense  # noqa: B018 - reading it is the test


def test_the_client_does_not_load_onnx() -> None:
    code = "import sys, edge_dac, edge_dac.client; sys.exit('onnx' in sys.modules or 'onnxruntime' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
