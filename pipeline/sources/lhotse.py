"""Lhotse cuts and recordings (one JSON object each) as the columns of a manifest."""

from __future__ import annotations

from typing import Any

from pipeline.schemas import BadRecording

_STRUCTURE = ("id", "start", "duration", "channel", "supervisions", "recording", "type", "features", "sources")
_OF_RECORDING = ("sampling_rate", "num_samples", "channel_ids", "transforms")
_WHOLE_SECONDS = 0.01  # a cut that misses no more than this of its recording is the whole of it


def is_lhotse(columns: dict[str, Any]) -> bool:
    return isinstance(columns.get("recording"), dict) or isinstance(columns.get("sources"), list)


def to_columns(cut: dict[str, Any]) -> dict[str, Any]:
    """id, audio_filepath, duration, offset (only of a part), channel (only of several), text, language and the rest.

    Raises BadRecording("bad_metadata") for cuts that are no part of one audio file, or are not in the form of Lhotse.
    """
    try:
        return _columns(cut)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as err:
        raise BadRecording("bad_metadata", f"no Lhotse cut: {type(err).__name__}: {err}") from None


def _columns(cut: dict[str, Any]) -> dict[str, Any]:
    recording = cut if "sources" in cut else cut["recording"]
    if any(change.get("name") != "Resample" for change in recording.get("transforms") or ()):
        raise BadRecording("bad_metadata", "transforms of the audio are not applied: save them as audio")
    source, channel = _source(recording, cut.get("channel") if cut is not recording else None)
    columns: dict[str, Any] = {
        "id": cut["id"],
        "audio_filepath": source,
        "duration": cut["duration"],
        "text": None,
        "language": None,
        "channel": channel,
    }
    if cut is not recording:
        start, seconds = float(cut.get("start") or 0), float(cut["duration"])
        if start > 0 or seconds < float(recording["duration"]) - _WHOLE_SECONDS:
            columns["offset"] = start
        supervisions = sorted(cut.get("supervisions") or (), key=lambda one: float(one.get("start") or 0))
        texts = [one["text"] for one in supervisions if one.get("text")]
        columns["text"] = " ".join(texts) if texts else None
        columns["language"] = _same(one.get("language") for one in supervisions)
        if speaker := _same(one.get("speaker") for one in supervisions):
            columns["speaker"] = speaker
    rest = {key: value for key, value in cut.items() if key not in (*_STRUCTURE, *_OF_RECORDING, *columns)}
    return columns | rest


def _source(recording: dict[str, Any], wanted: Any) -> tuple[str, int | None]:
    """The audio file that holds the wanted channel, and which of its channels that is (None: all of them, mixed)."""
    sources = recording["sources"]
    channels = [wanted] if isinstance(wanted, int) else list(wanted or ())
    if len(channels) == 1:
        sources = [source for source in sources if channels[0] in source["channels"]]
    if len(sources) != 1:
        raise BadRecording("bad_metadata", f"{len(sources)} audio files for channel {wanted}: one is needed")
    (source,) = sources
    if source["type"] not in ("file", "url"):
        raise BadRecording("bad_metadata", f"audio of type {source['type']!r} is not read: file or url")
    several = len(channels) == 1 and len(source["channels"]) > 1
    return source["source"], source["channels"].index(channels[0]) if several else None


def _same(values: Any) -> Any:
    """The value that all have in common, None where they differ."""
    distinct = {value for value in values if value}
    return distinct.pop() if len(distinct) == 1 else None
