"""Multilingual LibriSpeech: mls_<language>/<split>/transcripts.txt, audio/SPEAKER/BOOK/SPEAKER_BOOK_NUMBER.flac."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import Any

from pipeline.config import SourceConfig
from pipeline.schemas import BadRecording, Recording, RecordingRef
from pipeline.sources.access import fields, names, remote
from pipeline.sources.access.lines import Record, read_rows
from pipeline.sources.access.listing import list_files, list_folder
from pipeline.sources.corpora import joined
from pipeline.sources.corpora.splits import Layout, Row, Split, choose_splits, refs_of

LAYOUT = Layout(
    re.compile(r"(?P<split>[^/]+)/transcripts\.txt"),
    "audio",
    re.compile(r"/transcripts\.txt$|/audio/([^/]+)/([^/]+)/\1_\2_[^/]+$"),
)
LOOK_AHEAD = 100_000  # lines of segments.txt that are held while the transcripts are in another order
_ID = re.compile(r"([^/_\0]+)_([^/_\0]+)_[^/_\0]+")


def list_recordings(source: SourceConfig) -> Iterator[RecordingRef]:
    """One ref per line, in order; ids are those of the transcripts ("4650_7935_000043").

    Speaker and book (from the id), the speaker's gender (metainfo.txt), url, start and end in the book (segments.txt)
    and split are metadata; seconds are declared where segments.txt is there. The language is that of the folder
    mls_german, also mls_german_opus. Memory: a line, and the speakers. Audio that is missing shows at once on a local
    disk, elsewhere when it is read. Raises ConfigError as `choose_splits`.
    """
    for split in choose_splits(source, LAYOUT, "mls"):
        row_of = partial(_row, split, _extension(split), _genders(split), _Segments(split))
        yield from refs_of(source, split, "mls", read_rows(split.table, ("id", "text")), row_of)


def read_recording(ref: RecordingRef) -> Recording:
    """Raises BadRecording as `remote.read_audio`."""
    return joined.read(ref)


class _Segments:
    """segments.txt read alongside the transcripts: usually in the same order, else as far as LOOK_AHEAD reaches."""

    def __init__(self, split: Split) -> None:
        files, _ = list_folder(split.uri("")) or ([], [])
        found = [file for file in files if file.name == "segments.txt"]
        self.ahead: Iterator[Record] = read_rows(found[0], ("id", "url", "start", "end")) if found else iter(())
        self.held: dict[str, dict[str, Any]] = {}

    def of(self, utterance: str) -> dict[str, Any]:
        """url, start and end of the utterance; nothing where they are unknown."""
        while utterance not in self.held and len(self.held) < LOOK_AHEAD:
            record = next(self.ahead, None)
            if record is None:
                break
            if record.error is None and record.columns["id"]:
                self.held[record.columns["id"]] = record.columns
        found = self.held.pop(utterance, {})
        return {name: value for name, value in found.items() if name != "id"}


def _row(split: Split, extension: str, genders: dict[str, str], segments: _Segments, columns: dict[str, Any]) -> Row:
    utterance = columns["id"] or ""
    found = _ID.fullmatch(utterance)
    if found is None:
        raise BadRecording("bad_metadata", f"{utterance!r:.100} is no SPEAKER_BOOK_NUMBER")
    speaker, book = found[1], found[2]
    segment = segments.of(utterance)
    described = {"language": _language(split), "text": columns["text"], "speaker": speaker, "book": book}
    described |= {"gender": genders[speaker]} if speaker in genders else {}
    described |= {**segment, "split": split.name}
    return Row(utterance, described, _seconds(segment), f"audio/{speaker}/{book}/{utterance}.{extension}")


def _seconds(segment: dict[str, Any]) -> float | None:
    try:
        start, end = (fields.to_seconds(segment.get(name), name) for name in ("start", "end"))
    except BadRecording:  # said in the metadata, needed for nothing else
        return None
    return round(end - start, 3) if start is not None and end is not None and end > start else None


def _language(split: Split) -> str | None:
    found = re.fullmatch(r"mls_([a-z]+)(?:_opus)?", split.folder(up=2))
    return found[1] if found else None


def _extension(split: Split) -> str:
    """That of the first audio file: a release has only one kind, flac or opus."""
    audio = (names.split_name(file.name) for file in list_files(split.uri("audio")))
    return next((found[1] for found in audio if found), "flac")


def _genders(split: Split) -> dict[str, str]:
    """Of each speaker, from lines "SPEAKER | GENDER | ..." of the language's metainfo.txt, if that is there."""
    files, _ = list_folder(split.uri("", up=2)) or ([], [])
    try:
        texts = [fields.from_bytes(remote.read_file(f.uri, f.size), f.uri) for f in files if f.name == "metainfo.txt"]
    except BadRecording:
        return {}
    cells = [[cell.strip() for cell in line.split("|")] for text in texts for line in text.splitlines()]
    return {row[0]: row[1] for row in cells[1:] if len(row) > 2 and row[1]}
