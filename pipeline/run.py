"""One run of `jobs.transcribe`: plan, transcribe the units that are not committed, publish, report."""

from __future__ import annotations

import contextlib
import io
import logging
import time
from collections.abc import Iterator, Set
from dataclasses import replace
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from pipeline import logs
from pipeline.config import ConfigError, RunConfig, ShareConfig
from pipeline.flow.cluster import check_machine, ray_cluster
from pipeline.flow.placement import Placement, decoders, watched
from pipeline.model.files import layout
from pipeline.model.files.facts import ModelInfo
from pipeline.output.accounting import close_books
from pipeline.output.attempts import end_run, forget_innocent
from pipeline.output.budget import Budget, OverBudget
from pipeline.output.calibrator import FILE, KEY, Calibrator, keep, read_file
from pipeline.output.commit import collect_garbage, committed_units, new_attempt, read_commit
from pipeline.output.parts import CONFIG, SUMMARY
from pipeline.output.pieces import forget_committed
from pipeline.output.progress import RunProgress
from pipeline.output.publish import ACCOUNTING, is_published, publish_tables, refreshed_summary
from pipeline.output.report import write_report
from pipeline.output.retry import plan_retry
from pipeline.output.tables import published_rows
from pipeline.output.terminal import PUBLISHING, STARTING
from pipeline.planning.fingerprint import make_fingerprint
from pipeline.planning.left import UnitSeconds, units_left, unread_recordings
from pipeline.planning.overlap import check_places
from pipeline.planning.pack import UNITS_EACH
from pipeline.planning.plan import BASE, ensure_plan, plan_key, plan_names, read_plan
from pipeline.planning.update import note_changes, source_changes
from pipeline.schemas import SAMPLE_RATE
from pipeline.sources.access.listing import check_root, with_absolute_source
from pipeline.storage.base import OutputError, Storage, copy_object, open_existing, open_storage, race_probe, read_json
from pipeline.storage.errors import StorageError
from pipeline.storage.local import LocalStorage
from pipeline.storage.scratch import scratch_folder

log = logging.getLogger(__name__)


def transcribe(config: RunConfig) -> dict[str, Any]:
    """Do everything that is left to do, and publish it. Returns the content of _run/summary.json.

    With run.partition it does its share of the units, and publishes only if no unit of any share is left. Otherwise it
    returns what `_unpublished` says. Ray starts only if units are left. Raises ConfigError for a mistake of the user,
    OutputError for a damaged output, StorageError if a store or disk is out of reach, OverBudget if too much has
    failed; the message is one line.
    """
    if config.publish:
        storage = open_storage(config.output.uri, create=False, config=config.storage)
        _choose_calibrator(storage, config)
        return _publish(storage, {})
    if config.run.partition and (config.plan.update or config.retry != "none"):
        raise ConfigError(
            f"run.partition: {config.run.partition}: plan.update and retry plan a further round, once for all shares: "
            "run jobs.plan with them first, and then each share without them"
        )
    check_machine(config.model, config.compute)
    check_places(config.source, config.output.uri)
    with RunProgress(config.run.partition) as progress:
        return _run(config, progress)


def _run(config: RunConfig, progress: RunProgress) -> dict[str, Any]:
    """Plan, transcribe, publish. Returns and raises as `transcribe`."""
    config, info = layout.resolve(config)
    storage = open_storage(config.output.uri, config=config.storage)
    race_probe(storage)
    fingerprint = _make_plan(storage, config, info)
    progress.storage = storage  # no sign of life before: a run that is refused is none
    committed = committed_units(storage)
    left = units_left(storage, committed)
    units = left.filter(pa.array([config.run.has(unit) for unit in left["unit_id"].to_pylist()], pa.bool_()))
    forget_innocent(storage, committed)
    forget_committed(storage, committed)
    if not len(left) and is_published(storage, len(committed)) and storage.exists("report.html"):
        collect_garbage(storage)  # whoever published may have been killed before
        return refreshed_summary(storage)
    try:
        notes = _transcribe_units(config, info, fingerprint, units, committed, progress) if len(units) else {}
    except OverBudget as stop:
        progress.phase(PUBLISHING)
        stop.summary = _publish(storage, {})  # it shows what has failed
        raise
    progress.phase(PUBLISHING)
    return _unpublished(storage, config.run) or _publish(storage, notes)


