"""How a format is described, and the names of files that all formats share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pipeline.config import ConfigError, public
from pipeline.export.origin import Item
from pipeline.export.shards import Shard
from pipeline.storage.base import Storage

PARTS = "_export/parts/"  # files that are joined at the end: PARTS<shard>/<key of the joined file>
RECORDINGS = "recordings/"  # files of one recording each: RECORDINGS<name_of its id>
LONGEST_PART = 240  # bytes of a part of such a name, without its hash
MEMBERS = ("webdataset", "parquet", "huggingface")  # formats whose recordings are not files of their own


class Target(NamedTuple):
    """Where a shard is written: its files to `folder` first, then to the output at `uri`, which is absolute."""

    shard: Shard
    folder: Path
    uri: str


Writer = Callable[[Iterable[Item], Target], dict[str, Path]]


class Format(NamedTuple):
    """One format of `export.format`.

    segments, reference: write the items of a shard to files in a folder, and return them by their keys in the output;
    None: the format cannot. audio: how segments are encoded. needs_header: `reference` needs the headers of recordings.
    sort: the lines of joined files are sorted. finish: what is left to do when all files are there, for each split.
    """

    segments: Writer | None = None
    reference: Writer | None = None
    audio: Literal["FLAC", "WAV"] = "FLAC"
    needs_header: bool = False
    sort: bool = False
    finish: Callable[[Storage, str], None] | None = None


def part_key(shard: Shard, name: str) -> str:
    """The key of a file that is joined with those of the other shards to `<split>/<name>`."""
    return f"{PARTS}{shard.name}/{shard.split}/{name}"


def name_of(recording_id: str) -> str:
    """A relative path for a recording: its id, if that is one, else its usable parts and a hash of it.

    An ending of up to 5 bytes may follow: each part then has at most the 255 bytes that a disk takes.
    """
    parts = [part for part in recording_id.split("/") if part not in ("", ".", "..")]
    path = "/".join(part.encode()[:LONGEST_PART].decode(errors="ignore") for part in parts)
    digest = hashlib.blake2b(recording_id.encode(), digest_size=4).hexdigest()
    return path if path == recording_id else f"{path}-{digest}"


def file_of(item: Item) -> str:
    """The path or address of a recording that is a file.

    Raises ConfigError if it is in an archive or a table, if the row is of a part of it, or if the address has a secret.
    """
    ref = item.ref
    address = public(ref.source_uri)
    if ref.format in MEMBERS or ref.offset is not None or ref.source_member is not None:
        raise ConfigError(
            f"export.audio: {ref.recording_id} is in {address}: rows of this format can only point to whole "
            "files; export.audio=segments cuts the audio out"
        )
    if not item.is_whole:
        raise ConfigError(
            f"export.audio: {ref.recording_id}: the row is of one channel or track, which rows of this format cannot "
            "point to; export.audio=segments cuts it out"
        )
    if address != ref.source_uri:
        raise ConfigError(
            f"export.audio: {ref.recording_id}: {address} is signed or has a password, which rows must not have; "
            "export.audio=segments cuts the audio out"
        )
    return ref.source_uri


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write one JSON object a line."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return path


def provenance_row(item: Item) -> dict[str, Any]:
    """A line of provenance.jsonl, for formats whose own rows have no room for it."""
    return {"id": item.label.label_id, "text": item.label.text, **item.provenance}


def training_row(item: Item) -> dict[str, Any]:
    """A row with its text, its length in seconds and its provenance."""
    label = item.label
    known = {"id": label.label_id, "text": label.text, "language": label.language, "speaker": label.speaker}
    return {**known, "duration": label.seconds, **item.provenance}
