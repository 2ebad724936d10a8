import hashlib
import json
import os
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_dac.artifacts.generations import KEPT, Generation, GenerationJournal, State
from edge_dac.errors import ArtifactError

REQUEST = Generation(0, State.PENDING, "set_budget", budget={"latency_ms": 5.0})


def apply(journal, request=REQUEST, **changes):
    accepted = journal.accept(request)
    journal.decide(replace(accepted, state=State.APPLIED, **changes), model_digest="ab")
    return journal.applied


def test_empty_journal(tmp_path):
    journal = GenerationJournal(tmp_path, "m")
    assert (journal.applied, journal.pending, journal.head, journal.history) == (None, None, 0, ())
    assert journal.find_key("") is None


def test_survives_reopening(tmp_path):
    journal = GenerationJournal(tmp_path, "m")
    first = apply(journal, points=("p" * 64,), active_point="p" * 64)
    second = journal.accept(replace(REQUEST, idempotency_key="k", pinned_point="original"))
    again = GenerationJournal(tmp_path, "m")
    assert again.applied == first
    assert again.pending == second
    assert again.head == 2
    assert again.find_key("k") == second
    assert again.model_digest == "ab"
    assert again.referenced_points == {"p" * 64}
    assert GenerationJournal(tmp_path, "other").head == 0


def test_history_of_a_newer_version_is_read(tmp_path):
    journal = GenerationJournal(tmp_path, "m")
    first = apply(journal)
    for slot in tmp_path.iterdir():
        body = json.loads(slot.read_bytes())["body"].replace('"cause":', '"added_later": 1, "cause":')
        slot.write_text(json.dumps({"sha256": hashlib.sha256(body.encode()).hexdigest(), "body": body}))
    again = GenerationJournal(tmp_path, "m")
    assert (again.applied, again.damage) == (first, [])


def test_numbers_grow_over_failures(tmp_path):
    journal = GenerationJournal(tmp_path, "m")
    apply(journal)
    failed = journal.accept(REQUEST)
    journal.decide(replace(failed, state=State.FAILED, message="no"))
    assert journal.head == 1
    assert GenerationJournal(tmp_path, "m").accept(REQUEST).number == 3


def test_newer_request_supersedes_pending_one(tmp_path):
    journal = GenerationJournal(tmp_path, "m")
    journal.accept(REQUEST)
    newer = journal.accept(REQUEST)
    assert journal.pending == newer
    assert [one.state for one in journal.history] == [State.FAILED, State.PENDING]


def test_keeps_the_last_applied_ones(tmp_path):
    journal = GenerationJournal(tmp_path, "m")
    for _ in range(KEPT + 5):
        apply(journal)
    assert [one.number for one in journal.history] == list(range(6, KEPT + 6))


def test_decision_on_a_forgotten_generation(tmp_path):
    journal = GenerationJournal(tmp_path, "m")
    with pytest.raises(ArtifactError, match="generation 9"):
        journal.decide(replace(REQUEST, number=9))


@settings(max_examples=40, deadline=None)
@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), truncate=st.booleans())
def test_damaged_slot_falls_back_to_the_generation_before(tmp_path_factory, position, bit, truncate):
    directory = tmp_path_factory.mktemp("journal")
    journal = GenerationJournal(directory, "m")
    first = apply(journal)
    before = set(directory.iterdir())
    stamps = {path: path.read_bytes() for path in before}
    journal.accept(REQUEST)
    newest = next(path for path in directory.iterdir() if stamps.get(path) != path.read_bytes())
    data = bytearray(newest.read_bytes())
    where = int(position * len(data))
    data[where] ^= 1 << bit
    newest.write_bytes(bytes(data[:where]) if truncate else bytes(data))
    again = GenerationJournal(directory, "m")
    # A flipped bit may spell the same JSON (an escape, a space): then nothing was lost.
    assert again.applied == first
    assert again.pending is None or not again.damage


def test_failed_write_leaves_the_old_generation(tmp_path, monkeypatch):
    journal = GenerationJournal(tmp_path, "m")
    first = apply(journal)

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        journal.accept(REQUEST)
    monkeypatch.undo()
    assert journal.applied == first
    assert journal.pending is None
    assert GenerationJournal(tmp_path, "m").history == (first,)
    assert [path.suffix for path in tmp_path.iterdir() if path.name.startswith(".")] == []
