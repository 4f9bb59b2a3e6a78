"""Audio for the rows of a shard: each recording is read and decoded once, and cut to its labels; or its header only."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import groupby, islice
from typing import Literal

import numpy as np
import soundfile

from pipeline.audio import decode
from pipeline.audio.channels import Channel, wanted_channels
from pipeline.audio.declared import header_of
from pipeline.audio.pcm import to_pcm
from pipeline.config import RunConfig
from pipeline.export.figures import problem
from pipeline.export.labels import Label
from pipeline.export.origin import Item
from pipeline.schemas import SAMPLE_RATE, SAMPLES_PER_MS, BadAudio, BadRecording, Recording, RecordingRef
from pipeline.sources.access import trust
from pipeline.sources.access.listing import check_root
from pipeline.sources.ahead import read_in_order
from pipeline.sources.formats import check_versions

VERIFIED = 32  # rows of a recording


def with_audio(
    rows: Sequence[Item], run: RunConfig, encoding: Literal["FLAC", "WAV"], problems: list[dict[str, str]]
) -> Iterator[Item]:
    """The rows with their audio, recording by recording; of a recording by channel and time.

    A row whose audio cannot be had is left out, and `problems` gets a line about it. Raises StorageError if the source
    is out of reach.
    """
    for group, read_now in _recordings(rows, run):
        left = {item.label.label_id: item.label for item in group}
        try:
            for item in _cut(read_now, group, run, encoding):
                yield item
                del left[item.label.label_id]
        except BadRecording as err:
            problems += _lost(left.values(), err, run)


def with_headers(rows: Sequence[Item], run: RunConfig, problems: list[dict[str, str]]) -> Iterator[Item]:
    """The rows with the header of their recording, which says its length. Otherwise as `with_audio`."""
    for group, read_now in _recordings(rows, run):
        name = group[0].ref.source_uri
        try:
            header = header_of(read_now(), name)
            if header.seconds is None:
                raise BadAudio("unsupported_audio", f"{name}: its header does not say its length")
        except BadRecording as err:
            problems += _lost([item.label for item in group], err, run)
        else:
            yield from (replace(item, header=header) for item in group)


def _recordings(rows: Sequence[Item], run: RunConfig) -> Iterator[tuple[list[Item], Callable[[], Recording]]]:
    """The rows of each recording, and what reads it."""
    trust.apply(run.source)
    groups = [list(group) for _, group in groupby(rows, lambda item: (item.label.unit_id, item.label.recording_id))]
    with closing(read_in_order([group[0].ref for group in groups], run.compute.read_ahead)) as readings:
        yield from zip(groups, readings, strict=True)


def _lost(labels: Iterable[Label], err: BadRecording, run: RunConfig) -> list[dict[str, str]]:
    """The lines about labels of a recording that cannot be read. Raises StorageError if the source is out of reach."""
    if err.reason == "missing_file" and run.source.format != "huggingface":
        check_root(run.source.uri)
    return [problem(label, err.reason, err.detail) for label in labels]


def _cut(read_now: Callable[[], Recording], group: Sequence[Item], run: RunConfig, encoding: str) -> Iterator[Item]:
    """The rows of a recording with their audio. Memory: that of one label, and VERIFIED encoded ones."""
    read, ref = read_now(), group[0].ref
    try:
        name = ref.source_member or ref.source_uri
        found = wanted_channels(ref, decode.contents(read.audio, name=name), run.source)
        channels: dict[int | None, Channel] = {channel.label: channel for channel in found}
        ordered = sorted(group, key=lambda item: (item.label.channel or 0, item.label.start_ms))
        for label, of_channel in groupby(ordered, lambda item: item.label.channel):
            if label not in channels:
                raise BadAudio("unsupported_audio", f"{name}: it has no channel {label}")
            rows = _cut_channel(read, name, list(of_channel), channels[label], run)
            encoded = (replace(item, audio=_encoded(cut, encoding), samples=len(cut)) for item, cut in rows)
            yield from encoded if isinstance(read.audio, bytes) else _verified(encoded, ref)
    finally:
        read.close()


def _verified(rows: Iterator[Item], ref: RecordingRef) -> Iterator[Item]:
    """The rows of a recording that is read while it is decoded: after VERIFIED rows its version is compared again."""
    while True:
        waiting, error = list[Item](), None
        try:
            for item in islice(rows, VERIFIED):
                waiting.append(item)
        except BadRecording as err:  # the rows before it may be good
            error = err
        check_versions(ref)
        yield from waiting
        if error:
            raise error
        if len(waiting) < VERIFIED:
            return


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
