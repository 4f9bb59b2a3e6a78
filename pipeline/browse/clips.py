"""The audio of a segment, cut out of the source: WAV, 16 kHz, mono, in which every browser can seek."""

from __future__ import annotations

import re
from functools import lru_cache

from pipeline.export.cut import with_audio
from pipeline.export.labels import TRANSCRIPTS_AT, read_labels
from pipeline.export.origin import items, read_refs, read_run, unit_places
from pipeline.schemas import Place
from pipeline.storage.base import Storage

KEPT = 32  # clips in memory: a player asks for a clip several times, by ranges. One of 30 s has at most 1 MB.
_PART = re.compile(r"part-\d+\.parquet")


class NoAudio(Exception):
    """A segment whose audio cannot be had; the message is one line that says why."""


class Clips:
    """The clips of an output of jobs.transcribe. Threads may share it."""

    def __init__(self, transcripts: Storage) -> None:
        self._transcripts = transcripts
        self._places: dict[str, Place] = {}
        self.clip = lru_cache(KEPT)(self._clip)

    def _clip(self, part: str, row: int, label_id: str) -> bytes:
        """The audio of a row of a part of the transcripts. label_id: of what stood there when the row was found.

        Raises NoAudio; ConfigError, OutputError or OSError if the output or the source cannot be read.
        """
        if row < 0 or not _PART.fullmatch(part):
            raise NoAudio("there is no such segment")
        try:
            label = next(read_labels(self._transcripts, f"{TRANSCRIPTS_AT}{part}", row, row + 1), None)
        except FileNotFoundError:
            label = None
        if label is None or label.label_id != label_id:
            raise NoAudio("the transcripts were published again: search once more")
        run, problems = read_run(self._transcripts), list[dict[str, str]]()
        if label.unit_id not in self._places:
            self._places = unit_places(self._transcripts)
        units = [(label.unit_id, self._places[label.unit_id])] if label.unit_id in self._places else []
        rows = items([label], read_refs(self._transcripts, units), run)
        for item in with_audio(list(rows), run.config, "WAV", problems):
            return item.audio
        raise NoAudio("; ".join(f"{line['reason']}: {line['error']}" for line in problems))
