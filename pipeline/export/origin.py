"""Where exported rows come from: the run that made the transcripts, and the bytes of each recording in its source."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pydantic
import yaml

from pipeline.audio.declared import Header
from pipeline.config import RunConfig, public
from pipeline.export.labels import Label
from pipeline.output.calibrator import calibrator_id
from pipeline.output.parts import CONFIG
from pipeline.planning.left import unit_runs
from pipeline.planning.plan import PlanReader, plan_names, read_columns
from pipeline.schemas import Place, RecordingRef
from pipeline.sources.access.listing import with_absolute_source
from pipeline.storage.base import OutputError, Storage


@dataclass(frozen=True, slots=True)
class Item:
    """A row on its way into a file. provenance: for JSON. is_whole: of all channels of the default track.

    audio: FLAC or WAV, 16 kHz mono, with so many samples; b"": by reference. header: of its recording, where the format
    needs it.
    """

    label: Label
    ref: RecordingRef
    provenance: dict[str, Any]
    is_whole: bool
    audio: bytes = b""
    samples: int = 0
    header: Header | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """The settings of the run that made the transcripts, and the id of its calibrator, "" without one."""

    config: RunConfig
    calibrator: str


def read_run(storage: Storage) -> Run:
    """The run of an output of jobs.transcribe. Raises OutputError if its config cannot be read."""
    try:
        config = RunConfig.model_validate(yaml.safe_load(storage.get(CONFIG)))
    except (FileNotFoundError, yaml.YAMLError, pydantic.ValidationError) as err:
        line = " ".join(str(err).split())[:200]
        raise OutputError(f"{storage.uri}/{CONFIG}: not the settings of a run: {line}") from None
    return Run(with_absolute_source(config), calibrator_id(storage))


def unit_places(storage: Storage) -> dict[str, Place]:
    """Where each unit stands in the plans. Memory: about 400 bytes for a unit."""
    return {
        unit_id: Place(name, group, first, rows)
        for name in plan_names(storage)
        for group, table in enumerate(read_columns(storage, name, ["unit_id"]))
        for unit_id, first, rows in unit_runs(table["unit_id"].combine_chunks())
    }


def read_refs(storage: Storage, units: Iterable[tuple[str, Place]]) -> dict[tuple[str, str], RecordingRef]:
    """The recordings of these units, by unit and id. Those that listing could not use are left out."""
    plans = PlanReader(storage)
    return {
        (unit_id, ref.recording_id): ref
        for unit_id, place in units
        for ref in plans.unit(unit_id, place).refs
        if ref.problem is None
    }


def items(labels: Iterable[Label], refs: Mapping[tuple[str, str], RecordingRef], run: Run) -> Iterator[Item]:
    """Each label with its recording. Raises OutputError if the plan does not have it."""
    for label in labels:
        ref = refs.get((label.unit_id, label.recording_id))
        if ref is None:
            raise OutputError(f"{label.recording_id}: the plan of the transcripts does not have it in {label.unit_id}")
        is_whole = label.channel is None and not isinstance(run.config.source.track, int)
        yield Item(label, ref, provenance(label, ref, run), is_whole)


def provenance(label: Label, ref: RecordingRef, run: Run) -> dict[str, Any]:
    """What made a row, and from which bytes: values for JSON, the same keys for every row.

    source_offset: of its recording in source_uri, in bytes; null: the whole object. start_ms and end_ms are in the
    recording.
    """
    return {
        "recording_id": label.recording_id,
        "segment_indices": label.segment_indices,
        "start_ms": label.start_ms,
        "end_ms": label.end_ms,
        "channel": label.channel,
        "source_uri": public(ref.source_uri),
        "source_member": ref.source_member,
        "source_offset": ref.offset,
        "source_bytes": ref.size,
        "source_version": ref.version,
        "model": label.model,
        "model_revision": run.config.model.revision,
        "fingerprint": label.fingerprint,
        "steps": label.steps,
        "denoise_seed": run.config.denoise.seed,
        "decode_seed": run.config.decode.seed,
        "confidence": label.confidence,
        "confidence_source": label.confidence_source,
        "calibrator": run.calibrator or None,
        "expected_wer": label.expected_wer,
        "policy": label.policy,
    }
