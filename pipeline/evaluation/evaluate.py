"""One evaluation: transcribe the sets, count errors, compare with the baseline, decide the gate, keep, report."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import product
from typing import Any

import pyarrow as pa
import pydantic

from pipeline.config import BudgetConfig, ConfigError, OutputConfig, RunConfig
from pipeline.config_file import mistakes
from pipeline.evaluation import history, kept_reports
from pipeline.evaluation.compare import ALL, NotComparableError, compare_rows, unpaired, verdict
from pipeline.evaluation.hypotheses import foreign_outcomes
from pipeline.evaluation.junit import junit_xml
from pipeline.evaluation.made_with import about_of, differing, recorded
from pipeline.evaluation.rates import language_rates, rate
from pipeline.evaluation.report import render
from pipeline.evaluation.result import Check, Evaluation, Speed, SweepPoint, Verdict
from pipeline.evaluation.rows import outcomes, slices_of
from pipeline.evaluation.score import scored
from pipeline.evaluation.settings import PREVIOUS, EvaluateConfig, SetConfig
from pipeline.evaluation.tracking import Tracking
from pipeline.evaluation.words import JudgedWord, judged, word_confidence
from pipeline.flow.cluster import check_machine, ray_cluster
from pipeline.flow.processes import ProcessorSeconds
from pipeline.model.files import layout
from pipeline.output.parts import SUMMARY
from pipeline.planning.fingerprint import fingerprint_id, make_fingerprint
from pipeline.planning.overlap import check_absolute
from pipeline.run import transcribe
from pipeline.schemas import EVALUATED, to_table
from pipeline.storage.base import Storage, open_storage, read_json

log = logging.getLogger(__name__)

PROCESSOR = "_run/processor.json"  # in the output of a set: how much processor time its replicas took


@dataclass(frozen=True, slots=True)
class _Scored:
    """The rows and words of all sets under one combination of settings, and how long transcribing took."""

    rows: list[dict[str, Any]]
    words: list[JudgedWord]
    speed: Speed


def run_evaluation(config: EvaluateConfig) -> Evaluation:
    """Evaluate all sets. What the same run has transcribed under the same settings is not transcribed again.

    Writes rows, result, report.html and junit.xml to the output, and keeps both pages in its reports/. Raises
    ConfigError and OutputError, one line each.
    """
    check_absolute("output.uri", config.output.uri)
    for name, one in config.sets.items():
        if one.source:
            check_absolute(f"sets.{name}.source.uri", one.source.uri)
    if any(one.source for one in config.sets.values()):
        check_machine(config.model, config.compute)
    swept = [(settings, _with(config, settings)) for settings in _combinations(config)]  # errors before hours of work
    storage = open_storage(config.output.uri, config=config.storage)
    tracking = Tracking(config.mlflow, config.name, config.output.uri) if config.mlflow.uri else None
    about = about_of(config)
    run = config.run or datetime.now(UTC).date().isoformat()
    identity = f"{config.name}-{run}-{about['config_hash'][:6]}"
    at = history.started(storage, identity)
    base = None
    if config.baseline:  # a missing baseline is an error before hours of work
        base = history.baseline(storage, config.baseline, config.name, identity, config.storage)
    kept = ("revision", "config_hash", "code_version", "hardware")
    common = {"date": at.date().isoformat(), "evaluation": identity, "evaluated_at": at} | {
        name: about[name] for name in kept
    }
    with contextlib.ExitStack() as stack:
        done = _scored(config, run, common, stack)
        sweep = [_point(one, settings, run, common, stack) for settings, one in swept]
    table = to_table(done.rows, EVALUATED)
    about["model"] = ", ".join(sorted({row["model"] for row in done.rows if row["model"]}))
    about["normaliser"] = ", ".join(sorted({row["normaliser"] for row in done.rows}))
    measured = language_rates(done.rows, resamples=config.gate.resamples, seed=config.gate.seed)
    evaluation = Evaluation(
        evaluation=identity,
        evaluated_at=at,
        about=about,
        rates=measured,
        sweep=sweep,
        speed=done.speed,
        words=word_confidence(done.words),
        settings=recorded(config),
    )
    shown, pages = _written(config, storage, _compared(config, evaluation, table, base), table, base)
    if tracking:
        tracking.log(shown, pages)
    return shown


def _compared(config: EvaluateConfig, new: Evaluation, rows: pa.Table, base: history.Baseline | None) -> Evaluation:
    """The evaluation with its differences from the baseline and the verdict of the gate.

    The gate is closed where it cannot be compared with the previous one. It is kept all the same: else every later
    night would be compared with the same one. Raises ConfigError where it cannot be compared with another baseline.
    """
    gate = config.gate
    if base is None:
        return replace(new, verdict=_noted(config, verdict([], new.rates, gate)))
    try:
        compared = compare_rows(rows, base.rows, resamples=gate.resamples, alpha=gate.alpha, seed=gate.seed)
        decided = verdict(compared, new.rates, gate, lost=unpaired(rows, base.rows))
    except NotComparableError as err:
        if config.baseline != PREVIOUS:
            raise
        compared, decided = [], verdict([], new.rates, gate)
        unable = Check("regression", ALL, f"{err}; this evaluation is kept, and the next one is compared with it")
        decided = Verdict((str(unable.failure), *decided.failures), decided.warnings, (unable, *decided.checks))
    return replace(
        new,
        comparisons=compared,
        baseline=base.rows["evaluation"][0].as_py(),
        verdict=decided,
        differing=differing(new, base.result),
    )


def _written(
    config: EvaluateConfig, storage: Storage, evaluation: Evaluation, rows: pa.Table, base: history.Baseline | None
) -> tuple[Evaluation, dict[str, str]]:
    """Write rows, result and pages; a baseline too, if that is wanted.

    Returns the evaluation with its history, and the pages by their names.
    """
    history.write_rows(storage, rows)
    history.write_result(storage, config.name, evaluation)
    if config.keep_as:
        history.keep(storage, config.keep_as, config.name, evaluation, rows, config.storage)
    known = history.results(storage)
    shown = replace(evaluation, history=history.points(known, config.name))
    pages = {"report.html": render(shown, rows, base.rows if base else None), "junit.xml": junit_xml(shown)}
    for name, text in pages.items():
        storage.put(name, text.encode())
    kept = {name.rpartition(".")[2]: text for name, text in pages.items()}
    kept_reports.keep(storage, evaluation.evaluation, kept, known)
    return shown, pages


def _scored(config: EvaluateConfig, run: str, common: Mapping[str, Any], stack: contextlib.ExitStack) -> _Scored:
    """All sets under one config. stack: keeps Ray, which the first set with something to transcribe starts."""
    rows: list[dict[str, Any]] = []
    words: list[JudgedWord] = []
    speed = Speed()
    for name, one in config.sets.items():
        if one.hypotheses:
            found = foreign_outcomes(name, one)
        elif one.output:
            found = outcomes(open_storage(one.output, create=False, config=config.storage))
        else:
            output, taken = _transcribed(config, name, one, run, stack)
            speed += taken
            found = outcomes(output)
        identity = {**common, "set": name}
        for outcome in found:
            own = {**identity, "slices": slices_of(outcome.metadata, config.slices)}
            rows.append(scored(outcome, own, one.normaliser, config.corrupt))
            words += judged(outcome, rows[-1])
    return _Scored(rows, words, speed)


def _transcribed(
    config: EvaluateConfig, name: str, one: SetConfig, run: str, stack: contextlib.ExitStack
) -> tuple[Storage, Speed]:
    """Transcribe a set into an output of its own. Its name depends on the settings: other settings, other output.

    Returns the output, and how long the last run took that had something to transcribe.
    """
    assert one.source
    settings = {
        key: getattr(config, key) for key in ("storage", "model", "denoise", "decode", "segment", "compute", "plan")
    }
    uri = f"{config.output.uri.rstrip('/')}/runs/{run}/{name}"
    budget = BudgetConfig(max_dead_fraction=1)  # a dead letter counts as deletions, and the gate decides
    made = RunConfig(source=one.source, output=OutputConfig(uri=uri), budget=budget, **settings)
    wanted, info = layout.resolve(made)
    mark = fingerprint_id(make_fingerprint(wanted, weights=info.weights_hash, second=info.second_hash))
    wanted = wanted.model_copy(update={"output": OutputConfig(uri=f"{uri}-{mark[:8]}")})
    output = open_storage(wanted.output.uri, config=config.storage)
    if not output.exists(SUMMARY):
        log.info("set %s", name)
        stack.enter_context(ray_cluster(config.compute, config.model.pools))
    with ProcessorSeconds() as used:
        summary = transcribe(wanted)
    if replicas := used.by_role["replica"]:
        output.put(PROCESSOR, json.dumps({"replica_seconds": replicas}).encode())
    known = read_json(output, PROCESSOR).get("replica_seconds") if output.exists(PROCESSOR) else None
    return output, Speed(summary.get("pipeline_audio_seconds", 0.0), summary.get("pipeline_seconds", 0.0), known)


def _noted(config: EvaluateConfig, judged: Verdict) -> Verdict:
    """The verdict without a baseline, with a warning where one is wanted that does not exist yet."""
    if not config.baseline:
        return judged
    warning = f"baseline: {config.baseline}: no earlier evaluation is called {config.name}: nothing to compare with yet"
    return replace(judged, warnings=(warning, *judged.warnings))


def _combinations(config: EvaluateConfig) -> Iterator[dict[str, Any]]:
    """Every combination of settings of the sweep; none without a sweep."""
    if config.sweep:
        for values in product(*config.sweep.values()):
            yield dict(zip(config.sweep, values, strict=True))


def _point(
    config: EvaluateConfig, settings: dict[str, Any], run: str, common: Mapping[str, Any], stack: contextlib.ExitStack
) -> SweepPoint:
    """One combination of the sweep. config: already with these settings."""
    log.info("sweep %s", ", ".join(f"{key}={value}" for key, value in settings.items()))
    done = _scored(config, run, common, stack)
    measured = language_rates(done.rows, resamples=config.gate.resamples, seed=config.gate.seed)
    steps = [row["steps"] for row in done.rows if row["steps"] is not None]
    return SweepPoint(
        settings=settings,
        rates={one.key: one for one in measured if one.group == "language"},
        overall=rate("all", "all", done.rows, resamples=config.gate.resamples, seed=config.gate.seed),
        rtfx=done.speed.rtfx,
        steps=sum(steps) / len(steps) if steps else None,
    )


def _with(config: EvaluateConfig, settings: Mapping[str, Any]) -> EvaluateConfig:
    """The config with some settings changed. Raises ConfigError, which names the key and the value refused."""
    tree = config.model_dump(mode="json", exclude_unset=True)  # a model has defaults of its own
    for key, value in settings.items():
        section, _, name = key.partition(".")
        tree.setdefault(section, {})[name] = value
    try:
        changed = EvaluateConfig.model_validate(tree)
    except pydantic.ValidationError as err:
        raise ConfigError(f"sweep: {mistakes(err, EvaluateConfig)[0]}") from None
    if changed.model != config.model:
        layout.describe(changed.model.name, changed.model.revision)
    return changed
