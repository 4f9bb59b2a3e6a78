"""What a source says about a recording: its language, reference and metadata, taken from columns or sidecar keys."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from pipeline.config import COLUMN, PATH
from pipeline.schemas import BadRecording
from pipeline.sources.access import names
from pipeline.sources.access.languages import known_language

TEXT_NAMES = (
    *("text", "transcript", "transcription", "sentence", "normalized_text", "raw_transcription", "reference"),
    *("txt", "raw_text", "ref_text", "ground_truth"),
)
LANGUAGE_NAMES = ("language", "lang", "locale", "language_code", "lang_code", "source_lang")
ID_NAMES = (
    *("id", "utt_id", "utterance_id", "recording_id", "segment_id", "audio_id", "sample_id", "utt", "uid", "uuid"),
    *("key", "__key__"),
)
AUDIO_NAMES = (
    *("audio_filepath", "audio", "audio_path", "audio_file", "path", "file_name", "filename", "file", "wav"),
    *("audio_filename", "wav_path", "wav_filename", "audio_url", "url"),
)
MAX_TEXT_BYTES = 4 << 20  # limit of one sidecar, and of one line of a manifest


class Fields(NamedTuple):
    """What is known of a recording.

    language: one of LANGUAGES, None if unknown. reference: None if the source has none. metadata: JSON text, None if
    there is nothing else.
    """

    language: str | None = None
    reference: str | None = None
    metadata: str | None = None


def describe(
    columns: Mapping[str, Any], *, language: str | None = None, text: str | None = None, drop: Collection[str] = ()
) -> Fields:
    """Find language and reference among the columns of one recording. All other columns become metadata.

    language: the value of source.language. text: the value of source.text_column. drop: columns that are left out.
    Raises BadRecording: "unsupported_language", which keeps reference and metadata; "bad_metadata" if a value is not
    text or cannot be written as JSON.
    """
    used = set(drop)
    name, value = "", None  # of the language
    if language is None or language.startswith(COLUMN):
        name = first(columns, (language.removeprefix(COLUMN),) if language else LANGUAGE_NAMES)
        value = columns.get(name)
        used.add(name)
    name = first(columns, (text,) if text else TEXT_NAMES)
    reference = to_text(columns.get(name), name)
    used.add(name)
    metadata = to_json({key: value for key, value in columns.items() if key not in used})
    if language is not None and not language.startswith((COLUMN, PATH)):
        return Fields(language, reference, metadata)
    try:
        return Fields(known_language(value), reference, metadata)
    except BadRecording as err:
        err.described = {"reference": reference, "metadata": metadata}
        raise


def kept(columns: Mapping[str, Any], text: str | None = None, drop: Collection[str] = ()) -> dict[str, Any]:
    """Return reference and metadata of columns that cannot be used as they should, as far as they can be stored."""
    try:
        return describe(columns, language=PATH, text=text, drop=drop)._asdict()
    except BadRecording:
        return {}


def first(columns: Mapping[str, Any], names: Collection[str]) -> str:
    """Return the first of `names` with a value; without one, the first that is a column; else the first name."""
    present = [name for name in names if name in columns]
    return next((name for name in present if columns[name] not in (None, "")), (present or list(names))[0])


def audio_path(columns: Mapping[str, Any], name: str | None = None) -> tuple[str, str]:
    """Return the column with the path of the audio, and the path.

    name: the column, if it is known. Otherwise it is one of AUDIO_NAMES, or the only one whose value ends like a name
    of an audio file. The value is the path, or an object with the key "path". Raises BadRecording("bad_metadata"),
    which says which columns there are.
    """
    values = {key: value.get("path") if isinstance(value, dict) else value for key, value in columns.items()}
    if name is None:
        usual = (key for key in AUDIO_NAMES if values.get(key) not in (None, ""))
        like = [key for key, value in values.items() if isinstance(value, str) and names.split_name(value.strip())]
        name = next(usual, like[0] if len(like) == 1 else None)
    path = values.get(name) if name else None
    if not isinstance(path, str) or not path.strip() or "\0" in path:
        where = f"no path of an audio file in {name!r}" if name else "no path of an audio file"
        raise BadRecording("bad_metadata", f"{where}; the keys are {', '.join(map(repr, columns)) or 'none'}"[:500])
    return name or "", storable(path, name or "")


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
    value = any_json(data, name)
    if not isinstance(value, dict):
        raise BadRecording("bad_metadata", f"{name}: expected a JSON object, got {type(value).__name__}")
    return value


def any_json(data: bytes | str, name: str) -> Any:
    """Read JSON; NaN becomes null. Raises BadRecording("bad_metadata"), whose detail begins with `name`."""
    try:
        return json.loads(from_bytes(data, name) if isinstance(data, bytes) else data, parse_constant=lambda _: None)
    except (ValueError, RecursionError) as err:
        raise BadRecording("bad_metadata", f"{name}: not JSON: {' '.join(str(err).split())}") from None


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
