"""NeMo: manifests of JSON lines, and tars with a sharded manifest each."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.export.layout import Format, Target, file_of, part_key, write_lines
from pipeline.export.origin import Item
from pipeline.export.tar import TarFile

MANIFEST = "manifest.json"


def write_manifest(items: Iterable[Item], target: Target) -> dict[str, Path]:
    """Rows that point into the files of the source."""
    shard, folder, _ = target
    rows = (_row(item, file_of(item)) | {"offset": item.label.start_ms / 1000} for item in items)
    return {part_key(shard, MANIFEST): write_lines(folder / MANIFEST, rows)}


def write_tar(items: Iterable[Item], target: Target) -> dict[str, Path]:
    """audio_<n>.tar, sharded_manifests/manifest_<n>.json, and the rows of both for the whole manifest."""
    shard, folder, _ = target
    rows = []
    with TarFile(folder / "audio.tar") as tar:
        for item in items:
            name = f"{item.label.label_id}.flac"
            tar.add(name, item.audio)
            rows.append(_row(item, name) | {"shard_id": shard.number})
    manifest = write_lines(folder / MANIFEST, rows)
    own = Path(shutil.copy(manifest, folder / "sharded.json"))
    return {
        f"{shard.split}/audio_{shard.number}.tar": folder / "audio.tar",
        f"{shard.split}/sharded_manifests/manifest_{shard.number}.json": own,
        part_key(shard, MANIFEST): manifest,
    }


def _row(item: Item, audio: str) -> dict[str, Any]:
    label = item.label
    row = {"audio_filepath": audio, "duration": label.seconds, "text": label.text, "lang": label.language}
    row |= {"speaker": label.speaker, "id": label.label_id, **item.provenance}
    return row | ({} if label.kept else {"_skipme": label.reason})


FORMAT = Format(segments=write_tar, reference=write_manifest)
