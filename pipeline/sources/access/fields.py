"""What a source says about a recording: its language, reference and metadata, taken from columns or sidecar keys."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from pipeline.config import LANGUAGES
from pipeline.schemas import BadRecording

COLUMN = "column:"  # source.language=column:NAME takes the language from that column of the source
TEXT_NAMES = ("text", "transcript", "transcription", "sentence", "normalized_text", "raw_transcription", "reference")
LANGUAGE_NAMES = ("language", "lang", "locale")
MAX_TEXT_BYTES = 4 << 20  # limit of one sidecar, and of one line of a manifest
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
    """What is known of a recording.

    language: one of LANGUAGES, None if unknown. reference: None if the source has none. metadata: JSON text, None if
    there is nothing else.
    """

    language: str | None = None
    reference: str | None = None
    metadata: str | None = None


def known_language(value: object) -> str | None:
    """Return the code of a language: "en" for "EN", "en-US", "eng" or "English". None for null, NaN and empty text.

    Raises BadRecording("unsupported_language") for anything else.
    """
    if _is_missing(value):
        return None
    if isinstance(value, str):
        name = value.strip().lower().replace("_", "-")
        if not name:
            return None
        subtags = _SUBTAGS.fullmatch(name)
        if code := _CODES.get(name) or (subtags and _CODES.get(subtags[1])):
            return code
    raise BadRecording("unsupported_language", f"{value!r:.100} is not one of {', '.join(LANGUAGES)}")


def is_language(value: object) -> bool:
    """Return whether `value` names a language that the model knows."""
    try:
        return known_language(value) is not None
    except BadRecording:
        return False


def describe(
    columns: Mapping[str, Any], *, language: str | None = None, text: str | None = None, drop: Collection[str] = ()
) -> Fields:
    """Find language and reference among the columns of one recording. All other columns become metadata.

    language: the value of source.language. text: the value of source.text_column. drop: columns that are left out.
    Raises BadRecording: "unsupported_language"; "bad_metadata" if a value is not text or cannot be written as JSON.
    """
    used = set(drop)
    code = language if language in LANGUAGES else None
    if code is None:
        names = (language.removeprefix(COLUMN),) if language else LANGUAGE_NAMES
        name = _first(columns, names)
        code = known_language(columns.get(name))
        used.add(name)
    name = _first(columns, (text,) if text else TEXT_NAMES)
    reference = to_text(columns.get(name), name)
    used.add(name)
    return Fields(code, reference, to_json({key: value for key, value in columns.items() if key not in used}))


def to_text(value: object, name: str) -> str | None:
    """Return text as it is, a number as text, None for None and NaN.

    Raises BadRecording("bad_metadata"), which names the column, for any other type.
    """
    if value is None or value != value:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise BadRecording("bad_metadata", f"{name}: expected text, got {type(value).__name__}")
    return storable(value, name)


def to_seconds(value: object, name: str) -> float | None:
    """Return a number, or the text of one, as finite seconds >= 0. None for null and empty text.

    Raises BadRecording("bad_metadata"), which names the column, for anything else.
    """
    if value is None or value == "":
        return None
    try:
        if isinstance(value, bool):
            raise ValueError
        seconds = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not 0 <= seconds < 1e9:
        raise BadRecording("bad_metadata", f"{name}: expected seconds, got {value!r:.100}")
    return seconds


def to_json(columns: Mapping[str, Any]) -> str | None:
    """Write columns as one line of JSON; None if there are no columns.

    NaN and infinity become null. Types that JSON does not have, such as dates, become text. Raises
    BadRecording("bad_metadata") if the values are nested too deep or are not valid Unicode.
    """
    if not columns:
        return None
    try:
        try:
            text = json.dumps(columns, ensure_ascii=False, allow_nan=False, default=str)
        except ValueError:
            text = json.dumps(_finite(columns), ensure_ascii=False, default=str)
    except (ValueError, TypeError, RecursionError) as err:
        raise BadRecording("bad_metadata", f"cannot be written as JSON: {' '.join(str(err).split())}") from None
    return storable(text, "metadata")


def from_json(data: bytes | str, name: str) -> dict[str, Any]:
    """Read a JSON object; NaN becomes null.

    Raises BadRecording("bad_metadata"), whose detail begins with `name`, for anything else.
    """
    try:
        value = json.loads(from_bytes(data, name) if isinstance(data, bytes) else data, parse_constant=lambda _: None)
    except (ValueError, RecursionError) as err:
        raise BadRecording("bad_metadata", f"{name}: not JSON: {' '.join(str(err).split())}") from None
    if not isinstance(value, dict):
        raise BadRecording("bad_metadata", f"{name}: expected a JSON object, got {type(value).__name__}")
    return value


def from_bytes(data: bytes, name: str) -> str:
    """Decode UTF-8 text and drop its byte order mark.

    Raises BadRecording("bad_metadata"), whose detail begins with `name`, if it is not UTF-8.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        raise BadRecording("bad_metadata", f"{name}: not UTF-8 at byte {err.start}") from None


def storable(value: str, name: str) -> str:
    """Return the same text. Raises BadRecording("bad_metadata") for lone surrogates, which Parquet cannot store."""
    try:
        value.encode()
    except UnicodeEncodeError as err:
        raise BadRecording("bad_metadata", f"{name}: not valid Unicode at character {err.start}") from None
    return value


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _is_missing(value: object) -> bool:
    return value is None or value == "" or value != value  # NaN


def _first(columns: Mapping[str, Any], names: Collection[str]) -> str:
    """Return the first of `names` with a value; without one, the first that is a column; else the first name."""
    present = [name for name in names if name in columns]
    return next((name for name in present if columns[name] not in (None, "")), (present or list(names))[0])
