"""Common Voice: cv-corpus-*/<locale>/<split>.tsv with clips/*.mp3 beside it."""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from pipeline.config import SourceConfig
from pipeline.schemas import RecordingRef
from pipeline.sources.access.lines import read_table
from pipeline.sources.access.listing import list_folder
from pipeline.sources.corpora.splits import Layout, Split, Utterance, choose_splits, file_stem, refs_of

LAYOUT = Layout(
    re.compile(r"[^/]+/(?P<split>train|dev|test|validated|invalidated|other)\.tsv"),
    "clips",
    re.compile(r"/(?:train|dev|test|validated|invalidated|other)\.tsv$|/clips/[^/]+\.mp3$"),
)
DURATIONS = "clip_durations.tsv"
NEEDED = (("path",), ("sentence",))
_QUOTED = re.compile(r'"((?:[^"]|"")*)"')


def list_recordings(source: SourceConfig) -> Iterator[RecordingRef]:
    """Yield one ref per row, in order. Ids are the names of the clips without extension: "common_voice_de_17298952".

    The reference is `sentence`. Metadata: speaker (client_id), split and all other columns. Seconds are known if the
    release has clip_durations.tsv. Memory: one line, and 12 bytes per clip of the release if it has durations. A
    missing clip is noticed at once on a local disk, elsewhere when it is read. Raises ConfigError as `choose_splits`,
    and if the table lacks the column `path` or `sentence`.
    """
    for split in choose_splits(source, LAYOUT, "commonvoice"):
        utterance_of = partial(_utterance, split, _Durations(split))
        yield from refs_of(
            source, split, "commonvoice", read_table(split.table), utterance_of, (("path",), ("sentence",))
        )


class _Durations:
    """The durations of the clips of a release: sorted 64-bit hashes of their names, and milliseconds."""

    def __init__(self, split: Split) -> None:
        hashes, milliseconds = array("Q"), array("I")
        files, _ = list_folder(split.uri("")) or ([], [])
        for row in (row for file in files if file.name == DURATIONS for row in read_table(file) if row.error is None):
            clip, value = row.columns.get("clip"), row.columns.get("duration[ms]") or row.columns.get("duration") or ""
            if clip and re.fullmatch(r"[0-9]{1,9}(?:\.[0-9]+)?", value):
                hashes.append(_hash(clip))
                milliseconds.append(round(float(value)))
        order = np.argsort(np.array(hashes, np.uint64))
        self.hashes = np.array(hashes, np.uint64)[order]
        self.milliseconds = np.array(milliseconds, np.uint32)[order]

    def seconds(self, clip: str) -> float | None:
        """Return the duration of a clip; None if it is unknown or zero, which cannot be true."""
        wanted = np.uint64(_hash(clip))
        at = int(np.searchsorted(self.hashes, wanted))
        if at == len(self.hashes) or self.hashes[at] != wanted:
            return None
        return int(self.milliseconds[at]) / 1000 or None


def _hash(clip: str) -> int:
    return int.from_bytes(hashlib.blake2b(clip.encode(), digest_size=8).digest())


def _utterance(split: Split, durations: _Durations, columns: dict[str, Any]) -> Utterance:
    stem, extension = file_stem(columns["path"], "path")
    clip = f"{stem}.{extension}" if extension else f"{stem}.mp3"
    described = {"language": columns.get("locale") or split.folder(), **columns, "split": split.name}
    described["speaker"] = described.pop("client_id", None)
    described["sentence"] = _unquoted(columns["sentence"])
    del described["path"]
    described.pop("locale", None)
    return Utterance(stem, described, durations.seconds(clip), f"clips/{clip}")


def _unquoted(sentence: str | None) -> str | None:
    """Return the sentence without CSV's quotes: some releases enclose a sentence with quotes and double those in it."""
    quoted = _QUOTED.fullmatch(sentence or "")
    return quoted[1].replace('""', '"') if quoted and '""' in quoted[1] else sentence
