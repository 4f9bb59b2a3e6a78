"""Turns Lhotse cuts and recordings, one JSON object each, into the columns of a manifest."""

from __future__ import annotations

from typing import Any

from pipeline.schemas import BadRecording

_STRUCTURE = ("id", "start", "duration", "channel", "supervisions", "recording", "type", "features", "sources")
_OF_RECORDING = ("sampling_rate", "num_samples", "channel_ids", "transforms")
_WHOLE_SECONDS = 0.01  # a cut that leaves out less than this of its recording is the whole recording


def is_lhotse(columns: dict[str, Any]) -> bool:
    """Return whether a line of a manifest is a cut or a recording of Lhotse."""
    return isinstance(columns.get("recording"), dict) or isinstance(columns.get("sources"), list)


def to_columns(cut: dict[str, Any]) -> dict[str, Any]:
    """Return id, audio_filepath, duration, text, language, channel, offset and all other keys of a cut.

    offset is there only for a section of the recording; channel is None unless one of several is meant. Raises
    BadRecording("bad_metadata") if the cut needs more than one audio file, or is not in Lhotse's form.
    """
    try:
        return _columns(cut)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as err:
        raise BadRecording("bad_metadata", f"not a Lhotse cut: {type(err).__name__}: {err}") from None


def _columns(cut: dict[str, Any]) -> dict[str, Any]:
    recording = cut if "sources" in cut else cut["recording"]
    if any(change.get("name") != "Resample" for change in recording.get("transforms") or ()):
        raise BadRecording("bad_metadata", "transforms of the audio are not supported: save the transformed audio")
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
        supervisions = sorted(cut.get("supervisions") or (), key=lambda item: float(item.get("start") or 0))
        texts = [item["text"] for item in supervisions if item.get("text")]
        columns["text"] = " ".join(texts) if texts else None
        columns["language"] = _common(item.get("language") for item in supervisions)
        if speaker := _common(item.get("speaker") for item in supervisions):
            columns["speaker"] = speaker
    rest = {key: value for key, value in cut.items() if key not in (*_STRUCTURE, *_OF_RECORDING, *columns)}
    return columns | rest


def _source(recording: dict[str, Any], wanted: Any) -> tuple[str, int | None]:
    """Return the audio file that has the wanted channel, and which of its channels that is; None: all of them mixed."""
    sources = recording["sources"]
    channels = [wanted] if isinstance(wanted, int) else list(wanted or ())
    if len(channels) == 1:
        sources = [source for source in sources if channels[0] in source["channels"]]
    if len(sources) != 1:
        raise BadRecording("bad_metadata", f"{len(sources)} audio files for channel {wanted}: it must be one")
    (source,) = sources
    if source["type"] not in ("file", "url"):
        raise BadRecording("bad_metadata", f"audio of type {source['type']!r} is not supported, only file and url")
    is_one_of_several = len(channels) == 1 and len(source["channels"]) > 1
    return source["source"], source["channels"].index(channels[0]) if is_one_of_several else None


def _common(values: Any) -> Any:
    """Return the value that all have in common, None if they differ."""
    distinct = {value for value in values if value}
    return distinct.pop() if len(distinct) == 1 else None
