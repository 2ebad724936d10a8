"""Judgements that outlive the process."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_dac.planning.candidates import Candidate
from edge_dac.planning.fidelity_table import MOST_MODELS, FidelityTable, Judgement, samples_key
from edge_dac.planning.subject import load_subject

WORTH = Candidate("tucker", (8, 16), "direct")
BEATEN = Candidate("dac", 2, "branch_sum")
NEW = Candidate("dac", 3, "branch_sum")


def _filled(path: Path | None, key: str = "model") -> FidelityTable:
    table = FidelityTable(path, key)
    table.put("conv", [WORTH, BEATEN], {WORTH: Judgement(0.1, 0.02)})
    table.save()
    return table


def test_judgements_come_back_for_the_same_model_only(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "fidelity.json"
    _filled(path)
    again = FidelityTable(path, "model")
    assert again.get("conv", [WORTH, BEATEN]) == {WORTH: Judgement(0.1, 0.02)}
    assert again.get("conv", [replace(WORTH, lowering="winograd4")]) is not None
    assert again.get("other", [WORTH]) is None
    assert FidelityTable(path, "another model").get("conv", [WORTH]) is None


def test_a_candidate_never_considered_calls_for_fits() -> None:
    assert _filled(None).get("conv", [WORTH, NEW]) is None
    assert _filled(None).get("conv", []) == {}


def test_only_the_last_models_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "fidelity.json"
    for number in range(MOST_MODELS + 3):
        _filled(path, f"model {number}")
    assert len(json.loads(path.read_text())["models"]) == MOST_MODELS
    assert FidelityTable(path, "model 0").get("conv", [WORTH]) is None
    assert FidelityTable(path, f"model {MOST_MODELS + 2}").get("conv", [WORTH]) is not None


DAMAGED = (
    "",
    "[]",
    json.dumps({"format": 99, "models": {"model": {}}}),
    json.dumps({"format": 1, "models": {"model": {"conv": {"tucker|(8,16)": [0.1]}}}}),
    json.dumps({"format": 1, "models": {"model": {"conv": {"tucker|(8,16)": ["small", 1]}}}}),
)


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_file_is_made_again(tmp_path: Path, content: str) -> None:
    path = tmp_path / "fidelity.json"
    path.write_text(content)
    assert FidelityTable(path, "model").get("conv", [WORTH]) is None
    _filled(path)
    assert FidelityTable(path, "model").get("conv", [WORTH]) is not None


def test_whatever_judgements_depend_on_changes_the_key(tiny_path: Path) -> None:
    subject = load_subject(tiny_path)
    keys = {samples_key(subject, ["dac"]), samples_key(subject, ["dac", "tucker"])}
    keys.add(samples_key(replace(subject, seed=7), ["dac"]))
    keys.add(samples_key(replace(subject, digest="0" * 64), ["dac"]))
    keys.add(samples_key(replace(subject, calibration={"x": np.zeros((2, 3))}), ["dac"]))
    keys.add(samples_key(replace(subject, calibration={"x": np.ones((2, 3))}), ["dac"]))
    assert len(keys) == 6
    assert samples_key(load_subject(tiny_path), ["dac"]) in keys
