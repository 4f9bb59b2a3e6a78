"""Companion files of a recording: what they say about it, and those that belong to no recording."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.config import COLUMN, SourceConfig
from pipeline.schemas import RecordingRef
from pipeline.sources.access import fields
from pipeline.sources.access.languages import is_language

TEXTS = ("txt", "lab")  # extensions of files that are the text
_LANGUAGE, _TEXT = "language:", "text:"  # pseudo sidecars: they tell which keys to use when a recording is read

log = logging.getLogger(__name__)


class Unattached:
    """Counts what is not used: companion files and rows of a metadata table without audio. The log says it once."""

    def __init__(self, uri: str, what: str = "texts or companion files belong to no audio and are not used") -> None:
        self.uri, self.what = uri, what
        self.count, self.first = 0, ""

    def add(self, where: Iterable[str]) -> None:
        """Count these files or rows."""
        for place in where:
            self.first = self.first or place
            self.count += 1

    def say(self) -> None:
        """Write the count to the log, if it is not zero. Call it after the last recording."""
        if self.count:
            log.warning("%s: %d %s; the first is %s", self.uri, self.count, self.what, self.first)


def settings_of(source: SourceConfig, language: str | None) -> tuple[tuple[str, int, int], ...]:
    """Return the settings that reading the companion files needs, as sidecars of a RecordingRef.

    language: of the recording, if it is known already.
    """
    pointers = []
    if source.language and not language:  # path: has no column, so the companion files do not decide
        _, is_column, name = source.language.partition(COLUMN)
        pointers.append((f"{_LANGUAGE}{name if is_column else ''}", 0, 0))
    if source.text_column:
        pointers.append((f"{_TEXT}{source.text_column}", 0, 0))
    return tuple(pointers)


def files_and_settings(ref: RecordingRef) -> tuple[list[tuple[str, int, int]], dict[str, str | None]]:
    """Split the sidecars of a ref into the files, and the arguments `language` and `text` of `describe_sidecars`."""
    settings = dict(name.split(":", 1) for name, _, _ in ref.sidecars if name.startswith((_LANGUAGE, _TEXT)))
    language = ref.language or (f"{COLUMN}{settings['language']}" if "language" in settings else None)
    found = [sidecar for sidecar in ref.sidecars if not sidecar[0].startswith((_LANGUAGE, _TEXT))]
    return found, {"language": language, "text": settings.get("text")}


def describe_sidecars(
    payloads: Mapping[str, bytes], name: str, *, language: str | None = None, text: str | None = None
) -> fields.Fields:
    """Read the sidecars of one recording, given by their extensions.

    The keys of .json are columns; JSON without keys is the column "json". .txt and .lab are the column "text", .lang
    "language" and .cls "cls". A .cls that names a known language is the language. name: for errors. language, text: as
    in `fields.describe`, whose errors it raises.
    """
    columns: dict[str, Any] = {}
    if "json" in payloads:
        value = fields.any_json(payloads["json"], f"{name}: .json")
        columns = dict(value) if isinstance(value, dict) else {"json": value}
    wanted = (text, language and language.removeprefix(COLUMN))
    known_names = {**dict.fromkeys(TEXTS, fields.TEXT_NAMES), "lang": fields.LANGUAGE_NAMES, "cls": ("cls",)}
    for extension, known in known_names.items():
        if extension in payloads:
            value = fields.from_bytes(payloads[extension], f"{name}: .{extension}").strip()
            in_json = any(columns.get(key) not in (None, "") for key in known)
            columns[extension if in_json or extension in wanted else known[0]] = value
    if language is None and is_language(columns.get("cls")) and not any(map(columns.get, fields.LANGUAGE_NAMES)):
        columns["language"] = columns.pop("cls")
    return fields.describe(columns, language=language, text=text)
