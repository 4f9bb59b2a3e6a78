"""Corpus-level rates of evaluated recordings: ratios of sums by set, language, speaker, duration and noise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import pyarrow as pa

from pipeline.evaluation.bootstrap import blocks_of, interval
from pipeline.evaluation.result import Counts, Metric, Rates, headline

Row = Mapping[str, Any]  # of schemas.EVALUATED
Group = Literal["all", "set", "language", "speaker", "duration", "snr"]

DURATIONS = (0, 2, 5, 10, 20, 30)  # seconds
NOISE = (-100, 0, 10, 20, 30)  # dB of signal over noise
MANY = "all"


@dataclass(frozen=True, slots=True)
class Bin:
    """Recordings whose confidence lies in one range, weighted by the words that were heard in them."""

    low: float
    high: float
    recordings: int
    units: int  # heard words; characters where the language is judged by them
    confidence: float  # mean, in [0, 1]
    accuracy: float  # heard units that are right, of all heard, in [0, 1]


def rates(rows: Sequence[Row], *, resamples: int, seed: int) -> list[Rates]:
    """All groups, in the order of a report: everything, sets by language, languages, then breakdowns of languages.

    A group of several languages adds each one's headline units (words, characters of Mandarin) and is called WER.
    Groups of speakers have no interval.
    """
    grouped: list[tuple[Group, str, list[Row]]] = [("all", MANY, list(rows))]
    kinds: list[tuple[Group, Callable[[Row], str | None]]] = [
        ("set", lambda row: f"{row['set']} {row['language']}"),
        ("language", lambda row: row["language"]),
        ("speaker", lambda row: row["speaker"] and f"{row['language']} {row['speaker']}"),
        ("duration", lambda row: _within(row, "seconds", DURATIONS, "s")),
        ("snr", lambda row: _within(row, "snr_db", NOISE, "dB")),
    ]
    for kind, key_of in kinds:
        held: dict[str, list[Row]] = {}
        for row in rows:
            if key := key_of(row):
                held.setdefault(key, []).append(row)
        order = list(held) if kind in ("set", "language") else sorted(held, key=_natural)
        grouped += [(kind, key, held[key]) for key in order]
    return [rate(kind, key, group, resamples=resamples, seed=seed) for kind, key, group in grouped if group]


def rate(group: Group, key: str, rows: Sequence[Row], *, resamples: int, seed: int) -> Rates:
    """One group. Transcribed recordings without any reference (null) are not expected to be scored and appear nowhere.

    A dead or missing one may have a reference that stands beside its audio: it counts as expected.
    """
    given = [row for row in rows if row["reference"] is not None]
    empty = [row for row in given if not row["reference_normal"]]
    scored = [row for row in given if row["reference_normal"]]
    unread = [row for row in rows if row["reference"] is None and row["status"] != "transcribed"]
    metrics: set[Metric] = {headline(row["language"]) for row in given}
    mixed = len({row["language"] for row in given}) > 1 and len(metrics) > 1
    words = _sum(scored, lambda row: "char" if mixed and headline(row["language"]) == "CER" else "word")
    low = high = None
    if group != "speaker" and scored:
        headlines = [counts(row, "char" if headline(row["language"]) == "CER" else "word") for row in scored]
        low, high = interval(
            [one.errors for one in headlines],
            [one.units for one in headlines],
            blocks_of((row["set"], row["recording_id"], row["speaker"]) for row in scored),
            resamples=resamples,
            seed=seed,
        )
    status = [row["status"] for row in (*scored, *unread)]
    return Rates(
        group=group,
        key=key,
        metric="WER" if mixed else next(iter(metrics), "WER"),
        words=words,
        chars=_sum(scored, lambda _: "char"),
        merged=_sum(scored, lambda _: "merged"),
        recordings=len(status),
        transcribed=status.count("transcribed"),
        dead=status.count("dead_letter"),
        missing=status.count("missing"),
        empty_references=len(empty),
        phantom_words=sum(row["word_insertions"] for row in empty),
        seconds=sum(row["seconds"] or 0.0 for row in scored),
        unread=len(unread),
        bare=len(rows) - len(given) - len(unread),
        low=low,
        high=high,
    )


def counts(row: Row, prefix: str) -> Counts:
    """prefix: word, char or merged."""
    return Counts(*(row[f"{prefix}_{name}"] for name in ("hits", "substitutions", "deletions", "insertions")))


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


def _sum(rows: Iterable[Row], prefix: Callable[[Row], str]) -> Counts:
    return sum((counts(row, prefix(row)) for row in rows), Counts())


def _within(row: Row, column: str, borders: Sequence[int], unit: str) -> str | None:
    value = row[column]
    if value is None:
        return None
    return f"{row['language']} {_bucket(value, borders, unit)}"


def _bucket(value: float, borders: Sequence[int], unit: str) -> str:
    for low, high in pairwise(borders):
        if value < high:
            return f"below {high} {unit}" if low == borders[0] else f"{low}-{high} {unit}"
    return f"{borders[-1]} {unit} and more"


def _natural(key: str) -> tuple[str, int, str]:
    """Buckets by language and lower border, "below" first; speakers by name."""
    language, _, rest = key.partition(" ")
    head = rest.split()[0].split("-")[0]
    return language, -1 if head == "below" else int(head) if head.isdecimal() else 0, rest
