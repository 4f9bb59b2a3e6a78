"""How the texts of one evaluation differ from those of another: how many are worse, and the worst ones side by side."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from pipeline.evaluation.compare import KEY
from pipeline.evaluation.result import TextChanges
from pipeline.evaluation.worst import counts_of, utterance


def text_changes(new: pa.Table, old: pa.Table, names: tuple[str, str], most: int) -> TextChanges:
    """What changed in the recordings that both have with the same reference; at most `most` pairs of texts.

    new, old: schemas.EVALUATED, one evaluation each. names: what to call them. The pairs with the most additional
    errors come first; pairs without any are not shown.
    """
    before = {_key(row): row for row in old.to_pylist() if row["reference_normal"]}
    pairs = [
        (row, other)
        for row in new.to_pylist()
        if (other := before.get(_key(row))) and other["reference_normal"] == row["reference_normal"]
    ]
    more = [counts_of(row).errors - counts_of(other).errors for row, other in pairs]
    worst = heapq.nlargest(most, ((change, -place) for place, change in enumerate(more) if change > 0))
    return TextChanges(
        new=names[0],
        old=names[1],
        recordings=len(pairs),
        worse=sum(change > 0 for change in more),
        better=sum(change < 0 for change in more),
        pairs=[(utterance(pairs[-place][0]), utterance(pairs[-place][1])) for _, place in worst],
    )


def _key(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(row[name] for name in KEY)
