"""Writes one shard and commits it: its files, then one conditional put of the commit that names them.

The bytes of a shard depend only on its rows and their audio. What a killed attempt has written before its commit is
replaced by the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.export.cut import with_audio, with_headers
from pipeline.export.figures import count
from pipeline.export.formats import FORMATS, writer_of
from pipeline.export.labels import TRAIN, Label, read_labels
from pipeline.export.layout import Target
from pipeline.export.origin import Item, Run, items, read_refs
from pipeline.export.settings import ExportConfig
from pipeline.export.shards import Shard
from pipeline.schemas import Place
from pipeline.storage.base import OutputError, Storage, in_order, open_storage

COMMITS = "_export/commits/"


@dataclass(frozen=True, slots=True)
class Task:
    """A shard that is left to write. All paths are absolute: a task of Ray works in another folder.

    transcripts: where the rows are from, and `run` what made them. units: where its recordings are planned.
    """

    config: ExportConfig
    shard: Shard
    transcripts: str
    run: Run
    units: tuple[tuple[str, Place], ...]
    fingerprint: str


def write_shard(task: Task) -> dict[str, Any]:
    """Write the files of a shard and commit them. Returns the commit.

    Raises OutputError if another export has committed the shard with other content, StorageError if a store is out of
    reach.
    """
    config, shard = task.config, task.shard
    source, origin, target = (
        open_storage(uri, create=False, config=config.storage)
        for uri in (config.input.uri, task.transcripts, config.output.uri)
    )
    writer, cuts = writer_of(config.export)
    labels = wanted(source, shard, all_rows=config.export.all_rows)
    rows = items(labels, read_refs(origin, task.units), task.run)
    written: list[Label] = []
    problems: list[dict[str, str]] = []
    kind = FORMATS[config.export.format]
    if cuts:
        rows = with_audio(list(rows), task.run.config, kind.audio, problems)
    elif kind.needs_header:
        rows = with_headers(list(rows), task.run.config, problems)
    with target.scratch() as folder:
        files = writer(_noted(rows, written), Target(shard, folder, config.output.uri))
        content = {key: _described(path) for key, path in sorted(files.items())}
        deque(in_order(lambda file: target.put(*file), files.items(), target.parallel), maxlen=0)
    commit = {
        "shard": shard.name,
        "fingerprint": task.fingerprint,
        "files": content,
        "figures": count(written),
        "problems": problems,
    }
    if target.put_if_absent(commit_key(shard), json.dumps(commit, ensure_ascii=False).encode()):
        return commit
    winner = read_commit(target, shard, task.fingerprint)
    if winner["files"] != content:
        raise OutputError(f"{target.uri}/{commit_key(shard)}: another export wrote other content at the same time")
    return winner


def wanted(source: Storage, shard: Shard, *, all_rows: bool) -> Iterator[Label]:
    """The rows of a shard. all_rows: also those that are dropped."""
    for label in read_labels(source, shard.key, shard.first, shard.stop):
        if (label.kept or all_rows) and (label.split or TRAIN) == shard.split:
            yield label


def commit_key(shard: Shard) -> str:
    """Where the commit of a shard is."""
    return f"{COMMITS}{shard.name}.json"


def read_commit(storage: Storage, shard: Shard, fingerprint: str) -> dict[str, Any]:
    """The commit of a shard. Raises OutputError if it is damaged or of other settings."""
    key = commit_key(shard)
    try:
        commit: dict[str, Any] = json.loads(storage.get(key))
        same = commit["fingerprint"] == fingerprint
    except (ValueError, KeyError, TypeError):
        raise OutputError(f"{storage.uri}/{key}: not a commit of an export") from None
    if not same:
        raise OutputError(f"{storage.uri}/{key}: of an export with other settings, which ran at the same time")
    return commit


def _noted(rows: Iterable[Item], labels: list[Label]) -> Iterator[Item]:
    """The same rows; `labels` gets theirs as they are taken."""
    for item in rows:
        labels.append(item.label)
        yield item


def _described(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