def _unpublished(storage: Storage, share: ShareConfig) -> dict[str, Any]:
    """What is left, if other shares have units to do: whoever ends last publishes. Empty if they have none.

    A run lists the commits after its last one. So of several runs that end, at least the last one sees all of them.
    """
    if share.shares == 1:
        return {}
    ids = units_left(storage, committed_units(storage))["unit_id"].to_pylist()
    own = sum(map(share.has, ids))
    if own == len(ids):
        return {}
    return {"partition": share.partition, "units_left": own, "units_left_to_others": len(ids) - own}


def prepare(config: RunConfig) -> Storage:
    """Write the plan, or compare the fingerprint with that of the plan. Returns the output. For `jobs.plan`."""
    check_places(config.source, config.output.uri)
    config, info = layout.resolve(config)
    storage = open_storage(config.output.uri, config=config.storage)
    _make_plan(storage, config, info)
    return storage


@contextlib.contextmanager
def prepared_copy(config: RunConfig) -> Iterator[tuple[Storage, Set[str]]]:
    """The same as `prepare` in a temporary folder: nothing is written to the output. For a dry run.

    Yields the folder with the plans, as storage, and the ids of the units that are committed in the output.
    Raises ConfigError if the output exists and cannot be read.
    """
    check_places(config.source, config.output.uri)
    output = open_existing(config.output.uri, config=config.storage)
    config, info = layout.resolve(config)
    with scratch_folder("dry-") as folder:
        copy = LocalStorage(folder)
        copy.uri = config.output.uri  # so that error messages name the output
        if output is not None:
            for name in plan_names(output):
                copy_object(output, copy, plan_key(name))
        _make_plan(copy, config, info, results=output)
        yield copy, committed_units(output) if output else frozenset()


def recalibrate(storage: Storage, calibrator: Calibrator | None) -> dict[str, Any]:
    """Publish an output with the confidences of a calibrator, or None: the raw ones. Returns the summary.

    Nothing is recognised again. Raises ConfigError if the calibrator is for another model, since it judges no row then.
    """
    first = next(published_rows(storage, "transcripts", ["model"]), None)
    if calibrator and first and first["model"] != calibrator.model:
        raise ConfigError(f"calibrator: it is for {calibrator.model}, and {storage.uri} is of {first['model']}")
    keep(storage, calibrator)
    return _publish(storage, {})


def dead_fraction(summary: dict[str, Any]) -> float:
    """Dead letters divided by all recordings that have a result; 0 if none has.

    An archive that cannot be read counts as the recordings that its bytes may hold.
    """
    dead = summary["recordings_dead_lettered"] + summary.get("recordings_unread", 0)
    answered = summary["recordings_transcribed"] + dead
    return dead / answered if answered else 0.0


def _make_plan(storage: Storage, config: RunConfig, info: ModelInfo, results: Storage | None = None) -> str:
    """Write the plan with its fingerprint and the resolved config to `storage`, and the rounds that are wanted.

    results: where the committed results are; None: in `storage`. Returns the id of the fingerprint.
    """
    wanted = make_fingerprint(config, weights=info.weights_hash, second=info.second_hash)
    at_least = UNITS_EACH * config.compute.replicas_max * config.run.shares
    is_planned = storage.exists(plan_key(BASE))
    fingerprint = ensure_plan(
        storage,
        config.source,
        config.plan,
        part_rows=config.output.part_rows,
        fingerprint=wanted,
        at_least=at_least,
    )
    _choose_calibrator(storage, config)
    kept = with_absolute_source(config).model_dump(mode="json")  # exports read it in other folders
    storage.put(CONFIG, yaml.safe_dump(kept, sort_keys=False).encode())
    if is_planned and config.run.number == 0:  # of several shares the first one looks at the source
        commits = results or storage
        reasons = lru_cache(maxsize=4)(lambda unit_id: read_commit(commits, unit_id)["by_recording"]["reason"])
        find = partial(
            source_changes,
            storage,
            config.source,
            config.plan,
            part_rows=config.output.part_rows,
            at_least=at_least,
            committed=committed_units(commits),
            is_recognised=lambda place: reasons(place[0])[place[1]] is None,
        )
        note_changes(storage, config.source, config.plan, find)
    if config.retry != "none":
        plan_retry(storage, config.plan, config.retry, results=results, at_least=at_least)
    return fingerprint


def _choose_calibrator(storage: Storage, config: RunConfig) -> None:
    """Put the calibrator of the config into the output. With `auto` an output keeps the one that it has."""
    wanted = config.model.calibrator
    if wanted == "auto":
        own = layout.directory(config.model.name, config.model.revision) / FILE
        if not storage.exists(KEY):
            keep(storage, read_file(own) if own.is_file() else None)
    else:
        keep(storage, read_file(Path(wanted)) if wanted else None)


