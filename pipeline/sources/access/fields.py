"""What a source says about a recording: language, reference and metadata out of its columns or sidecar keys."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from pipeline.config import LANGUAGES
from pipeline.schemas import BadRecording

COLUMN = "column:"  # source.language: "column:NAME" takes it from the source
TEXT_NAMES = ("text", "transcript", "transcription", "sentence", "normalized_text", "raw_transcription", "reference")
LANGUAGE_NAMES = ("language", "lang", "locale")
MAX_TEXT_BYTES = 4 << 20  # of one sidecar or manifest line
_ALIASES = {
    "en": ("eng", "english"),
    "de": ("deu", "ger", "german", "deutsch"),
    "fr": ("fra", "fre", "french"),
    "es": ("spa", "spanish"),
    "hi": ("hin", "hindi"),
    "zh": ("zho", "chi", "cmn", "chinese", "mandarin", "mandarin chinese"),
}
_SUBTAGS = re.compile(r"([a-z]{2,3})(?:-[a-z0-9]{1,8})+")  # en-US, cmn-hans-cn
_CODES = {name: code for code, names in _ALIASES.items() for name in (code, *names)}


class Fields(NamedTuple):
    """language: one of LANGUAGES or None (unknown). reference: None where the source has none. metadata: JSON text."""

    language: str | None = None
    reference: str | None = None
    metadata: str | None = None


def known_language(value: object) -> str | None:
    """ "en" for "EN", "en-US", "eng" or "English"; None for null, NaN and empty text.

    Raises BadRecording("unsupported_language") with the value for everything else.
    """
    if _is_nothing(value):
        return None
    if isinstance(value, str):
        name = value.strip().lower().replace("_", "-")
        if not name:
            return None
        subtags = _SUBTAGS.fullmatch(name)
        if code := _CODES.get(name) or (subtags and _CODES.get(subtags[1])):
            return code
    raise BadRecording("unsupported_language", f"{value!r:.100} is none of {', '.join(LANGUAGES)}")


def is_language(value: object) -> bool:
    """Whether `value` names a language the model knows."""
    try:
        return known_language(value) is not None
    except BadRecording:
        return False


def describe(
    columns: Mapping[str, Any], *, language: str | None = None, text: str | None = None, drop: Collection[str] = ()
) -> Fields:
    """Sort the columns of one recording. `language` as in source.language, `text` as source.text_column.

    The columns taken and those in `drop` do not appear in the metadata. Raises BadRecording: "unsupported_language",
    or "bad_metadata" where a value is not text or cannot be kept as UTF-8 JSON.
    """
    taken = set(drop)
    code = language if language in LANGUAGES else None
    if code is None:
        names = (language.removeprefix(COLUMN),) if language else LANGUAGE_NAMES
        name = _first(columns, names)
        code = known_language(columns.get(name))
        taken.add(name)
    name = _first(columns, (text,) if text else TEXT_NAMES)
    reference = to_text(columns.get(name), name)
    taken.add(name)
    return Fields(code, reference, to_json({key: value for key, value in columns.items() if key not in taken}))


def to_text(value: object, name: str) -> str | None:
    """Text or a number as text, None and NaN as None. Raises BadRecording("bad_metadata") naming the column."""
    if value is None or value != value:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise BadRecording("bad_metadata", f"{name}: text is needed, found {type(value).__name__}")
    return storable(value, name)


def to_seconds(value: object, name: str) -> float | None:
    """A finite number of seconds >= 0, from a number or its text; None for null and empty text."""
    if value is None or value == "":
        return None
    try:
        if isinstance(value, bool):
            raise ValueError
        seconds = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not 0 <= seconds < 1e9:
        raise BadRecording("bad_metadata", f"{name}: seconds are needed, found {value!r:.100}")
    return seconds


def to_json(columns: Mapping[str, Any]) -> str | None:
    """Columns as one line of JSON, None where there are none. NaN and infinity become null, dates and such text.

    Raises BadRecording("bad_metadata") for what is nested too deep or is no valid Unicode.
    """
    if not columns:
        return None
    try:
        try:
            text = json.dumps(columns, ensure_ascii=False, allow_nan=False, default=str)
        except ValueError:
            text = json.dumps(_finite(columns), ensure_ascii=False, default=str)
    except (ValueError, TypeError, RecursionError) as err:
        raise BadRecording("bad_metadata", f"no JSON: {' '.join(str(err).split())}") from None
    return storable(text, "metadata")


def from_json(data: bytes | str, name: str) -> dict[str, Any]:
    """A JSON object (NaN becomes null). Raises BadRecording("bad_metadata") starting with `name` for anything else."""
    try:
        value = json.loads(from_bytes(data, name) if isinstance(data, bytes) else data, parse_constant=lambda _: None)
    except (ValueError, RecursionError) as err:
        raise BadRecording("bad_metadata", f"{name}: no JSON: {' '.join(str(err).split())}") from None
    if not isinstance(value, dict):
        raise BadRecording("bad_metadata", f"{name}: a JSON object is needed, found {type(value).__name__}")
    return value


def from_bytes(data: bytes, name: str) -> str:
    """UTF-8 text without its byte order mark. Raises BadRecording("bad_metadata") starting with `name`."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        raise BadRecording("bad_metadata", f"{name}: not UTF-8 at byte {err.start}") from None


def storable(value: str, name: str) -> str:
    """The same text. Raises BadRecording("bad_metadata") where it holds lone surrogates, which Parquet cannot keep."""
    try:
        value.encode()
    except UnicodeEncodeError as err:
        raise BadRecording("bad_metadata", f"{name}: not valid Unicode at character {err.start}") from None
    return value


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _is_nothing(value: object) -> bool:
    return value is None or value == "" or value != value  # NaN


def _first(columns: Mapping[str, Any], names: Collection[str]) -> str:
    """The first of `names` that has a value, else the first that is there, else the first."""
    there = [name for name in names if name in columns]
    return next((name for name in there if columns[name] not in (None, "")), (there or list(names))[0])
