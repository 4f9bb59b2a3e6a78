"""One run of `jobs.transcribe`: plan, transcribe what is not committed yet, publish, report."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import time
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from pipeline.config import RunConfig
from pipeline.flow.cluster import ray_cluster
from pipeline.model.files import layout
from pipeline.output.accounting import accounting
from pipeline.output.attempts import forget_all
from pipeline.output.commit import committed_units
from pipeline.output.pieces import forget_committed
from pipeline.output.publish import SUMMARY, is_published, publish
from pipeline.output.report import write_report
from pipeline.output.retry import plan_retry
from pipeline.output.terminal import RunProgress
from pipeline.planning import fingerprint
from pipeline.planning.plan import ensure_plan, plan_key, plan_names, plan_size, todo
from pipeline.schemas import SAMPLE_RATE, About
from pipeline.storage.base import Storage, copy_object, open_existing, open_storage, race_probe, read_json
from pipeline.storage.local import LocalStorage

log = logging.getLogger(__name__)


def transcribe(config: RunConfig) -> dict[str, Any]:
    """Do all that is left to do and publish it. Returns the content of _run/summary.json.

    Ray is only started where units are left. Raises ConfigError and OutputError, one line each.
    """
    if config.publish:
        return _published(open_storage(config.output.uri, create=False, config=config.storage), {})
    info = layout.describe(config.model.name, config.model.revision)
    storage = open_storage(config.output.uri, config=config.storage)
    race_probe(storage)
    mark = _planned(storage, config, info.weights_hash)
    committed = committed_units(storage)
    units = todo(storage, committed)
    if not len(units) and is_published(storage, len(committed)) and storage.exists("report.html"):
        return read_json(storage, SUMMARY)
    notes = _executed(config, storage, info, mark, units, len(committed)) if len(units) else {}
    return _published(storage, notes)


def prepare(config: RunConfig) -> Storage:
    """Make the plan and compare the fingerprint; transcribe nothing. Returns the output. For `jobs.plan`."""
    info = layout.describe(config.model.name, config.model.revision)
    storage = open_storage(config.output.uri, config=config.storage)
    _planned(storage, config, info.weights_hash)
    return storage


@contextlib.contextmanager
def prepared_copy(config: RunConfig) -> Iterator[tuple[Storage, Set[str]]]:
    """Do what `prepare` does in a temporary folder, and write nothing to the output. For a dry run.

    Yields the folder as storage, which has the plans, and the ids of the units that the output has committed.
    Raises ConfigError where the output is there and cannot be read.
    """
    output = open_existing(config.output.uri, config=config.storage)
    info = layout.describe(config.model.name, config.model.revision)
    with tempfile.TemporaryDirectory(prefix="fullcanvas-dry-") as folder:
        copy = LocalStorage(Path(folder))
        copy.uri = config.output.uri  # error messages name the output
        if output is not None:
            for name in plan_names(output):
                copy_object(output, copy, plan_key(name))
        _planned(copy, config, info.weights_hash, results=output)
        yield copy, committed_units(output) if output else frozenset()


def dead_fraction(summary: dict[str, Any]) -> float:
    """Dead-lettered recordings of all that have a result."""
    dead = summary["recordings_dead_lettered"]
    answered = summary["recordings_transcribed"] + dead
    return dead / answered if answered else 0.0


def _planned(storage: Storage, config: RunConfig, weights_hash: str, results: Storage | None = None) -> str:
    """Write the fingerprint, the plan, the resolved config and a wanted round of retries to `storage`.

    results: where the committed results are, if not in `storage` too. Returns the fingerprint's id.
    """
    wanted = fingerprint.fingerprint(config, weights=weights_hash)
    mark = ensure_plan(storage, config.source, config.plan, part_rows=config.output.part_rows, fingerprint=wanted)
    storage.put("_run/config.yaml", yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False).encode())
    if config.retry == "dead_letters":
        plan_retry(results or storage, config.plan, write_to=storage)
    return mark


def _executed(
    config: RunConfig, storage: Storage, info: layout.ModelInfo, mark: str, units: pa.Table, committed: int
) -> dict[str, Any]:
    """Run the chain over `units` (rows of schemas.TODO). Returns what the summary says about this run."""
    total = sum(plan_size(storage, name).units for name in plan_names(storage))
    log.info("%d of %d units to do; starting Ray", len(units), total)
    with ray_cluster(config.compute):
        from pipeline.flow.chain import run_units  # Ray reads its environment, which ray_cluster sets, at import

        about = About(info.window_seconds, tuple(info.languages), f"{info.name}@{info.weights_hash}", mark)
        log.info("transcribing with %s", about.model)
        started = time.monotonic()
        samples = _receipts(run_units(config, about, units), RunProgress(total, committed))
        seconds = time.monotonic() - started
    forget_all(storage)
    forget_committed(storage, committed_units(storage))
    audio_seconds = samples / SAMPLE_RATE
    return {
        "pipeline_rtfx": round(audio_seconds / seconds, 3),
        "pipeline_seconds": round(seconds, 3),
        "pipeline_audio_seconds": round(audio_seconds, 3),
        "pipeline_units": len(units),
    }


def _receipts(receipts: Iterator[dict[str, Any]], progress: RunProgress) -> int:
    """Show progress as receipts come in. Returns the samples of audio that this run has decoded."""
    with progress:
        for receipt in receipts:
            progress.add(receipt["samples"], receipt["dead"], done=receipt["done"])
    return progress.samples


def _published(storage: Storage, notes: dict[str, Any]) -> dict[str, Any]:
    """Publish with the notes of this run, or with those of the last one where this had nothing to do."""
    kept = {key: value for key, value in read_json(storage, SUMMARY).items() if key.startswith("pipeline_")}
    summary = publish(storage, notes=notes or kept)
    write_report(storage, summary, accounting(storage))
    return summary
