"""The real tasks give what they gave when their targets were set. Needs benchmarks/requirements.txt and downloads."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.slow
pytest.importorskip("captcha")

from benchmarks.tasks import TASKS, Task  # noqa: E402
from benchmarks.tasks.captcha_boxes import decode_boxes  # noqa: E402
from benchmarks.tasks.lettering import DIGITS, draw_captchas, render_texts  # noqa: E402
from benchmarks.tasks.task import session_run  # noqa: E402

JUDGED = [task for task in TASKS if task.metric]


@pytest.mark.parametrize("task", JUDGED, ids=lambda task: task.name)
def test_original_meets_its_own_measure(task: Task) -> None:
    value = task.evaluate(session_run(task.model_path()))[task.metric]
    assert value >= 0.8 if task.higher_is_better else value == 0.0


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_calibration_fits_the_input(task: Task) -> None:
    assert task.calibration().shape == (32, *task.input_shapes[task.input_name][1:])


@pytest.mark.parametrize("draw", [draw_captchas, render_texts])
def test_one_seed_gives_one_set(draw) -> None:  # type: ignore[no-untyped-def]
    first, again, other = (draw(DIGITS, (4, 4), 3, seed) for seed in (5, 5, 6))
    assert first[1] == again[1] != other[1]
    assert all(np.array_equal(a, b) for a, b in zip(first[0], again[0], strict=True))


def test_boxes_are_decoded_by_grid_and_stride() -> None:
    rows = np.zeros((3549, 6), dtype=np.float32)
    rows[52 * 2 + 3] = [0.5, 0.5, np.log(2), np.log(4), 1, 1]  # third row, fourth cell of the grid of stride 8
    rows[52 * 2 + 4] = [-0.5, 0.5, np.log(2), np.log(4), 0.5, 1]  # the same box, worse: suppressed
    assert decode_boxes(rows).tolist() == [[20.0, 4.0, 36.0, 36.0]]
