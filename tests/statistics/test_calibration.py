"""Real samples from a directory: arrays, pictures where Pillow is there, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_dac.errors import InputShapeError, UsageError
from edge_dac.statistics.calibration import load_calibration
from edge_dac.statistics.input_values import InputSpec, Layout

SPEC = InputSpec("x", (1, 3, 8, 6), channels=3, high=255.0)


def test_single_samples_and_stacks_are_read_in_the_order_of_names(tmp_path: Path) -> None:
    single = np.full((3, 8, 6), 7.0, np.float32)
    stack = np.stack([single + 1, single + 2])
    np.save(tmp_path / "b.npy", single)
    np.save(tmp_path / "a.npy", stack.astype(np.float64))
    samples = load_calibration(tmp_path, [SPEC])
    assert samples["x"].dtype == np.float32
    np.testing.assert_array_equal(samples["x"][:, 0, 0, 0], [8.0, 9.0, 7.0])


def test_the_limit_holds(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((9, 3, 8, 6), np.float32))
    assert len(load_calibration(tmp_path, [SPEC], limit=4)["x"]) == 4


def test_a_wrong_shape_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((3, 6, 8), np.float32))
    with pytest.raises(InputShapeError, match=r"a\.npy.*\[3, 8, 6\].*\[3, 6, 8\]"):
        load_calibration(tmp_path, [SPEC])


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UsageError, match="without objects"):
        load_calibration(tmp_path, [SPEC])


def test_an_empty_or_missing_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(UsageError, match="found none"):
        load_calibration(tmp_path, [SPEC])
    with pytest.raises(UsageError, match="expected a directory"):
        load_calibration(tmp_path / "missing", [SPEC])


def test_several_inputs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="one input"):
        load_calibration(tmp_path, [SPEC, SPEC])


def test_pictures_are_resized_and_brought_to_the_range(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    image.fromarray(np.full((20, 30, 3), 51, np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"not a picture")
    with pytest.raises(UsageError, match=r"b\.png"):
        load_calibration(tmp_path, [SPEC])
    (tmp_path / "b.png").unlink()
    unit = InputSpec("x", (1, 8, 6, 1), layout=Layout.NHWC, mean=(0.2,), std=(0.5,))
    np.testing.assert_allclose(load_calibration(tmp_path, [unit])["x"], np.zeros((1, 8, 6, 1)), atol=1e-6)


def test_pictures_need_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(UsageError, match=r"edge-dac\[images\]"):
        load_calibration(tmp_path, [SPEC])
