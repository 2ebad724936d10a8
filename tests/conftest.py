"""Fixtures of several rooms."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from architectures.tiny import make_tiny_network


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny network as a file."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.onnx"
    onnx.save(make_tiny_network(), path)
    return path
