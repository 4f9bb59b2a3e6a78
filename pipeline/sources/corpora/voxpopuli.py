"""VoxPopuli: <language>/asr_<split>.tsv, and below it <year>/<id>.ogg or <split>/<split>_part_0.tar.gz."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import Any

from pipeline.config import SourceConfig
from pipeline.schemas import BadRecording, RecordingRef
from pipeline.sources.access import names
from pipeline.sources.access.lines import read_table
from pipeline.sources.access.listing import File, list_files
from pipeline.sources.access.streams import is_archive
from pipeline.sources.corpora import joined
from pipeline.sources.corpora.splits import Layout, Split, Utterance, choose_splits, refs_of

LAYOUT = Layout(
    re.compile(r"[^/]+/asr_(?P<split>train|dev|test)\.tsv"),
    None,
    re.compile(
        r"/asr_(?:train|dev|test)\.tsv$|/(?:train|dev|test)/(?:train|dev|test)_part_\d+\.tar\.gz$|/20\d\d/\d{8}-[^/]*PLENARY[^/]*$"
    ),
)
ID_NAMES = ("id", "id_", "audio_id")
TEXT_NAMES = ("normalized_text", "raw_text")
NEEDED = (ID_NAMES, TEXT_NAMES)


def list_recordings(source: SourceConfig) -> Iterator[RecordingRef]:
    """Yield one ref per row. Ids are those of the table; the audio files below its folder have the same names.

    The reference is `normalized_text`. Metadata: speaker, gender, accent, raw_text, is_gold_transcript and split, where
    "None" means null. Memory: the rows of one split. Raises ConfigError as `choose_splits`.
    """
    for split in choose_splits(source, LAYOUT, "voxpopuli"):
        refs = refs_of(source, split, "voxpopuli", read_table(split.table), partial(_utterance, split), NEEDED)
        yield from joined.join(refs, _audio(split))


def _utterance(split: Split, columns: dict[str, Any]) -> Utterance:
    columns = {name: None if value == "None" and name not in TEXT_NAMES else value for name, value in columns.items()}
    recording_id = next((columns[name] for name in ID_NAMES if columns.get(name)), None)
    if not recording_id or "/" in recording_id or "\0" in recording_id:
        raise BadRecording("bad_metadata", f"there is no id in {' or '.join(ID_NAMES)}")
    code = split.folder() if re.fullmatch(r"[a-z]{2}(?:_[a-z0-9]+)?", split.folder()) else None
    described = {"language": code, **columns, "speaker": columns.get("speaker_id"), "split": split.name}
    for name in (*ID_NAMES, "speaker_id"):
        described.pop(name, None)
    return Utterance(recording_id, described)


def _audio(split: Split) -> Iterator[File]:
    """Yield all audio files below the folder of the table, and the archives of this split."""
    for file in list_files(split.uri("")):
        *folders, name = file.name.split("/")
        is_of_split = split.name in folders or name.startswith((f"{split.name}_", f"{split.name}."))
        if names.split_name(name) or (is_of_split and is_archive(name)):
            yield file
