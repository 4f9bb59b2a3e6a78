"""Transcripts with references as samples: which words are right, and how many errors each segment has."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rapidfuzz.distance import Levenshtein

from pipeline.config import ConfigError
from pipeline.evaluation.result import headline
from pipeline.evaluation.rows import speaker_of
from pipeline.evaluation.score import alignment
from pipeline.evaluation.settings import UNKNOWN
from pipeline.output.features import COLUMNS, Features, features_of
from pipeline.output.stitch import join_words
from pipeline.storage.base import Storage

_READ = [*dict.fromkeys([*COLUMNS, "recording_id", "segment_index", "channel", "reference", "metadata", "fingerprint"])]


NormaliserOf = Callable[[str], Callable[[str], str]]


@dataclass(frozen=True, slots=True)
class Samples:
    """Words and segments of recordings with a reference.

    right: float64 [words], 1 or 0, NaN: the normaliser leaves nothing of the word. errors, units: int64 [segments], of
    the alignment; units are the words of the reference (Mandarin: characters). Deletions count in the segment of the
    word before. speaker: int64 [segments], equal numbers are one speaker; of an unknown one each recording has its own.
    source: where a segment is from.
    """

    features: Features
    right: np.ndarray
    errors: np.ndarray
    units: np.ndarray
    speaker: np.ndarray
    source: np.ndarray  # object [segments]: text
    fingerprints: tuple[str, ...]

    def some(self, rows: np.ndarray) -> Samples:
        """Only the segments where `rows`, bool [segments], is true."""
        words = rows[self.features.row_of]
        place = np.cumsum(rows) - 1
        own = self.features
        features = Features(
            word={name: values[words] for name, values in own.word.items()},
            segment={name: values[rows] for name, values in own.segment.items()},
            row_of=place[own.row_of[words]],
            raw_word=own.raw_word[words],
            raw_segment=own.raw_segment[rows],
            language=own.language[rows],
            model=own.model[rows],
            has_text=own.has_text[rows],
        )
        return replace(
            self,
            features=features,
            right=self.right[words],
            errors=self.errors[rows],
            units=self.units[rows],
            speaker=self.speaker[rows],
            source=self.source[rows],
        )

    @property
    def accuracy(self) -> np.ndarray:
        """Of each segment, in [0, 1]: 1 - WER, and 0 where there are more errors than words of the reference."""
        return 1 - np.minimum(1, self.errors / np.maximum(1, self.units))


@dataclass(frozen=True, slots=True)
class Labels:
    """Of one recording: which of its words are right (None: nothing is left of it), errors and units by segment."""

    right: list[bool | None]
    errors: list[int]
    units: list[int]


def read_samples(outputs: Sequence[tuple[str, Storage, NormaliserOf]], source_column: str | None = None) -> Samples:
    """The samples of outputs of jobs.transcribe. outputs: name of the set, where it is, the normaliser of a language.

    source_column: key of the metadata that says where a recording is from; None, or where it is missing: the set.
    Raises ConfigError where no recording has a reference.
    """
    tables, labels, speakers, sources = [], [], [], []
    for name, storage, normaliser_of in outputs:
        for rows, table in _recordings(storage):
            language = rows[0]["language"] or UNKNOWN
            normal = normaliser_of(language)
            words = [[word["text"] for word in row["words"] or []] for row in rows]
            is_chars = headline(language) == "CER"
            found = label(words, normal(rows[0]["reference"]), normal, chars=is_chars)
            if not any(found.units):
                continue
            tables.append(table)
            labels.append(found)
            metadata = rows[0]["metadata"]
            speakers += [speaker_of(metadata) or f"{name}/{rows[0]['recording_id']}"] * len(rows)
            sources += [_value(metadata, source_column) or name] * len(rows)
    if not tables:
        where = ", ".join(storage.uri for _, storage, _ in outputs)
        raise ConfigError(f"sets: {where}: no transcript has a reference with words")
    whole = pa.concat_tables(tables).combine_chunks()
    return Samples(
        features=features_of(whole),
        right=np.array([np.nan if one is None else float(one) for of in labels for one in of.right]),
        errors=np.array([count for of in labels for count in of.errors]),
        units=np.array([count for of in labels for count in of.units]),
        speaker=np.unique(np.array(speakers), return_inverse=True)[1],
        source=np.array(sources, object),
        fingerprints=tuple(sorted(set(whole["fingerprint"].to_pylist()))),
    )


def label(segments: list[list[str]], reference: str, normal: Callable[[str], str], *, chars: bool) -> Labels:
    """Align the words of a recording with its reference.

    segments: the words of each, as they were recognised. reference: normalised. chars: the units are characters.

    A normaliser may join, split or drop words. So the letters of the recognised words are aligned with those of the
    normalised text: a word is right if all units are right that its letters became.
    """
    words = [word for of_segment in segments for word in of_segment]
    segment_of = [number for number, of_segment in enumerate(segments) for _ in of_segment]
    errors, units = [0] * len(segments), [0] * len(segments)
    hypothesis = normal(join_words([{"text": word} for word in words]))
    steps = alignment(reference, hypothesis, chars=chars)
    recognised = [step.hypothesis for step in steps if step.hypothesis.strip()]
    touched = touched_units(words, recognised)
    word_of = {unit: word for word, of_word in reversed(list(enumerate(touched))) for unit in of_word}
    is_right: list[bool] = []
    segment = 0
    for step in steps:
        if step.hypothesis.strip():
            segment = segment_of[word_of[len(is_right)]] if len(is_right) in word_of else segment
            is_right.append(step.operation == "equal")
        if step.reference.strip():
            units[segment] += 1
        if step.operation != "equal" and (step.hypothesis.strip() or step.reference.strip()):
            errors[segment] += 1
    right = [all(is_right[unit] for unit in of_word) if of_word else None for of_word in touched]
    return Labels(right, errors, units)


def touched_units(words: list[str], units: list[str]) -> list[set[int]]:
    """For each recognised word the indexes of the normalised units that its letters became, perhaps none."""
    letters, of_unit = "".join(units), [number for number, unit in enumerate(units) for _ in unit]
    raw, of_word = "".join(words).lower(), [number for number, word in enumerate(words) for _ in word.lower()]
    touched: list[set[int]] = [set() for _ in words]
    blocks = groupby(Levenshtein.opcodes(raw, letters), key=lambda block: block.tag == "equal")
    for is_equal, group in blocks:
        several = list(group)
        if is_equal:
            for block in several:
                for number in range(block.src_end - block.src_start):
                    touched[of_word[block.src_start + number]].add(of_unit[block.dest_start + number])
            continue
        there = of_unit[several[0].dest_start : several[-1].dest_end]
        first, end = several[0].src_start, several[-1].src_end
        for word in set(of_word[first:end] or of_word[max(0, first - 1) : first]):
            touched[word].update(there)
    return touched


def _recordings(storage: Storage) -> Iterator[tuple[list[dict[str, Any]], pa.Table]]:
    """The rows of each recording with a reference, in order: as dicts, and as a table. Needs memory for the set."""
    keys = [key for key in storage.list("transcripts/") if key.endswith(".parquet")]
    if not keys:
        raise ConfigError(f"sets: {storage.uri}: nothing is published there")
    for key in keys:
        with storage.open(key) as stream, pq.ParquetFile(stream) as file:
            table = file.read(columns=_READ)
        rows = table.select(["recording_id", "segment_index", "channel", "language", "words", "reference", "metadata"])
        start = 0
        for _, group in groupby(rows.to_pylist(), key=itemgetter("recording_id")):
            of_recording = list(group)
            if of_recording[0]["reference"]:
                yield of_recording, table.slice(start, len(of_recording))
            start += len(of_recording)


def _value(metadata: str | None, key: str | None) -> str | None:
    """The text under a key of JSON metadata, None where it is missing."""
    if not (metadata and key):
        return None
    columns = json.loads(metadata)
    return str(columns[key]) if isinstance(columns, dict) and columns.get(key) is not None else None
