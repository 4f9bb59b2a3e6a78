"""Multilingual LibriSpeech: mls_<language>/<split>/transcripts.txt, audio/SPEAKER/BOOK/SPEAKER_BOOK_NUMBER.flac."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import Any

from pipeline.config import SourceConfig
from pipeline.schemas import BadRecording, RecordingRef
from pipeline.sources.access import fields, names, remote
from pipeline.sources.access.lines import Row, read_table
from pipeline.sources.access.listing import list_files, list_folder
from pipeline.sources.corpora.splits import Layout, Split, Utterance, choose_splits, refs_of

LAYOUT = Layout(
    re.compile(r"(?P<split>[^/]+)/transcripts\.txt"),
    "audio",
    re.compile(r"/transcripts\.txt$|/audio/([^/]+)/([^/]+)/\1_\2_[^/]+$"),
)
LOOK_AHEAD = 100_000  # lines of segments.txt in memory at most, if the transcripts are in another order
_ID = re.compile(r"([^/_\0]+)_([^/_\0]+)_[^/_\0]+")


def list_recordings(source: SourceConfig) -> Iterator[RecordingRef]:
    """Yield one ref per line, in order. Ids are those of the transcripts, such as "4650_7935_000043".

    Metadata: speaker and book (from the id), the speaker's gender (from metainfo.txt), url, start and end in the book
    (from segments.txt) and split. Seconds are known if there is a segments.txt. The language is that of the folder
    mls_german or mls_german_opus. Memory: one line, and the speakers. Missing audio is noticed at once on a local disk,
    elsewhere when it is read. Raises ConfigError as `choose_splits`.
    """
    for split in choose_splits(source, LAYOUT, "mls"):
        utterance_of = partial(_utterance, split, _extension(split), _genders(split), _Segments(split))
        yield from refs_of(source, split, "mls", read_table(split.table, ("id", "text")), utterance_of)


class _Segments:
    """segments.txt, read along with the transcripts. They are usually in the same order."""

    def __init__(self, split: Split) -> None:
        files, _ = list_folder(split.uri("")) or ([], [])
        file = next((file for file in files if file.name == "segments.txt"), None)
        self._rows: Iterator[Row] = read_table(file, ("id", "url", "start", "end")) if file else iter(())
        self._read: dict[str, dict[str, Any]] = {}  # rows that were read and not asked for yet, by id

    def of(self, utterance: str) -> dict[str, Any]:
        """Return url, start and end of an utterance; nothing if they are not within the next LOOK_AHEAD lines."""
        while utterance not in self._read and len(self._read) < LOOK_AHEAD:
            row = next(self._rows, None)
            if row is None:
                break
            if row.error is None and row.columns["id"]:
                self._read[row.columns["id"]] = row.columns
        segment = self._read.pop(utterance, {})
        return {name: value for name, value in segment.items() if name != "id"}


def _utterance(
    split: Split, extension: str, genders: dict[str, str], segments: _Segments, columns: dict[str, Any]
) -> Utterance:
    utterance = columns["id"] or ""
    match = _ID.fullmatch(utterance)
    if match is None:
        raise BadRecording("bad_metadata", f"{utterance!r:.100} is not SPEAKER_BOOK_NUMBER")
    speaker, book = match[1], match[2]
    segment = segments.of(utterance)
    described = {"language": _language(split), "text": columns["text"], "speaker": speaker, "book": book}
    described |= {"gender": genders[speaker]} if speaker in genders else {}
    described |= {**segment, "split": split.name}
    return Utterance(utterance, described, _seconds(segment), f"audio/{speaker}/{book}/{utterance}.{extension}")


def _seconds(segment: dict[str, Any]) -> float | None:
    try:
        start, end = (fields.to_seconds(segment.get(name), name) for name in ("start", "end"))
    except BadRecording:  # the times stay in the metadata as they are
        return None
    return round(end - start, 3) if start is not None and end is not None and end > start else None


def _language(split: Split) -> str | None:
    match = re.fullmatch(r"mls_([a-z]+)(?:_opus)?", split.folder(up=2))
    return match[1] if match else None


def _extension(split: Split) -> str:
    """Return the extension of the first audio file. All files of a release have the same: flac or opus."""
    audio = (names.split_name(file.name) for file in list_files(split.uri("audio")))
    return next((name[1] for name in audio if name), "flac")


def _genders(split: Split) -> dict[str, str]:
    """Return the gender of each speaker by the lines "SPEAKER | GENDER | ..." of metainfo.txt; {} without that file."""
    files, _ = list_folder(split.uri("", up=2)) or ([], [])
    try:
        texts = [fields.from_bytes(remote.read_file(f.uri, f.size), f.uri) for f in files if f.name == "metainfo.txt"]
    except BadRecording:
        return {}
    cells = [[cell.strip() for cell in line.split("|")] for text in texts for line in text.splitlines()]
    return {row[0]: row[1] for row in cells[1:] if len(row) > 2 and row[1]}
