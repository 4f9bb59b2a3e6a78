"""Corpus-level rates of evaluated recordings: ratios of sums by set, language, speaker, duration and noise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

from pipeline.evaluation.bootstrap import blocks_of, interval
from pipeline.evaluation.result import Counts, Metric, Rates, headline

Row = Mapping[str, Any]  # of schemas.EVALUATED
Group = Literal["all", "set", "language", "speaker", "duration", "snr"]

DURATIONS = (0, 2, 5, 10, 20, 30)  # seconds
NOISE = (-100, 0, 10, 20, 30)  # dB of signal over noise
MANY = "all"


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
