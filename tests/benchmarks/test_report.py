"""The page of measured tables."""

from __future__ import annotations

from typing import Any

from benchmarks.report import Comparison, page


def _row(name: str, ratio: float, *, lossless: bool = False) -> dict[str, Any]:
    spread = {"ratio": ratio, "ratio_low": ratio - 0.01, "ratio_high": ratio + 0.01, "median_ms": 10 * ratio}
    return {"name": name, "macs": None, "lossless": lossless, "measures": {"accuracy": 0.9}, "note": "", **spread}


def _page(*rows: dict[str, Any]) -> str:
    comparison = Comparison(
        task="net",
        about="A network.",
        metric="accuracy",
        higher_is_better=True,
        input_shapes={"x": [1, 3]},
        rounds=9,
        rows=list(rows),
        missing={"ncnn": "no such layer"},
        layer_share=0.5,
        machine="a machine",
    )
    return page([comparison])


def test_lossy_form_slower_than_the_best_lossless_is_marked() -> None:
    text = _page(_row("original", 1.0, lossless=True), _row("engine", 0.6, lossless=True), _row("lossy", 0.7))
    assert "| **lossy** | 0.70 (0.69-0.71) | 7.0 |" in text
    assert "| engine | 0.60" in text


def test_lossy_form_that_is_faster_is_not_marked() -> None:
    text = _page(_row("original", 1.0, lossless=True), _row("lossy", 0.5))
    assert "| lossy | 0.50" in text


def test_time_in_layers_follows_from_their_share() -> None:
    lossy = {**_row("lossy", 0.8), "macs": 0.4}
    assert "| lossy | 0.80 (0.79-0.81) | 8.0 | 0.60 | 0.40 | 0.900 |" in _page(
        _row("original", 1.0, lossless=True), lossy
    )


def test_missing_engine_says_why() -> None:
    assert "| ncnn | - | - | - | - | - | no such layer |" in _page(_row("original", 1.0, lossless=True))
