"""The decode stage: the recordings of a unit are read, decoded and cut into segments for the model."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline import audio, sources
from pipeline.config import RunConfig
from pipeline.schemas import (
    UNIT_DECODED,
    BadAudio,
    BadRecording,
    RecordingRef,
    to_table,
    unit_from_json,
)
from pipeline.segment import Segmenter


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a recording is no transcript."""

    reason: str  # of schemas.REASONS
    stage: str  # list, read, decode, model
    error: str


@dataclass(frozen=True, slots=True)
class Heard:
    """What is known of a recording besides its segments. samples: at 16 kHz, None where it could not be decoded."""

    samples: int | None = None
    language: str | None = None
    reference: str | None = None
    metadata: str | None = None
    problem: Problem | None = None


class Decoder:
    """Rows with a column `unit` (JSON) become rows of schemas.UNIT_DECODED.

    What is wrong with one recording becomes its `problem`; anything else is raised and ends the job.
    """

    def __init__(self, config: RunConfig, *, window_seconds: float, languages: Collection[str]) -> None:
        self.max_recording_seconds = config.compute.max_recording_seconds
        self.languages = languages
        self.segmenter = Segmenter(config.segment, max_seconds=min(config.segment.max_seconds, window_seconds))

    def __call__(self, units: pa.Table) -> pa.Table:
        return to_table([self.decode(text) for text in units["unit"].to_pylist()], UNIT_DECODED)

    def decode(self, text: str) -> dict[str, Any]:
        """All recordings of a unit that is given as JSON: one row of UNIT_DECODED."""
        unit = unit_from_json(text)
        recordings: list[Heard] = []
        segments: list[dict[str, Any]] = []
        for index, ref in enumerate(unit.refs):
            recording, samples = self._recording(ref)
            recordings.append(recording)
            if samples is not None:
                segments.extend(self._segments(index, ref, recording, samples))
        return {
            "unit_id": unit.unit_id,
            "unit": text,
            "recordings": json.dumps([asdict(recording) for recording in recordings]),
            "suspect": False,
            "segments": segments,
        }

    def _recording(self, ref: RecordingRef) -> tuple[Heard, np.ndarray | None]:
        """What the recording is and its samples (float32, mono, 16 kHz); no samples where it has a problem."""
        known = Heard(language=ref.language, reference=ref.reference, metadata=ref.metadata)
        if ref.problem:
            return replace(known, problem=Problem(ref.problem, "list", ref.problem_detail or "")), None
        try:
            read = sources.read_recording(ref)
            known = Heard(language=read.language, reference=read.reference, metadata=read.metadata)
            if read.language is not None and read.language not in self.languages:
                raise BadRecording("unsupported_language", f"the model does not know {read.language!r}")
            samples = audio.decode(
                read.audio,
                name=ref.source_member or ref.source_uri,
                max_seconds=self.max_recording_seconds,
                channel=ref.channel,
                start_ms=ref.start_ms,
                end_ms=ref.end_ms,
            )
        except BadRecording as err:
            stage = "decode" if isinstance(err, BadAudio) else "read"
            return replace(known, problem=Problem(err.reason, stage, err.detail)), None
        return replace(known, samples=len(samples)), samples

    def _segments(self, index: int, ref: RecordingRef, recording: Heard, samples: np.ndarray) -> list[dict[str, Any]]:
        return [
            {
                "recording_index": index,
                "segment_index": number,
                "start_sample": window.start_sample,
                "end_sample": window.end_sample,
                "overlaps_previous": window.overlaps_previous,
                "key": f"{ref.recording_id}#{number}#{window.start_sample}",
                "language": recording.language,
                "pcm": to_pcm(samples[window.start_sample : window.end_sample]),
            }
            for number, window in enumerate(self.segmenter(samples))
        ]


def to_pcm(samples: np.ndarray) -> bytes:
    """float32 in [-1, 1] as int16 little endian; what was decoded from 16 bits comes back bit for bit."""
    return np.clip(np.rint(samples * 32768.0), -32768, 32767).astype("<i2").tobytes()
