"""Lhotse: cuts that point into the files of the source, and Shar (tars of FLAC with uncompressed cuts beside)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.export.layout import Format, Target, file_of, part_key, write_lines
from pipeline.export.origin import Item
from pipeline.export.tar import TarFile
from pipeline.schemas import SAMPLE_RATE

CUTS = "cuts.jsonl"


def write_cuts(items: Iterable[Item], target: Target) -> dict[str, Path]:
    """Cuts of whole recordings."""
    rows, name, recording = [], "", {}
    for item in items:
        if item.label.recording_id != name:
            name, recording = item.label.recording_id, _recording(item)
        rows.append(_cut(item, recording, item.label.start_ms / 1000, item.label.seconds, recording["channel_ids"]))
    return {part_key(target.shard, CUTS): write_lines(target.folder / CUTS, rows)}


def write_shar(items: Iterable[Item], target: Target) -> dict[str, Path]:
    """cuts.<n>.jsonl and recording.<n>.tar."""
    rows = []
    with TarFile(target.folder / "recording.tar") as tar:
        for item in items:
            name, seconds = item.label.label_id, item.samples / SAMPLE_RATE
            recording = {
                "id": name,
                "sources": [{"type": "shar", "channels": [0], "source": ""}],
                "sampling_rate": SAMPLE_RATE,
                "num_samples": item.samples,
                "duration": seconds,
                "channel_ids": [0],
            }
            tar.add(f"{name}.flac", item.audio)
            tar.add(f"{name}.json", json.dumps(recording).encode())
            rows.append(_cut(item, recording, 0.0, seconds, [0]))
    number = f"{target.shard.number:06d}"
    return {
        f"{target.shard.split}/cuts.{number}.jsonl": write_lines(target.folder / CUTS, rows),
        f"{target.shard.split}/recording.{number}.tar": target.folder / "recording.tar",
    }


def _cut(item: Item, recording: dict[str, Any], start: float, seconds: float, channels: list[int]) -> dict[str, Any]:
    """A MonoCut, or a MultiCut of several channels, with one supervision and the times of its words."""
    label = item.label
    channel: int | list[int] = channels[0] if len(channels) == 1 else channels
    words = [
        [word["text"], (word["start_ms"] - label.start_ms) / 1000, (word["end_ms"] - word["start_ms"]) / 1000]
        for word in label.words
        if word["start_ms"] is not None and word["end_ms"] is not None
    ]
    supervision = {
        "id": label.label_id,
        "recording_id": recording["id"],
        "start": 0.0,
        "duration": seconds,
        "channel": channel,
        "text": label.text,
        "language": label.language,
        "speaker": label.speaker,
        "alignment": {"word": words} if words else None,
        "custom": item.provenance,
    }
    return {
        "id": label.label_id,
        "start": start,
        "duration": seconds,
        "channel": channel,
        "supervisions": [{key: value for key, value in supervision.items() if value is not None}],
        "recording": recording,
        "type": "MonoCut" if len(channels) == 1 else "MultiCut",
    }


def _recording(item: Item) -> dict[str, Any]:
    """The recording of a row, with what its header says of rate, length and channels."""
    path, header = file_of(item), item.header
    assert header is not None
    assert header.seconds is not None
    channels = list(range(header.channels))
    return {
        "id": item.label.recording_id,
        "sources": [{"type": "file" if "://" not in path else "url", "channels": channels, "source": path}],
        "sampling_rate": header.rate,
        "num_samples": round(header.seconds * header.rate),
        "duration": header.seconds,
        "channel_ids": channels,
    }


FORMAT = Format(segments=write_shar, reference=write_cuts, needs_header=True)
