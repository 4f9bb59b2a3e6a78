"""The commit stage: a unit's answers become transcripts and dead letters, and one commit."""

from __future__ import annotations

import json
from collections import Counter
from itertools import groupby
from operator import itemgetter
from typing import Any

import pyarrow as pa

from pipeline.audio.stage import Heard, Problem
from pipeline.config import StorageConfig
from pipeline.output.commit import Receipt, commit_unit, new_attempt
from pipeline.output.pieces import complete_unit, forget_parts, save_part
from pipeline.output.stitch import stitch
from pipeline.schemas import DEAD_LETTER, SAMPLE_RATE, TRANSCRIPT, RecordingRef, WorkUnit, to_table, unit_from_json
from pipeline.storage.base import Storage, open_storage

RECEIPT = pa.schema(
    [
        ("unit_id", pa.string()),
        ("unit", pa.string()),  # of a suspect, so that it can be taken up again
        ("suspect", pa.bool_()),  # nothing is committed: the unit is still to be tried alone
        ("done", pa.bool_()),  # the unit is committed; else this is a part of it, and counts nothing but its samples
        ("won", pa.bool_()),
        ("recordings", pa.int64()),
        ("segments", pa.int64()),
        ("samples", pa.int64()),  # of audio that was heard in this run, at 16 kHz
        ("dead", pa.int64()),  # recordings
        ("retries", pa.string()),  # JSON: requests to stores that were repeated, counted by error
    ]
)
_CARRIED = ("confidence", "words", "signals", "steps", "canvas_length", "canvas_fill", "overflow")


class Finisher:
    """Rows of schemas.UNIT_TRANSCRIBED become rows of RECEIPT. Suspects only pass through.

    A unit of one part is committed at once, one of many with the part that completes it.
    """

    def __init__(self, output_uri: str, *, model: str, fingerprint: str, storage: dict[str, Any] | None = None) -> None:
        """storage: the section of that name."""
        config = StorageConfig.model_validate(storage or {})
        self.storage: Storage = open_storage(output_uri, create=False, config=config)
        self.model, self.fingerprint = model, fingerprint

    def __call__(self, units: pa.Table) -> pa.Table:
        receipts = []
        for row in units.to_pylist():
            receipt = self._receipt(row)
            retries = Counter(json.loads(row["retries"])) + self.storage.counters
            self.storage.counters.clear()
            receipts.append(receipt | {"retries": json.dumps(retries)})
        return to_table(receipts, RECEIPT)

    def _receipt(self, row: dict[str, Any]) -> dict[str, Any]:
        blank = {"won": False, "recordings": 0, "segments": 0, "samples": row["samples"], "dead": 0, "done": False}
        blank |= {"unit_id": row["unit_id"], "suspect": row["suspect"], "unit": row["unit"] if row["suspect"] else None}
        if row["suspect"] or row["saved"]:
            return blank
        unit = unit_from_json(row["unit"])
        if row["part"] == 0 and row["next"] is None:
            return self.commit_row(unit, recordings_of([row]), row["results"])
        save_part(self.storage, row)
        rows = complete_unit(self.storage, unit.unit_id)
        if rows is None:
            return blank
        results = [result for part in rows for result in part["results"]]
        receipt = self.commit_row(unit, recordings_of(rows), results)
        forget_parts(self.storage, unit.unit_id)
        return receipt | {"samples": row["samples"]}

    def commit_row(self, unit: WorkUnit, recordings: list[Heard], results: list[dict[str, Any]]) -> dict[str, Any]:
        """`commit`, with the receipt as a row of RECEIPT but for `retries`."""
        receipt = self.commit(unit, recordings, results)
        return {
            "unit_id": unit.unit_id,
            "unit": None,
            "suspect": False,
            "done": True,
            "won": receipt.won,
            "recordings": receipt.recordings,
            "segments": receipt.rows,
            "samples": receipt.samples["in"],
            "dead": sum(receipt.dead.values()),
        }

    def commit(self, unit: WorkUnit, recordings: list[Heard], results: list[dict[str, Any]]) -> Receipt:
        """Commit what was heard. recordings: one per ref of the unit; results: dicts of schemas.RESULT, any order."""
        transcripts: list[dict[str, Any]] = []
        letters: list[dict[str, Any]] = []
        samples = dict.fromkeys(("in", "transcribed", "silence", "dead"), 0)
        by_recording: list[list[dict[str, Any]]] = [[] for _ in unit.refs]
        for result in results:
            by_recording[result["recording_index"]].append(result)
        for ref, recording, heard in zip(unit.refs, recordings, by_recording, strict=True):
            heard.sort(key=lambda result: int(result["segment_index"]))
            source = self._source(ref, recording, unit)
            problem = recording.problem or _unanswered(heard)
            length = recording.samples or 0
            samples["in"] += length
            if problem:
                letters.append(source | _letter(problem, recording.samples))
                samples["dead"] += length
                continue
            voiced = covered(heard)
            samples["transcribed"] += voiced
            samples["silence"] += length - voiced
            rows = _rows(heard, length, ref.start_ms or 0)
            transcripts.extend(source | {"model": self.model} | row for row in rows)
        return commit_unit(
            self.storage,
            unit,
            new_attempt(),
            to_table(transcripts, TRANSCRIPT),
            to_table(letters, DEAD_LETTER),
            samples,
            self.fingerprint,
        )

    def _source(self, ref: RecordingRef, recording: Heard, unit: WorkUnit) -> dict[str, Any]:
        return {
            "recording_id": ref.recording_id,
            "source_uri": ref.source_uri,
            "source_member": ref.source_member,
            "language": recording.language,
            "reference": recording.reference,
            "metadata": recording.metadata,
            "unit_id": unit.unit_id,
            "fingerprint": self.fingerprint,
        }


