"""Logs of a job: lines for people, or `--log json`: one object a line, with run, unit and recording.

No message above DEBUG has the text of a transcript.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

Kind = Literal["text", "json"]

units = logging.getLogger("pipeline.units")  # what became of each unit and recording: only in JSON, progress counts it

_of_process: dict[str, Any] = {}
_of_block: ContextVar[dict[str, Any]] = ContextVar("of_block", default={})  # noqa: B039 it is never changed in place


class JsonLines(logging.Formatter):
    """One JSON object for each record: time (UTC), level, logger, message, the fields of `about`, and its own.

    A record has its own fields by `extra={"fields": {...}}`. error: the traceback of an exception.
    """

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_of_process,
            **_of_block.get(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            entry["error"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to what sys.stderr is at the moment: a live view puts itself there."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, value: TextIO) -> None:
        pass


def configure(kind: Kind) -> None:
    """Send the logs of this process to stderr, from INFO on. Handlers that exist stay, unless JSON is wanted."""
    handler = _Stderr()
    handler.setFormatter(JsonLines() if kind == "json" else logging.Formatter("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=kind == "json")
    for library in ("botocore", "aiobotocore"):  # they tell at each store where the keys are from
        logging.getLogger(library).setLevel(logging.WARNING)
    units.setLevel(logging.INFO if kind == "json" else logging.ERROR)


def is_json() -> bool:
    """Whether `configure("json")` was called in this process."""
    return any(isinstance(handler.formatter, JsonLines) for handler in logging.getLogger().handlers)


def of_process(**fields: Any) -> None:
    """Add fields, such as run, to every later line of this process."""
    _of_process.update(fields)


@contextlib.contextmanager
def about(**fields: Any) -> Iterator[None]:
    """Add fields, such as unit or recording, to what this thread logs inside the block."""
    token = _of_block.set(_of_block.get() | fields)
    try:
        yield
    finally:
        _of_block.reset(token)
