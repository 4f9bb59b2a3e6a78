"""Audio for the rows of a shard: each recording is read and decoded once, and cut to its labels."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import groupby
from typing import Literal

import numpy as np
import soundfile

from pipeline.audio import decode
from pipeline.audio.channels import Channel, wanted_channels
from pipeline.audio.pcm import to_pcm
from pipeline.config import RunConfig
from pipeline.export.figures import problem
from pipeline.export.origin import Item
from pipeline.schemas import SAMPLE_RATE, SAMPLES_PER_MS, BadAudio, BadRecording, Recording
from pipeline.sources.access import trust
from pipeline.sources.access.listing import check_root
from pipeline.sources.ahead import read_in_order
from pipeline.sources.formats import check_versions


def with_audio(
    rows: Sequence[Item], run: RunConfig, encoding: Literal["FLAC", "WAV"], problems: list[dict[str, str]]
) -> Iterator[Item]:
    """The rows with their audio, recording by recording; of a recording by channel and time.

    A row whose audio cannot be had is left out, and `problems` gets a line about it. Raises StorageError if the source
    is out of reach.
    """
    trust.apply(run.source)
    groups = [list(group) for _, group in groupby(rows, lambda item: (item.label.unit_id, item.label.recording_id))]
    with closing(read_in_order([group[0].ref for group in groups], run.compute.read_ahead)) as readings:
        for group, read_now in zip(groups, readings, strict=True):
            left = {item.label.label_id: item.label for item in group}
            try:
                for item, samples in _cut(read_now, group, run):
                    yield replace(item, audio=_encoded(samples, encoding), samples=len(samples))
                    del left[item.label.label_id]
            except BadRecording as err:
                if err.reason == "missing_file" and run.source.format != "huggingface":
                    check_root(run.source.uri)  # or the whole source is out of reach
                problems += [problem(label, err.reason, err.detail) for label in left.values()]


def _cut(read_now: Callable[[], Recording], group: Sequence[Item], run: RunConfig) -> Iterator[tuple[Item, np.ndarray]]:
    """The samples of each row of a recording: float32, mono, 16 kHz. Memory: about one label's."""
    read, ref = read_now(), group[0].ref
    try:
        name = ref.source_member or ref.source_uri
        found = wanted_channels(ref, decode.contents(read.audio, name=name), run.source)
        channels: dict[int | None, Channel] = {channel.label: channel for channel in found}
        ordered = sorted(group, key=lambda item: (item.label.channel or 0, item.label.start_ms))
        for label, of_channel in groupby(ordered, lambda item: item.label.channel):
            if label not in channels:
                raise BadAudio("unsupported_audio", f"{name}: it has no channel {label}")
            for item, samples in _cut_channel(read, name, list(of_channel), channels[label], run):
                if not isinstance(read.audio, bytes):  # it is read while it is decoded
                    check_versions(ref)
                yield item, samples
    finally:
        read.close()


def _cut_channel(
    read: Recording, name: str, items: Sequence[Item], channel: Channel, run: RunConfig
) -> Iterator[tuple[Item, np.ndarray]]:
    """The samples of rows of one channel, which are in the order of their begins."""
    first = items[0].label.start_ms
    blocks = decode.stream(
        read.audio,
        name=name,
        max_seconds=run.compute.max_recording_seconds,
        track=channel.track,
        channel=channel.channel,
        start_ms=first,
        end_ms=max(item.label.end_ms for item in items),
        and_above=channel.and_above,
    )
    with closing(blocks):
        spans = [((item.label.start_ms - first), (item.label.end_ms - first)) for item in items]
        for item, samples, (start, end) in zip(items, _spans(blocks, spans), spans, strict=True):
            if len(samples) + SAMPLES_PER_MS < (end - start) * SAMPLES_PER_MS:  # the last ms may be a part of one
                raise BadAudio("truncated_audio", f"{name}: it ends before {item.label.end_ms} ms")
            yield item, samples


def _spans(blocks: Iterator[np.ndarray], spans: Sequence[tuple[int, int]]) -> Iterator[np.ndarray]:
    """The samples of each span (start and end in ms from the first block on, by start); fewer where they end."""
    held, at = np.empty(0, np.float32), 0  # the samples from `at` on
    for start_ms, end_ms in spans:
        start, end = start_ms * SAMPLES_PER_MS, end_ms * SAMPLES_PER_MS
        parts, total = [held], len(held)
        while at + total < end and (block := next(blocks, None)) is not None:
            if at + total <= start:
                at, parts, total = at + total, [], 0
            parts.append(block)
            total += len(block)
        held = np.concatenate(parts)[max(0, start - at) :]
        at = max(at, start)
        yield held[: end - start]


def _encoded(samples: np.ndarray, encoding: str) -> bytes:
    """16 bits, 16 kHz, mono."""
    buffer = io.BytesIO()
    pcm = np.frombuffer(to_pcm(samples), "<i2")
    soundfile.write(buffer, pcm, SAMPLE_RATE, format=encoding, subtype="PCM_16")
    return buffer.getvalue()
