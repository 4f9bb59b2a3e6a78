"""An evaluation as one self-contained HTML page: what the template evaluation.html.j2 shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.evaluation import plots
from pipeline.evaluation.changed_texts import text_changes
from pipeline.evaluation.confusions import most_confused, phantoms
from pipeline.evaluation.rates import reliability
from pipeline.evaluation.result import Evaluation, Rates
from pipeline.evaluation.wording import (
    GROUPS,
    decimal,
    finding,
    interval,
    percent,
    points,
    probability,
    setting_labels,
    share,
    shortened,
    utc,
)
from pipeline.evaluation.worst import utterance, worst_recordings
from pipeline.output.page import render_page

WORST = 50  # utterances shown
SPEAKERS = 100  # shown, those with most errors first; as many of any other group
CONFUSED = 20  # errors shown of each language, and recordings of silence

# first, in this order
_ABOUT = ("model", "revision", "config_hash", "normaliser", "code_version", "git_commit", "hardware")
_WORDING = {
    function.__name__: function for function in (decimal, finding, interval, percent, points, probability, share, utc)
}


@dataclass(frozen=True, slots=True)
class Breakdown:
    """Rates of one group, of which `total` exist."""

    name: str
    total: int
    rates: list[Rates]
    open: bool  # shown without a click


def render(evaluation: Evaluation, rows: pa.Table, baseline: pa.Table | None = None) -> str:
    """The page as text. rows: schemas.EVALUATED, all of this evaluation. baseline: those that it is compared with.

    Everything that comes from outside is escaped. Nothing is loaded from elsewhere but the audio that somebody plays.
    """
    names = ("this evaluation", evaluation.baseline or "baseline")
    return render_page(
        "evaluation.html.j2",
        **_WORDING,
        evaluation=evaluation,
        reasons=shortened(list(evaluation.verdict.failures)),
        about=_about(evaluation),
        rates=[one for group in GROUPS for one in evaluation.rates if one.group == group],
        breakdowns=list(_breakdowns(evaluation)),
        plots={
            "over_time": plots.over_time(evaluation.history),
            "by_language": plots.by_language(evaluation.rates, evaluation.comparisons),
            "by_duration": plots.by_duration(evaluation.rates),
            "sweep": plots.sweep(evaluation.sweep),
            "calibration": plots.calibration(reliability(rows)),
        },
        sweep=list(zip(setting_labels(evaluation.sweep), evaluation.sweep, strict=True)),
        sweep_languages=list(dict.fromkeys(language for point in evaluation.sweep for language in point.rates)),
        failed=_failed(rows),
        confused=most_confused(rows, CONFUSED),
        phantoms=phantoms(rows, CONFUSED),
        changes=[text_changes(rows, baseline, names, WORST)] if baseline is not None else [],
        utterances=[utterance(row) for row in worst_recordings(rows, WORST)],
    )


def _about(evaluation: Evaluation) -> list[tuple[str, str]]:
    """What is known of the evaluation, as name and text."""
    names = [name for name in _ABOUT if name in evaluation.about]
    names += [name for name in evaluation.about if name not in names]
    facts = [(name.replace("_", " "), evaluation.about[name]) for name in names]
    facts.append(("evaluated", utc(evaluation.evaluated_at)))
    return [*facts, ("baseline", evaluation.baseline)] if evaluation.baseline else facts


def _breakdowns(evaluation: Evaluation) -> Iterator[Breakdown]:
    groups = ("speaker", "speaker"), ("duration", "duration"), ("snr", "signal-to-noise ratio"), ("slice", "metadata")
    for group, name in groups:
        chosen = [one for one in evaluation.rates if one.group == group]
        total = len(chosen)
        if group == "speaker" or total > SPEAKERS:
            chosen = sorted(chosen, key=lambda one: (-one.counts.errors, one.key))[:SPEAKERS]
        if chosen:
            yield Breakdown(name, total, chosen, open=group != "speaker")


def _failed(rows: pa.Table) -> list[tuple[tuple[str, ...], int]]:
    """How many recordings have no transcript, or not a whole one, by set, language, status and reason."""
    columns = ["set", "language", "status", "reason"]
    counted = Counter(
        tuple(row[name] or "" for name in columns)
        for row in (_with_status(row) for row in rows.select(columns).to_pylist())
        if row["status"] != "transcribed"
    )
    return sorted(counted.items())


def _with_status(row: dict[str, Any]) -> dict[str, Any]:
    """The row, with the status "damaged" where some of a transcribed recording was not heard."""
    return row | {"status": "damaged"} if row["status"] == "transcribed" and row["reason"] else row
