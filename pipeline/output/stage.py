"""The commit stage: it turns the results of a unit into transcripts and dead letters, and commits them."""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import groupby
from operator import itemgetter
from typing import Any

import pyarrow as pa

from pipeline.config import RunConfig, public
from pipeline.output import words
from pipeline.output.attempts import Attempts
from pipeline.output.commit import FIGURES, SAMPLES, Receipt, commit_unit, new_attempt
from pipeline.output.pieces import PieceJoiner, saved_pieces
from pipeline.output.stitch import stitch_segments
from pipeline.planning.plan import PlanReader
from pipeline.schemas import (
    ARCHIVE,
    DEAD_LETTER,
    SAMPLE_RATE,
    SAMPLES_PER_MS,
    TRANSCRIPT,
    UNIT_LEFT,
    About,
    DecodedRecording,
    Place,
    Problem,
    RecordingRef,
    WorkUnit,
    recordings_of,
    to_table,
)
from pipeline.storage.base import open_storage

__all__ = ["COMMITS_AT_ONCE", "RECEIPT", "Attempts", "CommitStage", "saved_pieces"]  # what flow/ uses of this folder

COMMITS_AT_ONCE = 16  # rows that one stage works on at the same time; most of that time they wait for a store
FAILED = pa.struct([("recording", pa.string()), ("reason", pa.string()), ("dead", pa.bool_())])
RECEIPT = pa.schema(
    [
        *UNIT_LEFT,
        ("suspect", pa.bool_()),  # the unit is not committed: its recordings will run alone
        ("done", pa.bool_()),  # the unit is committed; False: this row is one piece, and only `samples` counts
        ("won", pa.bool_()),  # False: another driver had committed the unit before
        ("recordings", pa.int64()),
        ("segments", pa.int64()),
        ("samples", pa.int64()),  # of audio that this run has decoded, at 16 kHz
        ("dead", pa.int64()),  # recordings
        ("failed", pa.list_(FAILED)),  # the dead ones, and the damaged ones
        ("outcome", pa.struct([(name, pa.int64()) for name in SAMPLES])),  # samples of the unit; null: not committed
        ("commit_seconds", pa.float64()),  # null: not committed
        ("read", pa.int64()),  # recordings whose bytes could be read
        ("unread_before", pa.int64()),  # recordings that could not, before the first one that could
        ("unread_longest", pa.int64()),  # the most of them in a row
        ("unread_after", pa.int64()),  # behind the last one that could; all of them if there is none
        ("unread_error", pa.string()),  # reason and error of the last one; null: there is none
    ]
)
# Reasons of a recording whose bytes could not be read as they were planned, whatever they are.
UNREAD = {"missing_file", "source_changed", "truncated_archive", "corrupt_archive"}
_COPIED = ("confidence", "words", "signals", "steps", "canvas_length", "canvas_fill", "overflow")


