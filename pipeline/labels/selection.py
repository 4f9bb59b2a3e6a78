"""One selection: transcripts and a policy become labels/, funnel.json, report.html and the audit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import chain, count, groupby, islice
from operator import itemgetter
from typing import Any

import pyarrow.parquet as pq

from pipeline.config import ConfigError
from pipeline.evaluation.result import headline
from pipeline.evaluation.settings import UNKNOWN
from pipeline.evaluation.words import label
from pipeline.labels.audit import Sample, write_audit
from pipeline.labels.choice import Chooser
from pipeline.labels.curve import Threshold, read_curve, thresholds
from pipeline.labels.duplicates import shared_audio
from pipeline.labels.report import funnel, render
from pipeline.labels.settings import FUNNEL, LabelsConfig
from pipeline.labels.tally import Tally
from pipeline.output.calibrator import Calibrator, of_output
from pipeline.output.part_files import ROW_GROUP, file_name
from pipeline.output.tables import published_rows
from pipeline.schemas import LABELS, TRANSCRIPT, to_table
from pipeline.sources.access.listing import absolute
from pipeline.storage.base import Storage, open_input, open_storage
from pipeline.text.normalise import normaliser

PART_GROUPS = 8  # row groups of a file
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Selection:
    """What was decided. funnel: the content of funnel.json. audited: rows of schemas.LABELS for people."""

    funnel: dict[str, Any]
    audited: list[Row]


def run_selection(config: LabelsConfig) -> Selection:
    """Select, and write everything to the output but the audio of the audit. Raises ConfigError.

    Memory does not grow with the archive but for: 16 bytes for each recording of the plan, a small entry for each that
    has its audio in common with others, 1.3 KB for each kept text that is compared with others, and a small entry for
    each speaker and source.
    """
    source = open_input("transcripts", config.transcripts or "", config.storage)
    first = next(published_rows(source, "transcripts", ["model", "fingerprint"]), None)
    if first is None:
        raise ConfigError(f"transcripts: {source.uri}: no transcript is published there")
    calibrator = of_output(source)
    if config.policy.target_wer and calibrator is None:
        raise ConfigError(
            f"policy.target_wer: the confidences of {source.uri} are raw; jobs.calibrate --apply calibrates them"
        )
    curve = read_curve(config, calibrator, first["model"]) if calibrator and config.calibration else None
    least = thresholds(config, curve)
    decided = _decided(config, calibrator, least, first["fingerprint"])
    tally, sample = Tally(), Sample(config.audit)
    audio = shared_audio(source, config.filters.audio_hash_column) if config.filters.duplicate_audio else {}
    chooser = Chooser(config, least, audio, policy=decided["policy"])
    target = open_storage(config.output.uri, config=config.storage)
    target.delete(FUNNEL)
    _write(target, _labels(config, source, chooser, tally, sample))
    found = decided | funnel(config, tally, curve, least)
    target.put(FUNNEL, json.dumps(found, indent=1, ensure_ascii=False).encode() + b"\n")
    target.put("report.html", render(found).encode())
    write_audit(target, sample, decided["policy"])
    return Selection(found, [row for rows in sample.labels().values() for row in rows])


def _decided(
    config: LabelsConfig, calibrator: Calibrator | None, least: dict[str, Threshold], fingerprint: str
) -> dict[str, Any]:
    """All that decides, and its hash: 16 hex digits. The hash does not depend on where something lies."""
    places = {"transcripts", "calibration"}
    known = {
        "fingerprint": fingerprint,
        "calibrator": calibrator.id if calibrator else None,
        "thresholds": {name: asdict(one) for name, one in least.items()},
        "settings": config.model_dump(mode="json", exclude={"output", "storage", "audit", *places}),
    }
    policy = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]
    given = config.model_dump(mode="json", include=places) | {"transcripts": absolute(config.transcripts or "")}
    return {"policy": policy} | given | known


def _labels(
    config: LabelsConfig, source: Storage, chooser: Chooser, tally: Tally, sample: Sample
) -> Iterator[list[Row]]:
    """The rows of LABELS of each recording, in the order of the transcripts. Counts them on the way.

    Raises ConfigError at the end if no recording had a column that the settings name.
    """
    rows = published_rows(source, "transcripts", TRANSCRIPT.names)
    for _, group in groupby(rows, key=itemgetter("recording_id")):
        rows_of_one = []
        for made, segments in chooser.labels(_judged(list(group), config)):
            tally.add(made, segments)
            sample.add(made)
            rows_of_one.append(made)
        yield rows_of_one
    for key, name in chooser.missing.items():
        raise ConfigError(f"{key}: no recording of {source.uri} has {name!r} in its metadata")


def _judged(rows: list[Row], config: LabelsConfig) -> list[Row]:
    """The segments of a recording with `errors` and `units`; None without a reference with words."""
    reference, language = rows[0]["reference"], rows[0]["language"] or UNKNOWN
    normal = normaliser(config.normaliser, language)
    words = [[word["text"] for word in row["words"] or ()] for row in rows]
    if not (reference and (plain := normal(reference))):
        return [row | {"errors": None, "units": None} for row in rows]
    found = label(words, plain, normal, chars=headline(language) == "CER")
    return [
        row | {"errors": errors, "units": units}
        for row, errors, units in zip(rows, found.errors, found.units, strict=True)
    ]


def _write(target: Storage, recordings: Iterator[list[Row]]) -> None:
    """Put labels/part-*.parquet in the place of what is there. A row group is in memory at a time."""
    batches = _batches(recordings)
    with target.replace("labels") as files, target.scratch() as folder:
        for number in count():
            several = islice(batches, PART_GROUPS)
            if (first := next(several, None)) is None:
                break
            path = folder / file_name(number)
            with pq.ParquetWriter(path, LABELS, compression="zstd") as writer:
                for batch in chain([first], several):
                    writer.write_table(to_table(batch, LABELS))
            files.add(path.name, path)


def _batches(recordings: Iterator[list[Row]]) -> Iterator[list[Row]]:
    """ROW_GROUP rows or a few more: all rows of a recording are in one batch, as exports rely on."""
    batch: list[Row] = []
    for rows in recordings:
        batch += rows
        if len(batch) >= ROW_GROUP:
            yield batch
            batch = []
    if batch:
        yield batch
