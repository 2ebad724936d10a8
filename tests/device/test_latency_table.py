from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_dac.convolution import ConvAttributes, ConvLayer
from edge_dac.device.latency_table import LatencyTable, LayerLatency, candidate_key, layer_signature, original_key

LAYER = ConvLayer("a", np.zeros((4, 3, 3, 3), np.float32), None, ConvAttributes.pointwise(2), (8, 8))
KEY = candidate_key(layer_signature(LAYER), "dac", 2, "concat", 1)


def test_names_and_values_of_weights_do_not_matter() -> None:
    other = replace(LAYER, name="b", weight=np.ones((4, 3, 3, 3), np.float32))
    assert layer_signature(other) == layer_signature(LAYER)


@pytest.mark.parametrize(
    "change",
    [
        {"input_size": (8, 9)},
        {"weight": np.zeros((4, 3, 1, 1), np.float32)},
        {"attributes": ConvAttributes((2, 2), (0,) * 4, (1, 1))},
        {"batch": 2},
        {"dtype": np.float16},
    ],
)
def test_whatever_changes_latency_changes_the_signature(change: dict[str, object]) -> None:
    assert layer_signature(replace(LAYER, **change)) != layer_signature(LAYER)  # type: ignore[arg-type]


def test_saved_ratios_come_back_on_the_same_device_only(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "table.json"
    table = LatencyTable(path, "device-1")
    table.put(KEY, 0.5)
    table.save()
    assert LatencyTable(path, "device-1").get(KEY) == 0.5
    assert LatencyTable(path, "device-2").get(KEY) is None


def test_what_a_model_takes_comes_back_for_the_same_file_shape_and_threads(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    table = LatencyTable(path, "device")
    latency = LayerLatency(12.5, {"conv0": 7.0, "conv1": 5.0})
    table.put_original(original_key("abc", {"x": (1, 3, 8, 8)}, 1), latency)
    table.save()
    again = LatencyTable(path, "device")
    assert again.original(original_key("abc", {"x": (1, 3, 8, 8)}, 1)) == latency
    for other in (("abd", (1, 3, 8, 8), 1), ("abc", (1, 3, 8, 9), 1), ("abc", (1, 3, 8, 8), 2)):
        assert again.original(original_key(other[0], {"x": other[1]}, other[2])) is None


def test_a_second_measurement_is_averaged_in() -> None:
    table = LatencyTable(None, "device")
    table.put(KEY, 0.4)
    table.put(KEY, 0.6)
    assert table.get(KEY) == pytest.approx(0.5)


DAMAGED = (
    "",
    "{",
    "[]",
    json.dumps({"format": 99, "fingerprint": "d", "ratios": {"k": 1}, "originals": {}}),
    json.dumps({"format": 3, "fingerprint": "d", "ratios": {"k": 1}, "originals": {"m": {"model_ms": 1}}}),
    json.dumps({"format": 3, "fingerprint": "d", "ratios": {"k": "fast"}, "originals": {}}),
)


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_table_is_measured_again(tmp_path: Path, content: str) -> None:
    path = tmp_path / "table.json"
    path.write_text(content)
    assert len(LatencyTable(path, "d")) == 0


def test_saving_leaves_one_file(tmp_path: Path) -> None:
    table = LatencyTable(tmp_path / "table.json", "d")
    table.put(KEY, 0.5)
    table.save()
    table.save()
    assert [path.name for path in tmp_path.iterdir()] == ["table.json"]