class CommitStage:
    """Turns rows of schemas.PIECE_RECOGNISED into rows of RECEIPT.

    A unit of one piece is committed at once. Of a unit with several pieces, each piece is saved, and the piece that
    completes the unit commits it. A suspect is not committed. Threads may share a stage: it works on COMMITS_AT_ONCE
    rows at the same time, whether they come in one call or in many.
    """

    def __init__(self, config: RunConfig, about: About) -> None:
        """Raises ConfigError if the output cannot be reached."""
        self.storage = open_storage(config.output.uri, create=False, config=config.storage)
        self.plans = PlanReader(self.storage)
        self.about = about
        self.pieces = PieceJoiner(self.storage)
        self.workers = ThreadPoolExecutor(COMMITS_AT_ONCE, thread_name_prefix="commit")

    def __call__(self, pieces: pa.Table) -> pa.Table:
        """One receipt for each row, in order."""
        each = [pieces.slice(index, 1) for index in range(len(pieces))]
        return to_table(self.workers.map(self._receipt, each), RECEIPT)

    def _receipt(self, piece: pa.Table) -> dict[str, Any]:
        (row,) = piece.drop_columns(["results"]).to_pylist()
        unit_id, place = row["unit_id"], Place(**row["place"])
        blank = {"unit_id": unit_id, "place": row["place"], "suspect": row["suspect"], "samples": row["samples"]}
        blank |= {"done": False, "won": False, "recordings": 0, "segments": 0, "dead": 0} | reading(())
        blank |= {"failed": [], "outcome": None, "commit_seconds": None}
        if row["suspect"] or row["saved"]:
            return blank
        if row["piece"] == 0 and row["next"] is None:
            return self.commit_row(
                self.plans.unit(unit_id, place), place, recordings_of([row]), words.results_of(piece)
            )
        with self.pieces.lock(unit_id):
            rows = self.pieces.join(*piece.to_pylist())
            if rows is None:
                return blank
            results = [result for piece in rows for result in piece["results"]]
            receipt = self.commit_row(self.plans.unit(unit_id, place), place, recordings_of(rows), results)
            self.pieces.forget(unit_id, len(rows))
        return receipt | {"samples": row["samples"]}

    def commit_row(
        self, unit: WorkUnit, place: Place, recordings: list[DecodedRecording], results: list[dict[str, Any]]
    ) -> dict[str, Any]:
        """The same as `commit`, but returns a row of RECEIPT."""
        began = time.monotonic()
        receipt = self.commit(unit, recordings, results)
        return {
            "unit_id": unit.unit_id,
            "place": asdict(place),
            "suspect": False,
            "done": True,
            "won": receipt.won,
            "recordings": receipt.recordings,
            "segments": receipt.rows,
            "samples": receipt.samples["in"],
            "dead": sum(receipt.dead.values()),
            "failed": failed(unit, receipt),
            "outcome": receipt.samples,
            "commit_seconds": time.monotonic() - began,
            **reading(recording.problem for recording in recordings),
        }

    def commit(self, unit: WorkUnit, recordings: list[DecodedRecording], results: list[dict[str, Any]]) -> Receipt:
        """Commit a unit. recordings: one for each reference, in order. results: rows of schemas.RESULT in any order."""
        transcripts: list[dict[str, Any]] = []
        letters: list[dict[str, Any]] = []
        figures: list[dict[str, int]] = []
        by_recording: list[list[dict[str, Any]]] = [[] for _ in unit.refs]
        for result in results:
            by_recording[result["recording_index"]].append(result)
        for ref, recording, answers in zip(unit.refs, recordings, by_recording, strict=True):
            answers.sort(key=itemgetter("segment_index"))
            detected = next((answer["language"] for answer in answers if answer["language"]), None)
            source = self._source(ref, recording, unit) | {"language": recording.language or detected}
            damage = recording.damage or _unanswered(answers)
            answered = [answer for answer in answers if answer["text"] is not None]
            problem = recording.problem or (damage if not answered else None)
            length = recording.samples or 0
            counts = dict.fromkeys(FIGURES, 0) | {"in": length}
            counts["unread_bytes" if ref.recording_id.endswith(ARCHIVE) and ref.problem else "source_bytes"] = ref.size
            figures.append(counts)
            if problem:
                letters.append(source | _letter(problem, recording.samples))
                counts["dead"] = length
                continue
            speech = covered(answered)
            lost = min(recording.lost_samples + covered(answers) - speech, length - speech)
            counts |= {"transcribed": speech, "lost": lost, "silence": length - speech - lost}
            counts |= {"left_out_audio_tracks": recording.tracks_left_out, "left_out_bytes": recording.bytes_left_out}
            rows = _rows(answered, length, ref.start_ms or 0)
            same = source | {"model": self.about.model, "problem": damage and damage.reason}
            transcripts.extend(same | row for row in rows)
        spoken = words.column([row["words"] for row in transcripts], [row["start_ms"] for row in transcripts])
        table = to_table([row | {"words": None} for row in transcripts], TRANSCRIPT)
        return commit_unit(
            self.storage,
            unit,
            new_attempt(),
            table.set_column(TRANSCRIPT.get_field_index("words"), TRANSCRIPT.field("words"), spoken),
            to_table(letters, DEAD_LETTER),
            figures,
            self.about.fingerprint,
        )

    def _source(self, ref: RecordingRef, recording: DecodedRecording, unit: WorkUnit) -> dict[str, Any]:
        """The columns that transcripts and dead letters have in common, without `language`."""
        return {
            "recording_id": ref.recording_id,
            "source_uri": public(ref.source_uri),
            "source_member": ref.source_member,
            "reference": recording.reference,
            "metadata": recording.metadata,
            "unit_id": unit.unit_id,
            "fingerprint": self.about.fingerprint,
        }


