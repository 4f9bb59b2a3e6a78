"""Recordings with their texts from any source: decoded and cut once as in transcription, then read at random."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.audio.stage import Decoder
from pipeline.config import (
    ComputeConfig,
    ConfigError,
    OutputConfig,
    RunConfig,
    SegmentConfig,
    SourceConfig,
    StorageConfig,
)
from pipeline.model.files.layout import AsrConfig
from pipeline.schemas import About, DecodedRecording, RecordingRef, WorkUnit, pcm_of
from pipeline.sources import formats as sources
from pipeline.storage.base import OutputError, apply
from pipeline.storage.errors import storage_error

log = logging.getLogger(__name__)

UNIT = 64  # recordings that are decoded before their examples are written
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("language", pa.string()),  # null: unknown
        ("text", pa.string()),
        ("pcm", pa.large_binary()),  # mono, 16 kHz, int16 little-endian
    ]
)


class Examples:
    """The examples that `prepare` wrote, mapped into memory.

    `left_out` counts the recordings that are no example, by a reason of schemas.REASONS or one of these:

    no_reference      the source has no text for it
    no_speech         it has no speech
    several_windows   it is longer than a window of the model: nobody knows which words belong to which window
    """

    def __init__(self, path: Path) -> None:
        """Raises OutputError where its files are damaged."""
        try:
            self.table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
            self.left_out: dict[str, int] = json.loads(path.with_suffix(".json").read_text())
        except (OSError, ValueError) as err:
            if storage_error(err):
                raise
            why = " ".join(str(err).split())[:200]
            raise OutputError(f"{path}: damaged ({why}); delete it, and its audio is decoded again") from None
        self.texts: list[str] = self.table["text"].to_pylist()
        self.languages: list[str | None] = self.table["language"].to_pylist()
        self.keys: list[str] = self.table["key"].to_pylist()
        self.samples: list[int] = [length // 2 for length in pc.binary_length(self.table["pcm"]).to_pylist()]

    def __len__(self) -> int:
        return len(self.texts)

    def pcm(self, row: int) -> bytes:
        data: bytes = self.table["pcm"][row].as_py()
        return data


def prepare(
    folder: Path, source: SourceConfig, *, model: AsrConfig, segment: SegmentConfig, storage: StorageConfig
) -> Examples:
    """The examples of a source. They are decoded once: a later call with the same settings reads them from `folder`.

    An example is a recording that has a reference and that the segmenter makes exactly one window of. All others are
    counted by reason.

    Args:
        folder: where decoded examples are kept.
        source: of recordings with texts.
        model: gives the length of a window in seconds and the languages.
        segment: how recordings are cut.
        storage: keys and address of a store, where the source is in one.

    Raises:
        ConfigError: the source cannot be listed, or no recording is an example.
    """
    recipe = {
        "source": source.model_dump(mode="json"),
        "segment": segment.model_dump(mode="json"),
        "window_seconds": model.window_seconds,
        "languages": model.languages,
    }
    path = folder / f"{hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]}.arrow"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        left_out: Counter[str] = Counter()
        temporary = path.with_suffix(".tmp")
        with pa.OSFile(str(temporary), "wb") as file, pa.ipc.new_file(file, SCHEMA) as writer:
            for rows in _decoded(source, model, segment, storage, left_out):
                writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
        path.with_suffix(".json").write_text(json.dumps(left_out))
        temporary.replace(path)
    examples = Examples(path)
    if not len(examples):
        why = ", ".join(f"{reason} {count}" for reason, count in sorted(examples.left_out.items()))
        raise ConfigError(f"source.uri: {source.uri}: no recording can be trained on ({why})")
    return examples


def _decoded(
    source: SourceConfig, model: AsrConfig, segment: SegmentConfig, storage: StorageConfig, left_out: Counter[str]
) -> Iterator[list[dict[str, Any]]]:
    """Decode the recordings of a source, UNIT at a time. Yields rows of SCHEMA."""
    apply(storage)
    longest = max(60.0, 4 * model.window_seconds)  # seconds; decoding stops there: a longer recording is no example
    run = RunConfig(
        source=source,
        output=OutputConfig(uri="none"),
        storage=storage,
        segment=segment,
        compute=ComputeConfig(max_recording_seconds=longest),
    )
    decoder = Decoder(run, About(model.window_seconds, tuple(model.languages), model.name, ""))
    refs = sources.list_recordings(source)
    done = kept = 0
    while unit := tuple(islice(refs, UNIT)):
        rows = _of_unit(decoder, unit, left_out)
        done, kept = done + len(unit), kept + len(rows)
        log.info("%s: %d recordings, %d examples", source.uri, done, kept)
        yield rows


def _of_unit(decoder: Decoder, refs: tuple[RecordingRef, ...], left_out: Counter[str]) -> list[dict[str, Any]]:
    """Decode some recordings: rows of SCHEMA. Counts the others in `left_out`."""
    recordings: dict[int, DecodedRecording] = {}
    segments: dict[int, list[dict[str, Any]]] = {}
    damaged: dict[int, str] = {}  # its text says more than its audio
    for piece in decoder.pieces(WorkUnit("examples", refs)):
        recordings |= piece.recordings
        damaged |= {damage["recording_index"]: damage["reason"] for damage in piece.damages}
        pcm = memoryview(piece.pcm)
        for segment in piece.segments:
            with_audio = segment | {"pcm": bytes(pcm_of(pcm, segment))}
            segments.setdefault(segment["recording_index"], []).append(with_audio)
    rows = []
    for index in range(len(refs)):
        recording, windows = recordings[index], segments.get(index, [])
        if recording.problem:
            left_out[recording.problem.reason] += 1
        elif index in damaged:
            left_out[damaged[index]] += 1
        elif not recording.reference:
            left_out["no_reference"] += 1
        elif len(windows) != 1:
            left_out["several_windows" if windows else "no_speech"] += 1
        else:
            rows.append(
                {
                    "key": windows[0]["key"],
                    "language": recording.language,
                    "text": recording.reference,
                    "pcm": windows[0]["pcm"],
                }
            )
    return rows
