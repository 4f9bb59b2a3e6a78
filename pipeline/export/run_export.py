"""One export: plan its shards, write those that are left, join what belongs to all of them, and describe it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.config import ComputeConfig, ConfigError
from pipeline.export.card import CARD, render
from pipeline.export.commit import COMMITS, Task, commit_key, read_commit, write_shard
from pipeline.export.figures import Figures, merge
from pipeline.export.formats import FORMATS, writer_of
from pipeline.export.join import join_parts
from pipeline.export.labels import parts
from pipeline.export.layout import PARTS
from pipeline.export.origin import read_run, unit_places
from pipeline.export.settings import ExportConfig
from pipeline.export.shards import Dropped, Shard, plan_shards
from pipeline.flow.cluster import ray_cluster
from pipeline.planning.fingerprint import check_fingerprint, fingerprint_id, library_versions, to_json
from pipeline.sources.access.listing import absolute
from pipeline.storage.base import OutputError, Storage, in_order, open_storage, race_probe, read_json

FUNNEL = "funnel.json"  # of labels: what they are from
FINGERPRINT, PROBLEMS = "_export/fingerprint.json", "problems.jsonl"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Exported:
    """What is in the output now. problems: rows whose audio could not be had, as in problems.jsonl."""

    shards: int
    figures: Figures
    dropped: Dropped
    problems: list[dict[str, str]]

    @property
    def rows(self) -> int:
        """Rows that were written."""
        return self.figures["rows_by_split"].total() if self.figures else 0

    @property
    def lost_fraction(self) -> float:
        """Rows without audio divided by all that should have been written."""
        lost = len(self.problems)
        return lost / (self.rows + lost) if lost else 0.0


def export(config: ExportConfig) -> Exported:
    """Write everything that is not committed yet. Raises ConfigError, OutputError or StorageError; one line."""
    writer_of(config.export)
    source, transcripts = _open_input(config)
    target = open_storage(config.output.uri, config=config.storage)
    race_probe(target)
    keys = parts(source)
    fingerprint = _pin(target, config, keys)
    dropped = Dropped()
    shards = list(plan_shards(source, keys, config.export.shard_rows, all_rows=config.export.all_rows, dropped=dropped))
    if not shards:
        raise ConfigError(f"input.uri: {config.input.uri}: no row is kept")
    committed = set(target.list(COMMITS))
    left = [shard for shard in shards if commit_key(shard) not in committed]
    log.info("%d of %d shards to write", len(left), len(shards))
    _write(config, left, transcripts, fingerprint)
    commits = list(in_order(lambda shard: read_commit(target, shard, fingerprint), shards, target.parallel))
    return _finish(config, target, commits, dropped, transcripts)


def _open_input(config: ExportConfig) -> tuple[Storage, Storage]:
    """The input, and the output of jobs.transcribe that its rows are from."""
    source = _opened("input.uri", config.input.uri, config)
    named = config.input.transcripts or read_json(source, FUNNEL).get("transcripts")
    return source, _opened("input.transcripts", named, config) if named else source


def _opened(key: str, uri: str, config: ExportConfig) -> Storage:
    try:
        return open_storage(uri, create=False, config=config.storage)
    except ConfigError as err:
        raise ConfigError(str(err).replace("output.uri", key, 1)) from None


def _pin(target: Storage, config: ExportConfig, keys: dict[str, str]) -> str:
    """Fix settings and input of this output, before its first commit. Raises ConfigError if they are others."""
    wanted = {f"export.{key}": getattr(config.export, key) for key in ("format", "audio", "all_rows", "shard_rows")}
    versions = hashlib.sha256(json.dumps(keys).encode()).hexdigest()
    wanted |= {"input.uri": _absolute(config.input.uri), "input.versions": versions} | library_versions()
    if next(target.list(COMMITS), None) is None:
        target.put(FINGERPRINT, to_json(wanted))
    else:
        check_fingerprint(target.uri, read_json(target, FINGERPRINT), wanted)
    return fingerprint_id(wanted)


def _absolute(uri: str) -> str:
    """The same address in every process: a local path becomes absolute."""
    return uri if "://" in uri else absolute(uri)


def _write(config: ExportConfig, left: Sequence[Shard], transcripts: Storage, fingerprint: str) -> None:
    """Write and commit these shards: in tasks of Ray if audio is cut, else one after the other."""
    run, places = read_run(transcripts), unit_places(transcripts)
    if unknown := {unit for one in left for unit in one.units} - places.keys():
        raise OutputError(
            f"{transcripts.uri}: rows of {config.input.uri} are of units that are not planned: {min(unknown)}"
        )
    there = config.model_copy(
        update={
            "input": config.input.model_copy(update={"uri": _absolute(config.input.uri)}),
            "output": config.output.model_copy(update={"uri": _absolute(config.output.uri)}),
        }
    )
    tasks = [
        Task(
            there, one, _absolute(transcripts.uri), run, tuple((unit, places[unit]) for unit in one.units), fingerprint
        )
        for one in left
    ]
    with contextlib.ExitStack() as stack:
        if writer_of(config.export)[1] and config.export.tasks != 1 and tasks:
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))  # Ray prints there
            stack.enter_context(ray_cluster(ComputeConfig()))
            from pipeline.flow.tasks import run_tasks  # at import, Ray reads the environment that ray_cluster sets

            commits = run_tasks(write_shard, tasks, config.export.tasks)
        else:
            commits = map(write_shard, tasks)
        for number, commit in enumerate(commits, 1):
            for line in commit["problems"]:
                log.warning("%s: %s: %s", line["recording_id"], line["reason"], line["error"])
            log.info("%s written, %d of %d", commit["shard"], number, len(tasks))


def _finish(
    config: ExportConfig, target: Storage, commits: Sequence[dict[str, Any]], dropped: Dropped, transcripts: Storage
) -> Exported:
    """Join the parts, and put the lines about problems and the data card."""
    kind = FORMATS[config.export.format]
    _check_once(config, target, commits)
    join_parts(target, commits, sort=kind.sort)
    figures = merge(commit["figures"] for commit in commits)
    if kind.finish:
        for split in figures.get("rows_by_split", {}):
            kind.finish(target, split)
    problems = [line for commit in commits for line in commit["problems"]]
    if problems:
        target.put(PROBLEMS, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in problems).encode())
    exported = Exported(len(commits), figures, dropped, problems)
    target.put(CARD, render(config, read_run(transcripts), figures, dropped, problems).encode())
    return exported


def _check_once(config: ExportConfig, target: Storage, commits: Sequence[dict[str, Any]]) -> None:
    """Raise OutputError if two shards have written one file: the later has replaced the earlier."""
    seen: set[str] = set()
    for commit in commits:
        files = {key for key in commit["files"] if not key.startswith(PARTS)}
        if twice := seen & files:
            raise OutputError(
                f"{target.uri}/{min(twice)}: two shards wrote it: {config.input.uri} has a recording in two places"
            )
        seen |= files
