"""Neighbouring kept segments of one recording become one label."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from pipeline.labels.settings import MergeConfig
from pipeline.output.stitch import join_words

Row = dict[str, Any]


def merged(rows: Iterable[Row], config: MergeConfig) -> Iterator[list[Row]]:
    """The segments of each label and each dropped segment, in order.

    rows: of one recording, in the order of channel and time, with `reason`. Two are neighbours if nothing lies between
    them, not even a dropped segment. A label grows while it has less than min_seconds, up to max_seconds.
    """
    group: list[Row] = []
    for row in rows:
        if group and not _is_next(group, row, config):
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def _is_next(group: list[Row], row: Row, config: MergeConfig) -> bool:
    first, last = group[0], group[-1]
    return (
        last["reason"] is None
        and row["reason"] is None
        and all(last[name] == row[name] for name in ("channel", "language", "confidence_source"))
        and row["start_ms"] - last["end_ms"] <= config.max_gap_ms
        and last["end_ms"] - first["start_ms"] < 1000 * config.min_seconds
        and row["end_ms"] - first["start_ms"] <= 1000 * config.max_seconds
    )


def joined_row(group: list[Row]) -> Row:
    """One row for all segments of a label. A single one stays what it is."""
    if len(group) == 1:
        return group[0]
    steps = [row["steps"] for row in group if row["steps"] is not None]
    return group[0] | {
        "end_ms": max(row["end_ms"] for row in group),
        "text": join_words([{"text": row["text"]} for row in group]),
        "words": list(chain.from_iterable(row["words"] or () for row in group)),
        "confidence": _mean(group, "confidence"),
        "expected_wer": _mean(group, "expected_wer"),
        "signals": None,
        "steps": max(steps, default=None),
    }


def _mean(group: list[Row], name: str) -> float | None:
    """Weighted by characters; None where one has none."""
    if any(row[name] is None for row in group):
        return None
    weight = sum(len(row["text"]) for row in group)
    return float(sum(row[name] * len(row["text"]) for row in group) / weight)
