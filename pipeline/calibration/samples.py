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

from pipeline.config import ConfigError
from pipeline.evaluation.result import headline
from pipeline.evaluation.rows import speaker_of
from pipeline.evaluation.settings import UNKNOWN
from pipeline.evaluation.words import label
from pipeline.output.features import COLUMNS, Features, features_of
from pipeline.output.tables import as_now, opened_part
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
    def known(self) -> np.ndarray:
        """Bool [words]: the normaliser leaves something of them."""
        return ~np.isnan(self.right)

    @property
    def spoken(self) -> np.ndarray:
        """Bool [segments]: they have words."""
        own = self.features
        return (np.bincount(own.row_of, minlength=len(self.units)) > 0) & own.has_text

    @property
    def accuracy(self) -> np.ndarray:
        """Of each segment, in [0, 1]: 1 - WER, and 0 where there are more errors than words of the reference."""
        return 1 - np.minimum(1, self.errors / np.maximum(1, self.units))


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
            sources += [value_of(metadata, source_column) or name] * len(rows)
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


def _recordings(storage: Storage) -> Iterator[tuple[list[dict[str, Any]], pa.Table]]:
    """The rows of each recording with a reference, in order: as dicts, and as a table. Needs memory for the set."""
    keys = [key for key in storage.list("transcripts/") if key.endswith(".parquet")]
    if not keys:
        raise ConfigError(f"sets: {storage.uri}: nothing is published there")
    for key in keys:
        with opened_part(storage, key) as file:
            table = as_now(file.read(columns=_READ), "transcripts", _READ, f"{storage.uri}/{key}")
        rows = table.select(["recording_id", "segment_index", "channel", "language", "words", "reference", "metadata"])
        start = 0
        for _, group in groupby(rows.to_pylist(), key=itemgetter("recording_id")):
            of_recording = list(group)
            if of_recording[0]["reference"]:
                yield of_recording, table.slice(start, len(of_recording))
            start += len(of_recording)


def value_of(metadata: str | None, key: str | None) -> str | None:
    """The text under a key of JSON metadata, None where it is missing."""
    if not (metadata and key):
        return None
    columns = json.loads(metadata)
    return str(columns[key]) if isinstance(columns, dict) and columns.get(key) is not None else None
