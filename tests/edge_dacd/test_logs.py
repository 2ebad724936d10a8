from __future__ import annotations

import json
import logging

from edge_dacd.logs import JsonFormatter, TextFormatter


def record(**extra: object) -> logging.LogRecord:
    made = logging.LogRecord("edge_dacd.x", logging.WARNING, __file__, 1, "refused %s", ("it",), None)
    vars(made).update(extra)
    return made


def test_json_has_the_fields() -> None:
    entry = json.loads(JsonFormatter().format(record(request_id="7", model="m")))
    assert entry["message"] == "refused it"
    assert (entry["level"], entry["request_id"], entry["model"]) == ("warning", "7", "m")
    assert entry["time"].endswith("Z")


def test_text_for_people() -> None:
    assert TextFormatter(for_journal=False).format(record(model="m")).endswith("Z warning refused it model=m")


def test_what_clients_make_up_stays_on_its_line() -> None:
    shown = TextFormatter(for_journal=False).format(record(request_id="größer\nforged line\x1b[2J"))
    assert shown.endswith(r"request_id=größer\nforged line\x1b[2J")


def test_text_for_the_journal_marks_every_line() -> None:
    try:
        raise ValueError("no")
    except ValueError as error:
        shown = TextFormatter(for_journal=True).format(record(exc_info=(type(error), error, error.__traceback__)))
    lines = shown.splitlines()
    assert lines[0] == "<4>refused it"
    assert len(lines) > 2
    assert all(line.startswith("<4>") for line in lines)