def failed(unit: WorkUnit, receipt: Receipt) -> list[dict[str, Any]]:
    """Rows of FAILED: the recordings of a unit that are dead letters or damaged."""
    reasons, problems = receipt.by_recording["reason"], receipt.by_recording["problem"]
    return [
        {"recording": ref.recording_id, "reason": reason or problem, "dead": reason is not None}
        for ref, reason, problem in zip(unit.refs, reasons, problems, strict=True)
        if reason or problem
    ]


def reading(problems: Iterable[Problem | None]) -> dict[str, Any]:
    """The last columns of a receipt, from `read` on. problems: of the recordings of a unit in order.

    What was known to be broken when the source was listed counts neither as read nor as unread.
    """
    read = before = longest = row = 0
    error = None
    for problem in problems:
        if problem and problem.stage == "list":
            continue
        if problem and problem.reason in UNREAD:
            row += 1
            error = f"{problem.reason}: {problem.error}"
        else:
            before = before if read else row
            read, row = read + 1, 0
        longest = max(longest, row)
    return {
        "read": read,
        "unread_before": before if read else row,
        "unread_longest": longest,
        "unread_after": row,
        "unread_error": error,
    }


def covered(spans: list[dict[str, Any]]) -> int:
    """How many samples are in at least one of the spans; where spans overlap, samples count once.

    spans: rows with channel, start_sample and end_sample, in the order of channel and start_sample.
    """
    total = 0
    for _, channel in groupby(spans, key=itemgetter("channel")):
        counted_to = 0  # sample up to which this channel is counted
        for span in channel:
            total += max(0, span["end_sample"] - max(counted_to, span["start_sample"]))
            counted_to = max(counted_to, span["end_sample"])
    return total


def chars_per_second(text: str, start_ms: int, end_ms: int) -> float | None:
    """Characters without white space per second of the segment; None if the segment has no length."""
    return len("".join(text.split())) * 1000 / (end_ms - start_ms) if end_ms > start_ms else None


def milliseconds(samples: int) -> int:
    """Samples at 16 kHz as whole milliseconds, rounded down."""
    return samples // SAMPLES_PER_MS


def _unanswered(results: list[dict[str, Any]]) -> Problem | None:
    """The problem of a recording if the model gave no answer for some of its segments; else None."""
    errors = [f"segment {row['segment_index']}: {row['error']}" for row in results if row["text"] is None]
    return Problem("model_error", "model", "; ".join(errors[:3])) if errors else None


def _letter(problem: Problem, samples: int | None) -> dict[str, Any]:
    """The columns that only dead letters have. samples: length at 16 kHz; None: unknown."""
    return {
        "reason": problem.reason,
        "stage": problem.stage,
        "error": public(problem.error),
        "seconds": None if samples is None else samples / SAMPLE_RATE,
    }


def _rows(results: list[dict[str, Any]], length: int, from_ms: int) -> list[dict[str, Any]]:
    """Rows of one recording with the columns that only transcripts have. Without speech: one row with empty text.

    The times of the words are still those of their segments.
    length: samples of the recording at 16 kHz. from_ms: where it begins in its file, if a manifest selects a range.
    """
    if not results:
        silence = dict.fromkeys(("channel", "confidence_source", "chars_per_second", *_COPIED))
        return [
            silence | {"segment_index": 0, "start_ms": from_ms, "end_ms": from_ms + milliseconds(length), "text": ""}
        ]
    rows = []
    for result in stitch_segments(results):
        start_ms, end_ms = (from_ms + milliseconds(result[name]) for name in ("start_sample", "end_sample"))
        rows.append(
            {name: result[name] for name in ("segment_index", "channel", "text", *_COPIED)}
            | {
                "words": [] if result["words"] is None else result["words"],
                "start_ms": start_ms,
                "end_ms": end_ms,
                "confidence_source": "raw",
                "signals": (result["signals"] or {}) | {"confidence_raw": result["confidence"]},
                "chars_per_second": chars_per_second(result["text"], start_ms, end_ms),
            }
        )
    return rows
