"""Rates of evaluated recordings by set, language, speaker, duration and noise; how far their confidence is right."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import pyarrow as pa

from pipeline.evaluation.bootstrap import blocks_of, interval
from pipeline.evaluation.result import Counts, Metric, Rates, headline

Evaluated = Mapping[str, Any]  # a row of schemas.EVALUATED
Group = Literal["all", "set", "language", "speaker", "duration", "snr", "slice"]

DURATIONS = (0, 2, 5, 10, 20, 30)  # seconds
NOISE = (-100, 0, 10, 20, 30)  # dB of signal over noise
MANY = "all"


@dataclass(frozen=True, slots=True)
class Bin:
    """Recordings whose confidence lies in one range, weighted by their recognised words."""

    low: float
    high: float
    recordings: int
    units: int  # recognised words; characters where the language is judged by them
    confidence: float  # mean, in [0, 1]
    accuracy: float  # share of the recognised units that are right, in [0, 1]


def language_rates(rows: Sequence[Evaluated], *, resamples: int, seed: int) -> list[Rates]:
    """All groups, in the order of a report: everything, sets by language, languages, then breakdowns of languages.

    A group of several languages adds the units that each language is judged by (words, characters of Mandarin); its
    metric is called WER. Groups of speakers have no interval.
    """
    grouped: list[tuple[Group, str, list[Evaluated]]] = [("all", MANY, list(rows))]
    kinds: list[tuple[Group, Callable[[Evaluated], str | None]]] = [
        ("set", lambda row: f"{row['set']} {row['language']}"),
        ("language", lambda row: row["language"]),
        ("speaker", lambda row: row["speaker"] and f"{row['language']} {row['speaker']}"),
        ("duration", lambda row: _within(row, "seconds", DURATIONS, "s")),
        ("snr", lambda row: _within(row, "snr_db", NOISE, "dB")),
    ]
    for kind, key_of in kinds:
        by_key: dict[str, list[Evaluated]] = {}
        for row in rows:
            if key := key_of(row):
                by_key.setdefault(key, []).append(row)
        order = list(by_key) if kind in ("set", "language") else sorted(by_key, key=_natural)
        grouped += [(kind, key, by_key[key]) for key in order]
    slices: dict[str, list[Evaluated]] = {}
    for row in rows:
        for name, value in row.get("slices") or ():
            slices.setdefault(f"{row['language']} {name}: {value}", []).append(row)
    grouped += [("slice", key, slices[key]) for key in sorted(slices)]
    return [rate(kind, key, group, resamples=resamples, seed=seed) for kind, key, group in grouped if group]


def rate(group: Group, key: str, rows: Sequence[Evaluated], *, resamples: int, seed: int) -> Rates:
    """The rates of one group.

    A transcribed recording without a reference (null) cannot be evaluated; only `bare` counts it. A dead or missing
    recording without a known reference may have one beside its audio, so it counts as expected.
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
        damaged=sum(row["status"] == "transcribed" and bool(row["reason"]) for row in scored),
        low=low,
        high=high,
    )


def counts(row: Evaluated, prefix: str) -> Counts:
    """prefix: word, char or merged."""
    return Counts(*(row[f"{prefix}_{name}"] for name in ("hits", "substitutions", "deletions", "insertions")))


def reliability(rows: pa.Table, bins: int = 10) -> list[Bin]:
    """Bins of equal width over [0, 1], the empty ones left out, lowest confidence first.

    rows: schemas.EVALUATED. Only transcribed recordings with a confidence, a reference and at least one recognised word
    count. Deleted words have no confidence, so they do not lower the accuracy here.
    """
    names = ("hits", "substitutions", "insertions")
    columns = [f"{unit}_{name}" for unit in ("word", "char") for name in names]
    totals = [[0, 0, 0.0, 0] for _ in range(bins)]  # recordings, units, confidence x units, hits
    for row in rows.select(["language", "status", "confidence", "reference_normal", *columns]).to_pylist():
        unit = "char" if headline(row["language"]) == "CER" else "word"
        hits, *wrong = (row[f"{unit}_{name}"] or 0 for name in names)
        recognised = hits + sum(wrong)
        known = row["status"] == "transcribed" and row["confidence"] is not None and row["reference_normal"]
        if not known or not recognised:
            continue
        total = totals[min(bins - 1, int(row["confidence"] * bins))]
        total[0] += 1
        total[1] += recognised
        total[2] += row["confidence"] * recognised
        total[3] += hits
    return [
        Bin(index / bins, (index + 1) / bins, int(recordings), int(units), confidence / units, hits / units)
        for index, (recordings, units, confidence, hits) in enumerate(totals)
        if units
    ]


def calibration_error(bins: Sequence[Bin]) -> float | None:
    """Expected calibration error: mean distance of confidence and accuracy by units, in [0, 1]; None without bins.

    Source: Guo et al. 2017, arXiv 1706.04599, equation 3; differs: the confidence is that of recordings.
    """
    units = sum(one.units for one in bins)
    return sum(one.units * abs(one.confidence - one.accuracy) for one in bins) / units if units else None


def _sum(rows: Iterable[Evaluated], prefix: Callable[[Evaluated], str]) -> Counts:
    return sum((counts(row, prefix(row)) for row in rows), Counts())


def _within(row: Evaluated, column: str, borders: Sequence[int], unit: str) -> str | None:
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
    """Sorts ranges by language and lower border, "below" first, and speakers by name."""
    language, _, rest = key.partition(" ")
    head = rest.split()[0].split("-")[0]
    return language, -1 if head == "below" else int(head) if head.isdecimal() else 0, rest
