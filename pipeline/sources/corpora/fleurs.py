"""FLEURS: data/<language>/<split>.tsv without a header, with audio/<split>.tar.gz or a folder audio/<split> beside."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import Any

from pipeline.config import SourceConfig
from pipeline.schemas import SAMPLE_RATE, BadRecording, RecordingRef
from pipeline.sources.access.lines import read_table
from pipeline.sources.access.listing import File, list_files, list_folder
from pipeline.sources.access.streams import is_archive
from pipeline.sources.corpora import joined
from pipeline.sources.corpora.splits import Layout, Split, Utterance, choose_splits, file_stem, refs_of

LAYOUT = Layout(
    re.compile(r"[a-z]{2,3}(?:_[a-z0-9]{2,8})+/(?P<split>train|dev|test)\.tsv"),  # en_us, es_419, cmn_hans_cn
    "audio",
    re.compile(r"/(?:train|dev|test)\.tsv$|/audio/(?:train|dev|test)(?:\.tar|\.tgz|\.tar\.gz|/[^/]+\.wav)$"),
)
COLUMNS = ("sentence_id", "file_name", "raw_transcription", "transcription", "letters", "num_samples", "gender")


def list_recordings(source: SourceConfig) -> Iterator[RecordingRef]:
    """Yield one ref per row. Ids are "<language>/<file name without .wav>", since several speakers read one sentence.

    The reference is `transcription`. Metadata: `raw_transcription` with case and punctuation, sentence_id, gender and
    split; the corpus does not name the speakers. Memory: the rows of one split. Raises ConfigError as `choose_splits`.
    """
    for split in choose_splits(source, LAYOUT, "fleurs"):
        refs = refs_of(source, split, "fleurs", read_table(split.table, COLUMNS), partial(_utterance, split))
        yield from joined.join(refs, _audio(split))


def _utterance(split: Split, columns: dict[str, Any]) -> Utterance:
    stem, _ = file_stem(columns["file_name"], "file_name")
    samples = columns["num_samples"] or ""
    if not re.fullmatch(r"[0-9]{1,12}", samples):
        raise BadRecording("bad_metadata", f"num_samples: expected a number, got {samples!r:.100}")
    kept = {name: columns[name] for name in ("transcription", "raw_transcription", "sentence_id", "gender")}
    described = {"language": split.folder(), **kept, "split": split.name}
    return Utterance(f"{split.folder()}/{stem}", described, int(samples) / SAMPLE_RATE or None)


def _audio(split: Split) -> Iterator[File]:
    """Yield the unpacked files, if there are any, then the archives."""
    files, folders = list_folder(split.uri("audio")) or ([], [])
    if split.uri(f"audio/{split.name}") in folders:
        yield from list_files(split.uri(f"audio/{split.name}"))
    yield from (file for file in files if is_archive(file.name) and file.name.partition(".")[0] == split.name)