def recordings_of(parts: list[dict[str, Any]]) -> list[Heard]:
    """What was heard of the recordings of a unit, in order, from all rows of its parts in flight."""
    found = {int(index): row for part in parts for index, row in json.loads(part["recordings"]).items()}
    rows = [found[index] for index in range(len(found))]
    return [Heard(**row | {"problem": Problem(**row["problem"]) if row["problem"] else None}) for row in rows]


def covered(spans: list[dict[str, Any]]) -> int:
    """Samples that are in at least one of the spans, which are ordered by channel, then by `start_sample`; overlaps
    count once."""
    total = 0
    for _, channel in groupby(spans, key=itemgetter("channel")):
        reached = 0
        for span in channel:
            total += max(0, span["end_sample"] - max(reached, span["start_sample"]))
            reached = max(reached, span["end_sample"])
    return total


def chars_per_second(text: str, start_ms: int, end_ms: int) -> float | None:
    """Characters of text, white space left out, by the second of its segment; None where it has no length."""
    return len("".join(text.split())) * 1000 / (end_ms - start_ms) if end_ms > start_ms else None


def milliseconds(samples: int) -> int:
    """Samples at 16 kHz as whole milliseconds, rounded down."""
    return samples * 1000 // SAMPLE_RATE


def _unanswered(results: list[dict[str, Any]]) -> Problem | None:
    """One segment without an answer makes its recording a dead letter: half a transcript is none."""
    errors = [f"segment {row['segment_index']}: {row['error']}" for row in results if row["text"] is None]
    return Problem("model_error", "model", "; ".join(errors[:3])) if errors else None


def _letter(problem: Problem, samples: int | None) -> dict[str, Any]:
    return {
        "reason": problem.reason,
        "stage": problem.stage,
        "error": problem.error,
        "seconds": None if samples is None else samples / SAMPLE_RATE,
    }


def _rows(heard: list[dict[str, Any]], length: int, from_ms: int) -> list[dict[str, Any]]:
    """The model's part of the transcripts rows of one recording; without speech one row that says so.

    from_ms: where in the original recording this one begins, if it is a range of it.
    """
    if not heard:
        silence = dict.fromkeys(("channel", "confidence_source", "chars_per_second", *_CARRIED))
        return [
            silence | {"segment_index": 0, "start_ms": from_ms, "end_ms": from_ms + milliseconds(length), "text": ""}
        ]
    rows = []
    for result in stitch(heard):
        start_ms, end_ms = (from_ms + milliseconds(result[name]) for name in ("start_sample", "end_sample"))
        rows.append(
            {name: result[name] for name in ("segment_index", "channel", "text", *_CARRIED)}
            | {
                "start_ms": start_ms,
                "end_ms": end_ms,
                "confidence_source": "raw",
                "chars_per_second": chars_per_second(result["text"], start_ms, end_ms),
            }
        )
    return rows
