"""One file per recording, for people: SubRip, WebVTT, plain text, and JSON with the times of words."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import chain, groupby
from pathlib import Path

from pipeline.export.cues import Cue, cues_of
from pipeline.export.layout import RECORDINGS, Format, Target, name_of, part_key, provenance_row, write_lines
from pipeline.export.origin import Item
from pipeline.output.tables import joined

PROVENANCE = "provenance.jsonl"


def write_recordings(
    items: Iterable[Item],
    target: Target,
    *,
    ending: str,
    text_of: Callable[[Sequence[Item]], str],
    has_provenance: bool,
) -> dict[str, Path]:
    """<recording id>.<ending> with the text of `text_of`, and the provenance of all rows where it has none itself."""
    shard, folder, _ = target
    files, rows = {}, []
    for number, (recording_id, group) in enumerate(groupby(items, lambda item: item.label.recording_id)):
        of_recording = sorted(group, key=lambda item: (item.label.start_ms, item.label.channel or 0))
        path = folder / str(number)
        path.write_text(text_of(of_recording), encoding="utf-8")
        files[f"{RECORDINGS}{name_of(recording_id)}.{ending}"] = path
        rows += [provenance_row(item) for item in of_recording]
    if not has_provenance:
        files[part_key(shard, PROVENANCE)] = write_lines(folder / PROVENANCE, rows)
    return files


def srt(items: Sequence[Item]) -> str:
    """The cues of a recording as SubRip."""
    return "\n".join(f"{number}\n{_cue(cue, ',')}" for number, cue in enumerate(_cues(items), 1))


def vtt(items: Sequence[Item]) -> str:
    """The cues of a recording as WebVTT."""
    return "WEBVTT\n\n" + "\n".join(_cue(cue, ".", escape=True) for cue in _cues(items))


def txt(items: Sequence[Item]) -> str:
    """The text of a recording, one line for each row."""
    return "".join(f"{item.label.text}\n" for item in items)


def as_json(items: Sequence[Item]) -> str:
    """A recording with its rows, each with its words, their times in ms and its provenance."""
    first = items[0]
    rows = [
        {"id": item.label.label_id, "text": item.label.text, "language": item.label.language}
        | {"speaker": item.label.speaker, **item.provenance}
        | {"words": [{key: word[key] for key in ("text", "start_ms", "end_ms", "confidence")} for word in label_words]}
        for item in items
        for label_words in [item.label.words]
    ]
    text, confidence = joined((item.label.text, item.label.confidence) for item in items)
    whole = {"recording_id": first.label.recording_id, "text": text, "confidence": confidence, "segments": rows}
    return json.dumps(whole, ensure_ascii=False, indent=1) + "\n"


def _cues(items: Sequence[Item]) -> list[Cue]:
    """The cues of a recording in the order of time: the rows of two channels may overlap."""
    return sorted(chain.from_iterable(cues_of(item.label) for item in items), key=lambda cue: cue.start_ms)


def _cue(cue: Cue, comma: str, *, escape: bool = False) -> str:
    lines = "\n".join(cue.lines)
    if escape:
        lines = lines.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return f"{_time(cue.start_ms, comma)} --> {_time(cue.end_ms, comma)}\n{lines}\n"


def _time(ms: int, comma: str) -> str:
    seconds, rest = divmod(ms, 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{comma}{rest:03d}"


def _format(ending: str, text_of: Callable[[Sequence[Item]], str], *, has_provenance: bool = False) -> Format:
    return Format(reference=partial(write_recordings, ending=ending, text_of=text_of, has_provenance=has_provenance))


SRT, VTT, TXT = _format("srt", srt), _format("vtt", vtt), _format("txt", txt)
JSON = _format("json", as_json, has_provenance=True)
