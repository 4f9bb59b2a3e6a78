"""One export: plan its shards, write those that are left, join what belongs to all of them, and describe it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.config import ComputeConfig, ConfigError
from pipeline.export.card import CARD, render
from pipeline.export.commit import COMMITS, Task, commit_key, read_commit, write_shard
from pipeline.export.figures import Figures, add
from pipeline.export.formats import FORMATS, writer_of
from pipeline.export.join import join_parts
from pipeline.export.labels import LABELS_AT, parts
from pipeline.export.layout import PARTS, RECORDINGS
from pipeline.export.origin import Run, read_run, unit_places
from pipeline.export.settings import ExportConfig
from pipeline.export.shards import Dropped, Shard, plan_shards
from pipeline.flow.cluster import ray_cluster
from pipeline.labels.settings import FUNNEL
from pipeline.labels.splits import stable_hash
from pipeline.planning.fingerprint import check_fingerprint, fingerprint_id, library_versions, to_json
from pipeline.sources.access.listing import absolute
from pipeline.storage.base import OutputError, Storage, in_order, open_input, open_storage, race_probe, read_json
from pipeline.storage.objects import PROBES

FINGERPRINT, PROBLEMS = "_export/fingerprint.json", "problems.jsonl"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Exported:
    """What is in the output now. problems: rows whose audio could not be had, as in problems.jsonl."""

    figures: Figures
    dropped: Dropped
    problems: list[dict[str, str]]

    @property
    def rows(self) -> int:
        """Kept rows that were written."""
        return self.figures["rows_by_split"].total() if self.figures else 0

    @property
    def lost_fraction(self) -> float:
        """Rows without audio divided by all that should have been written, be they kept or, with all_rows, dropped."""
        if not (lost := len(self.problems)):
            return 0.0
        # commits of an earlier version count only kept rows
        written = self.figures.get("written", self.figures["rows_by_split"]).total()
        return lost / (written + lost)


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
    run = read_run(transcripts)
    _write(config, left, transcripts, run, fingerprint)
    commits = in_order(lambda shard: read_commit(target, shard, fingerprint), shards, target.parallel)
    return _finish(config, target, commits, dropped, run)


def _open_input(config: ExportConfig) -> tuple[Storage, Storage]:
    """The input, and the output of jobs.transcribe that its rows are from."""
    source = open_input("input.uri", config.input.uri, config.storage)
    funnel = read_json(source, FUNNEL)
    if not funnel and next(source.list(LABELS_AT), None):
        raise ConfigError(f"input.uri: {config.input.uri}: its selection has not ended; run jobs.select_labels again")
    named = config.input.transcripts or funnel.get("transcripts")
    return source, open_input("input.transcripts", named, config.storage) if named else source


def _pin(target: Storage, config: ExportConfig, keys: dict[str, str]) -> str:
    """Fix settings and input of this output, before its first file. Raises ConfigError if they are others."""
    wanted = {f"export.{key}": getattr(config.export, key) for key in ("format", "audio", "all_rows", "shard_rows")}
    versions = hashlib.sha256(json.dumps(keys).encode()).hexdigest()
    wanted |= {"input.uri": _absolute(config.input.uri), "input.versions": versions} | library_versions()
    stored = read_json(target, FINGERPRINT)
    other = next((key for key in target.list("") if key != FINGERPRINT and not key.startswith(PROBES)), None)
    if other is None:
        target.put(FINGERPRINT, to_json(wanted))
    elif not stored:
        raise ConfigError(f"output.uri: {target.uri}: {other} is there; an export needs a place of its own")
    else:
        check_fingerprint(target.uri, stored, wanted)
    return fingerprint_id(wanted)


def _absolute(uri: str) -> str:
    """The same address in every process: a local path becomes absolute."""
    return uri if "://" in uri else absolute(uri)


def _write(config: ExportConfig, left: Sequence[Shard], transcripts: Storage, run: Run, fingerprint: str) -> None:
    """Write and commit these shards: several whose audio is cut in tasks of Ray, else one after the other."""
    places = unit_places(transcripts)
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
        if writer_of(config.export)[1] and config.export.tasks != 1 and len(tasks) > 1:
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


@dataclass(slots=True)
class _Whole:
    """What the commits of an export say together. parts: keys of what is joined, by the key of the joined file."""

    parts: dict[str, list[str]] = field(default_factory=dict)
    figures: Figures = field(default_factory=dict)
    problems: list[dict[str, str]] = field(default_factory=list)


def _finish(
    config: ExportConfig, target: Storage, commits: Iterable[dict[str, Any]], dropped: Dropped, run: Run
) -> Exported:
    """Join the parts, and put the lines about problems and the data card."""
    kind, whole = FORMATS[config.export.format], _whole(config, target, commits)
    join_parts(target, whole.parts, sort=kind.sort)
    if kind.finish:
        for split in whole.figures.get("rows_by_split", {}):
            kind.finish(target, split)
    if whole.problems:
        lines = (json.dumps(line, ensure_ascii=False) + "\n" for line in whole.problems)
        target.put(PROBLEMS, "".join(lines).encode())
    exported = Exported(whole.figures, dropped, whole.problems)
    target.put(CARD, render(config, run, whole.figures, dropped, whole.problems).encode())
    return exported


def _whole(config: ExportConfig, target: Storage, commits: Iterable[dict[str, Any]]) -> _Whole:
    """Sum up the commits. Memory: their parts and problems, and 100 bytes for each file of a recording.

    Raises OutputError if two shards have written one file: the later has replaced the earlier.
    """
    whole, seen = _Whole(), set[bytes]()
    for commit in commits:
        add(whole.figures, commit["figures"])
        whole.problems += commit["problems"]
        for key in commit["files"]:
            if key.startswith(PARTS):
                whole.parts.setdefault(key.removeprefix(PARTS).partition("/")[2], []).append(key)
            elif key.startswith(RECORDINGS):
                if (name := stable_hash(key)) in seen:
                    raise OutputError(
                        f"{target.uri}/{key}: two shards wrote it: {config.input.uri} has a recording in two places"
                    )
                seen.add(name)
    return whole
