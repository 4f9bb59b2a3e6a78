"""WebDataset: tar shards with a .flac, a .json and a .txt for each row."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from pipeline.export.layout import Format, Target, training_row
from pipeline.export.origin import Item
from pipeline.export.tar import TarFile


def write_tar(items: Iterable[Item], target: Target) -> dict[str, Path]:
    """shard-<n>.tar."""
    path = target.folder / "shard.tar"
    with TarFile(path) as tar:
        for item in items:
            name = item.label.label_id
            tar.add(f"{name}.flac", item.audio)
            tar.add(f"{name}.json", json.dumps(training_row(item), ensure_ascii=False).encode())
            tar.add(f"{name}.txt", item.label.text.encode())
    return {f"{target.shard.split}/shard-{target.shard.number:06d}.tar": path}


FORMAT = Format(segments=write_tar)