def _transcribe_units(
    config: RunConfig,
    info: ModelInfo,
    fingerprint: str,
    units: pa.Table,
    committed: Set[str],
    progress: RunProgress,
) -> dict[str, Any]:
    """Run the chain over `units`, which are rows of schemas.UNIT_LEFT. Returns the summary's notes about this run.

    Raises OverBudget as soon as too much has failed. What is committed is published before.
    """
    storage = progress.storage
    assert storage
    done = sum(map(config.run.has, committed))
    total, lengths = done + len(units), UnitSeconds(storage)
    budget = _budget(config, storage, committed)
    budget.check()
    if config.source.format != "huggingface":  # it may be a name on the hub
        config = with_absolute_source(config)  # actors have other folders
        check_root(config.source.uri)
    log.info("%d of %d units to do; starting Ray", len(units), total)
    progress.phase(STARTING)
    # Ray prints a line to stdout for each process of an actor that dies, at any moment of a run, and at its early end.
    with contextlib.redirect_stdout(io.StringIO()), ray_cluster(config.compute, config.model.pools):
        from pipeline.flow.chain import run_units  # at import, Ray reads the environment that ray_cluster sets

        placement = Placement(config.compute, config.model.pools)
        placement.before()
        progress.run = new_attempt()
        about = replace(info.about(fingerprint, progress.run), log_json=logs.is_json())
        logs.of_process(run=about.run)
        log.info("transcribing with %s, %s", about.model, decoders(config.compute))
        seconds_left = lengths.of(units["unit_id"].to_pylist())
        started = time.monotonic()
        progress.begin(total, done, lengths.of, sum(seconds_left))
        receipts = watched(run_units(config, about, units, seconds_left), placement.during)
        with _ends_by_itself(storage, progress), contextlib.closing(receipts):
            samples = _show_progress(receipts, progress, budget)
        seconds = time.monotonic() - started
    committed = committed_units(storage)
    forget_innocent(storage, committed)
    forget_committed(storage, committed)
    audio_seconds = samples / SAMPLE_RATE
    return {
        "pipeline_rtfx": round(audio_seconds / seconds, 3),
        "pipeline_seconds": round(seconds, 3),
        "pipeline_audio_seconds": round(audio_seconds, 3),
        "pipeline_units": len(units),
    }


def _budget(config: RunConfig, storage: Storage, committed: Set[str]) -> Budget:
    """What may still fail. committed: ids of units; their dead letters count, except those that a round tries again."""
    books = close_books(storage)
    rounds = plan_names(storage)[1:]
    retried = chain.from_iterable(read_plan(storage, name, skip=committed, placed=False) for name in rounds)
    again = sum(len(planned.unit.refs) for planned in retried)
    unread = books["recordings_unread"] + unread_recordings(storage, committed)
    dead = max(0, books["recordings_dead_lettered"] - again) + unread
    return Budget(config.budget, books["recordings_planned"] + unread, dead)


@contextlib.contextmanager
def _ends_by_itself(storage: Storage, progress: RunProgress) -> Iterator[None]:
    """If the block ends by a stop or an error that is no crash, say that no recording of the run is to blame."""
    try:
        yield
    except BaseException as err:
        if not isinstance(err, Exception) or isinstance(err, ConfigError | OutputError | StorageError | OverBudget):
            with contextlib.suppress(OSError):  # then some of the recordings may run alone the next time
                end_run(storage, progress.run or "")
        if not isinstance(err, Exception):
            progress.end(err)  # a stop leaves no time for more
        raise


def _show_progress(receipts: Iterator[dict[str, Any]], progress: RunProgress, budget: Budget) -> int:
    """Update `progress` and `budget` with each receipt. Returns how many samples this run has decoded."""
    for receipt in receipts:
        progress.add(receipt)
        if progress.done < progress.total:  # else the run ends anyway
            budget.add(receipt)
    return progress.samples


def _publish(storage: Storage, notes: dict[str, Any]) -> dict[str, Any]:
    """Publish with the notes of this run. If it had nothing to do, the summary keeps the notes of the last run."""
    last = {key: value for key, value in read_json(storage, SUMMARY).items() if key.startswith("pipeline_")}
    summary = publish_tables(storage, notes=notes or last)
    write_report(storage, summary, read_json(storage, ACCOUNTING))
    return summary
