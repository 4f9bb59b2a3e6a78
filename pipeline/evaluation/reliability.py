"""How well the confidence of recordings tells how many of their words are right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from pipeline.evaluation.result import headline


@dataclass(frozen=True, slots=True)
class Bin:
    """Recordings whose confidence lies in one range, weighted by the words that were heard in them."""

    low: float
    high: float
    recordings: int
    units: int  # heard words; characters where the language is judged by them
    confidence: float  # mean, in [0, 1]
    accuracy: float  # heard units that are right, of all heard, in [0, 1]


def reliability(rows: pa.Table, bins: int = 10) -> list[Bin]:
    """Bins of equal width over [0, 1], the empty ones left out, lowest confidence first.

    rows: schemas.EVALUATED. Only transcribed recordings with a confidence, a reference and at least one heard word
    count. Deleted words have no confidence and do not enter: a missed word lowers no accuracy here.
    """
    names = ("hits", "substitutions", "insertions")
    columns = [f"{unit}_{name}" for unit in ("word", "char") for name in names]
    totals = [[0, 0, 0.0, 0] for _ in range(bins)]  # recordings, units, confidence x units, hits
    for row in rows.select(["language", "status", "confidence", "reference_normal", *columns]).to_pylist():
        unit = "char" if headline(row["language"]) == "CER" else "word"
        hits, *wrong = (row[f"{unit}_{name}"] or 0 for name in names)
        heard = hits + sum(wrong)
        if row["status"] != "transcribed" or row["confidence"] is None or not row["reference_normal"] or not heard:
            continue
        total = totals[min(bins - 1, int(row["confidence"] * bins))]
        total[0] += 1
        total[1] += heard
        total[2] += row["confidence"] * heard
        total[3] += hits
    return [
        Bin(index / bins, (index + 1) / bins, int(recordings), int(units), confidence / units, hits / units)
        for index, (recordings, units, confidence, hits) in enumerate(totals)
        if units
    ]


def calibration_error(bins: Sequence[Bin]) -> float | None:
    """ECE: the mean distance of confidence and accuracy, weighted by units, in [0, 1]; None without bins.

    Source: Guo et al. 2017, arXiv 1706.04599, equation 3; differs: the confidence is that of recordings.
    """
    units = sum(one.units for one in bins)
    return sum(one.units * abs(one.confidence - one.accuracy) for one in bins) / units if units else None
