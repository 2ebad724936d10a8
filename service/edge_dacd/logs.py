"""Log lines with fields, for people, for machines and for journald."""

from __future__ import annotations

import json
import logging
import os
import sys
import time

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_SYSLOG = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


def configure(level: str, form: str) -> None:
    """Log to standard error; ``form`` is ``text``, ``json`` or ``auto``."""
    handler = logging.StreamHandler(sys.stderr)
    if form == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(TextFormatter(for_journal=form == "auto" and "JOURNAL_STREAM" in os.environ))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, then the fields given as ``extra``."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": _utc(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


class TextFormatter(logging.Formatter):
    """``message key=value ...``, with the time before it, or for journald with the syslog level as ``<6>``."""

    def __init__(self, for_journal: bool) -> None:
        super().__init__()
        self._for_journal = for_journal

    def format(self, record: logging.LogRecord) -> str:
        shown = " ".join(
            [record.getMessage(), *(f"{name}={_one_line(value)}" for name, value in _fields(record).items())]
        )
        if record.exc_info:
            shown += "\n" + self.formatException(record.exc_info)
        if not self._for_journal:
            return f"{_utc(record.created)} {record.levelname.lower()} {shown}"
        prefix = f"<{_SYSLOG.get(record.levelno, 6)}>"
        return "\n".join(prefix + line for line in shown.splitlines())


def _one_line(value: object) -> str:
    """A client may have made it up: nothing in it may begin another line or steer a terminal."""
    text = str(value)
    return text if text.isprintable() else repr(text)[1:-1]


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds % 1 * 1000):03d}Z"
