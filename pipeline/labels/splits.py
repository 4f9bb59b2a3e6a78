"""Ids of labels and their split, by hash: neither depends on what else is in the archive."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from pipeline.labels.settings import SplitConfig

SIZE = 8  # bytes of a hash


def stable_hash(*parts: object) -> bytes:
    """SIZE bytes, the same on every machine."""
    text = "\0".join(map(str, parts))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=SIZE).digest()


def fraction(*parts: object) -> float:
    """A number in [0, 1) from a hash, as if drawn by chance."""
    return int.from_bytes(stable_hash(*parts)) / 256**SIZE


def label_id(model: str, recording_id: str, channel: int | None, segments: Sequence[int]) -> str:
    """16 hex digits: the same for the same segments of a recording by the same model."""
    return stable_hash(model, recording_id, channel, *segments).hex()


def split_of(config: SplitConfig, speaker: str | None, recording_id: str) -> str:
    """train, dev or test."""
    by_speaker = config.by == "speaker" and speaker is not None
    at = fraction(config.seed, *(("speaker", speaker) if by_speaker else ("recording", recording_id)))
    if at < config.test:
        return "test"
    return "dev" if at < config.test + config.dev else "train"
