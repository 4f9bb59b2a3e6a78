"""Several models on the same sets: an evaluation of each, their differences, one report of all.

OUT/models/NAME/    the evaluation of one model, with its own report
OUT/comparison.json  OUT/report.html  OUT/report.md    the last one; reports/NAME-RUN.html: every one
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from itertools import combinations
from typing import Any

import pyarrow as pa

from pipeline.evaluation import history, kept_reports
from pipeline.evaluation.changed_texts import text_changes
from pipeline.evaluation.compare import compare_rows
from pipeline.evaluation.evaluate import run_evaluation
from pipeline.evaluation.result import Difference, Evaluation, SideBySide
from pipeline.evaluation.settings import EvaluateConfig, GateConfig
from pipeline.evaluation.side_by_side_report import render, report_lines
from pipeline.evaluation.significance import holm
from pipeline.evaluation.wording import GROUPS
from pipeline.model.files import layout
from pipeline.storage.base import open_storage

log = logging.getLogger(__name__)

LEVEL = 0.95  # of the intervals of differences
WORST = 20  # pairs of texts shown of every two models


def run_side_by_side(config: EvaluateConfig) -> SideBySide:
    """Evaluate each of `config.models`, and compare them. What the same run has transcribed is not transcribed again.

    Raises ConfigError and OutputError, one line each.
    """
    sides = config.sides()
    for side in sides.values():  # errors before hours of work
        if any(one.source for one in side.sets.values()):
            layout.describe(side.model.name, side.model.revision)
    run = config.run or datetime.now(UTC).date().isoformat()
    evaluations, rows = {}, {}
    for name, side in sides.items():
        log.info("model %s", name)
        evaluations[name] = run_evaluation(side.model_copy(update={"run": run}))
        stored = open_storage(side.output.uri, create=False, config=config.storage)
        rows[name] = history.read_rows(stored, evaluations[name].evaluation)
    changes = [text_changes(rows[model], rows[other], (model, other), WORST) for other, model in combinations(rows, 2)]
    found = SideBySide(config.name, run, evaluations, differences(rows, config.gate), changes)
    storage = open_storage(config.output.uri, config=config.storage)
    storage.put("comparison.json", json.dumps(_content(found), indent=1, default=str).encode())
    storage.put("report.html", render(found).encode())
    pages = {"html": render(found, "../")}
    kept_reports.keep(storage, f"{found.name}-{found.run}", pages, history.results(storage))
    storage.put("report.md", "\n".join(report_lines(found)).encode())
    return found


def differences(rows: Mapping[str, pa.Table], gate: GateConfig) -> list[Difference]:
    """Every model minus each one before it, by language. rows: schemas.EVALUATED of each model, by its name.

    gate: its resamples and seed are used. No differences where no recording has a reference. Raises ConfigError where
    two models have the same recordings with other normalisers.
    """
    if not any(table["reference_normal"].to_pylist().count("") < table.num_rows for table in rows.values()):
        return []
    found = [one for other, model in combinations(rows, 2) for one in _pair(rows, model, other, gate)]
    corrected = holm([one.p for one in found])
    return [replace(one, p_holm=p) for one, p in zip(found, corrected, strict=True)]


def _pair(rows: Mapping[str, pa.Table], model: str, other: str, gate: GateConfig) -> Iterator[Difference]:
    """The differences of two models, p not corrected yet."""
    compared = compare_rows(
        rows[model],
        rows[other],
        resamples=gate.resamples,
        alpha=(1 - LEVEL) / 2,
        seed=gate.seed,
        against=f"models: {other} beside {model}",
    )
    for one in compared:
        p = min(1.0, 2 * min(one.p, one.p_better))
        yield Difference(
            model=model,
            other=other,
            language=one.language,
            metric=one.metric,
            recordings=one.recordings,
            left_out=one.left_out,
            blocks=one.blocks,
            rate=one.rate,
            other_rate=one.baseline_rate,
            difference=one.difference,
            low=one.low,
            high=one.high,
            p=p,
            p_holm=p,
        )


def _content(found: SideBySide) -> dict[str, Any]:
    """What comparison.json says."""
    models = {name: _of_model(one) for name, one in found.evaluations.items()}
    return {"name": found.name, "run": found.run, "models": models, "differences": list(map(asdict, found.differences))}


def _of_model(one: Evaluation) -> dict[str, Any]:
    rates = [asdict(rate) | {"rate": rate.counts.rate} for rate in one.rates if rate.group in GROUPS]
    return {
        "evaluation": one.evaluation,
        "evaluated_at": one.evaluated_at,
        "about": one.about,
        "rates": rates,
        "speed": asdict(one.speed) | {"rtfx": one.speed.rtfx, "processor_rtfx": one.speed.processor_rtfx},
        "words": [asdict(word) for word in one.words],
        "failures": one.verdict.failures,
    }
