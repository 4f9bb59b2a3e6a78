"""Common Voice releases: cv-corpus-*/<locale>/<split>.tsv with clips/*.mp3 beside."""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from pipeline.config import SourceConfig
from pipeline.schemas import Recording, RecordingRef
from pipeline.sources.access.lines import read_rows
from pipeline.sources.access.listing import File, list_folder
from pipeline.sources.corpora import joined
from pipeline.sources.corpora.splits import Layout, Row, Split, choose_splits, file_stem, refs_of

LAYOUT = Layout(
    re.compile(r"[^/]+/(?P<split>train|dev|test|validated|invalidated|other)\.tsv"),
    "clips",
    re.compile(r"/(?:train|dev|test|validated|invalidated|other)\.tsv$|/clips/[^/]+\.mp3$"),
)
DURATIONS = "clip_durations.tsv"
_QUOTED = re.compile(r'"((?:[^"]|"")*)"')


def list_recordings(source: SourceConfig) -> Iterator[RecordingRef]:
    """One ref per row, in order; ids are the names of the clips without extension ("common_voice_de_17298952").

    The reference is `sentence`; speaker (client_id), split and all other columns are metadata. Seconds are declared
    where the release has clip_durations.tsv. Memory: one line, and 12 bytes a clip of the release for its duration.
    A clip that is missing shows at once on a local disk, elsewhere when it is read. Raises ConfigError as
    `choose_splits`, and for a table without the columns `path` and `sentence`.
    """
    for split in choose_splits(source, LAYOUT, "commonvoice"):
        row_of = partial(_row, split, _Durations(split))
        yield from refs_of(source, split, "commonvoice", read_rows(split.table), row_of, (("path",), ("sentence",)))


def read_recording(ref: RecordingRef) -> Recording:
    """Raises BadRecording as `remote.read_audio`."""
    return joined.read(ref)


class _Durations:
    """The duration of each clip of the release, as far as it tells: sorted 64-bit hashes of the names, milliseconds."""

    def __init__(self, split: Split) -> None:
        hashes, times = array("Q"), array("I")
        files, _ = list_folder(split.uri("")) or ([], [])
        for record in (record for file in files if file.name == DURATIONS for record in _records(file)):
            clip, value = record.get("clip"), record.get("duration[ms]") or record.get("duration") or ""
            if clip and re.fullmatch(r"[0-9]{1,9}(?:\.[0-9]+)?", value):
                hashes.append(_hash(clip))
                times.append(round(float(value)))
        order = np.argsort(np.array(hashes, np.uint64))
        self.hashes = np.array(hashes, np.uint64)[order]
        self.times = np.array(times, np.uint32)[order]

    def seconds(self, clip: str) -> float | None:
        """None where it is not there, and for zero: that is not believed."""
        wanted = np.uint64(_hash(clip))
        at = int(np.searchsorted(self.hashes, wanted))
        if at == len(self.hashes) or self.hashes[at] != wanted:
            return None
        return int(self.times[at]) / 1000 or None


def _records(file: File) -> Iterator[dict[str, Any]]:
    return (record.columns for record in read_rows(file) if record.error is None)


def _hash(clip: str) -> int:
    return int.from_bytes(hashlib.blake2b(clip.encode(), digest_size=8).digest())


def _row(split: Split, durations: _Durations, columns: dict[str, Any]) -> Row:
    stem, extension = file_stem(columns["path"], "path")
    clip = f"{stem}.{extension}" if extension else f"{stem}.mp3"
    found = {"language": columns.get("locale") or split.folder(), **columns, "split": split.name}
    found["speaker"] = found.pop("client_id", None)
    found["sentence"] = _unquoted(columns["sentence"])
    del found["path"]
    found.pop("locale", None)
    return Row(stem, found, durations.seconds(clip), f"clips/{clip}")


def _unquoted(sentence: str | None) -> str | None:
    """Quotes are characters; but some releases have sentences with quotes as csv writes them, enclosed and doubled."""
    found = _QUOTED.fullmatch(sentence or "")
    return found[1].replace('""', '"') if found and '""' in found[1] else sentence
