"""The utterances with most errors, each as one text of reference and hypothesis with the differences marked."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pyarrow as pa

from pipeline.evaluation.result import Counts, headline
from pipeline.evaluation.score import alignment
from pipeline.evaluation.wording import percent
from pipeline.output.page import playable

AROUND = 8  # equal words shown on each side of an error; the middle of longer stretches is cut
STRETCHES = 400  # of one utterance are shown: the page does not embed an hour of it

_COUNTS = ("hits", "substitutions", "deletions", "insertions")


@dataclass(frozen=True, slots=True)
class Stretch:
    """Neighbouring units of an alignment that are all equal, or all differ in the same way."""

    equal: bool
    reference: str  # "" where the hypothesis has additional units
    hypothesis: str  # "" where it lacks units


def counts_of(row: Mapping[str, Any]) -> Counts:
    """Counts of the metric that the language of the row is judged by. row: of schemas.EVALUATED."""
    unit = "char" if headline(row["language"]) == "CER" else "word"
    return Counts(*(row[f"{unit}_{name}"] or 0 for name in _COUNTS))


def worst_recordings(rows: pa.Table, most: int) -> list[dict[str, Any]]:
    """Rows of the transcribed recordings with most errors, at most `most`, sorted by errors, then by rate.

    rows: schemas.EVALUATED. Recordings without an error, a reference or a transcript are left out.
    """
    columns = [f"{unit}_{name}" for unit in ("word", "char") for name in _COUNTS]
    ranks: list[tuple[int, float, int]] = []
    for index, row in enumerate(rows.select(["language", "status", "reference", *columns]).to_pylist()):
        counts = counts_of(row)
        if row["status"] == "transcribed" and row["reference"] is not None and counts.errors:
            ranks.append((counts.errors, counts.rate if counts.rate is not None else float("inf"), -index))
    return rows.take([-index for _, _, index in heapq.nlargest(most, ranks)]).to_pylist() if ranks else []


def utterance(row: Mapping[str, Any]) -> dict[str, Any]:
    """What the template worst.html.j2 shows of one row of schemas.EVALUATED."""
    metric = headline(row["language"])
    chars = metric == "CER"
    pieces = alignment(row["reference_normal"] or "", row["hypothesis_normal"] or "", chars=chars)
    separator = "" if chars else " "
    runs = stretches(pieces, separator=separator)
    return {
        "recording_id": row["recording_id"],
        "language": row["language"],
        "figures": list(_figures(row)),
        "separator": separator,
        "stretches": runs[:STRETCHES],
        "left_out": max(0, len(runs) - STRETCHES),
        "audio": row["audio"],
        "address": playable(row["audio"]) if row["audio"] else None,
    }


def stretches(pieces: Iterable[tuple[str, str, str]], *, separator: str) -> list[Stretch]:
    """An alignment as stretches of one kind each; long equal ones lose their middle.

    pieces: (equal | substitute | delete | insert, text of the reference, text of the hypothesis). separator: what
    stands between two units, " " or "".
    """
    runs = [
        (kind, *(separator.join(filter(None, texts)) for texts in list(zip(*group, strict=True))[1:]))
        for kind, group in groupby(pieces, key=lambda piece: piece[0])
    ]
    shown = []
    for place, (kind, reference, hypothesis) in enumerate(runs):
        if kind == "equal":
            reference = _cut(reference, separator, first=place == 0, last=place == len(runs) - 1)
        shown.append(Stretch(kind == "equal", reference, hypothesis))
    return shown


def _figures(row: Mapping[str, Any]) -> Iterator[str]:
    """What is known about the utterance."""
    counts = counts_of(row)
    yield f"{row['set']} · {row['language']}"
    if row["speaker"] is not None:
        yield f"speaker {row['speaker']}"
    if row["seconds"] is not None:
        yield f"{row['seconds']:.1f} s"
    if row["snr_db"] is not None:
        yield f"SNR {row['snr_db']:.0f} dB"
    errors = "1 error" if counts.errors == 1 else f"{counts.errors} errors"
    yield f"{errors} (S {counts.substitutions}, D {counts.deletions}, I {counts.insertions})"
    yield f"{headline(row['language'])} {percent(counts.rate)}"
    if row["confidence"] is not None:
        yield f"confidence {row['confidence']:.2f}"


def _cut(text: str, separator: str, *, first: bool, last: bool) -> str:
    """An equal stretch without its middle. At the ends of the utterance only the side of the error stays."""
    units = text.split(separator) if separator else list(text)
    around = AROUND if separator else 2 * AROUND
    before, after = (0 if first else around), (0 if last else around)
    if (first and last) or len(units) <= before + after + around:
        return text
    parts = [separator.join(units[:before]), "…", separator.join(units[-after:] if after else [])]
    return " ".join(part for part in parts if part)
