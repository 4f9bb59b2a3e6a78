"""Publish: from the commits, the two clean tables that DuckDB, Spark and pandas read, and the books beside them.

A local table is exchanged at once. An object store has no such step: parts are replaced one by one. So part borders are
fixed in the plan, a part holds the same recordings in every publication, and whatever mixture of old and new parts a
reader meets, a recording is in it at most once.

Of several publications at once, an older one may write over parts of a newer one. Every publication ends with a look at
all parts, after its summary, and publishes again where one is not its own: of two, the one that ends last sees all that
the other has written. One that is killed before that look is found out by `is_published`, and the next run publishes.
"""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.config import ConfigError
from pipeline.output.accounting import Tally, new_tally
from pipeline.output.commit import collect_garbage, committed_units, read_commit, read_unit
from pipeline.output.retry import latest_units
from pipeline.planning.fingerprint import fingerprint_id
from pipeline.planning.pack import PlannedUnit
from pipeline.planning.plan import plan_names, read_fingerprint, read_plan
from pipeline.schemas import DEAD_LETTER, TRANSCRIPT
from pipeline.storage.base import OutputError, Replacement, Storage, in_order, read_json
from pipeline.storage.patience import retries

ROW_GROUP = 16_384  # rows of a published part that are written together
LEFT_BEHIND_SECONDS = 24 * 3600  # temporary files this old have no writer any more
ROUNDS = 10  # of publishing again because of others
ACCOUNTING, SUMMARY = "_run/accounting.json", "_run/summary.json"
PUBLISHED = "_run/published.json"  # versions of all parts
TABLES = ("dead_letters", "transcripts")
Tables = dict[str, pa.Table]


class _Overtaken(Exception):
    """Others published while this publication was under way."""


class _Table:
    """Writes one table part by part, every part with the schema even where it has no rows."""

    def __init__(self, target: Replacement, schema: pa.Schema, overtaken: Callable[[], bool]) -> None:
        self._target, self._schema, self._overtaken = target, schema, overtaken
        self._writer: pq.ParquetWriter | None = None
        self._part = -1
        self._held: list[pa.Table] = []
        self._held_rows = 0
        self.rows = 0

    def start(self, part: int) -> None:
        """Rows from here on belong to `part`, which is never smaller than the part before."""
        if part != self._part:
            self.finish()
            self._part = part
            path = self._target.path(self._name())
            self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")

    def write(self, table: pa.Table) -> None:
        self.rows += table.num_rows
        self._held_rows += table.num_rows
        self._held.append(table)
        if self._held_rows >= ROW_GROUP:
            self._flush()

    def finish(self) -> None:
        if self._writer:
            self._flush()
            self._writer.close()
            self._writer = None
            if self._overtaken():
                raise _Overtaken
            self._target.add(self._name())

    def _flush(self) -> None:
        assert self._writer
        rows = pa.concat_tables([self._schema.empty_table(), *self._held])
        if rows.num_rows:
            self._writer.write_table(rows.combine_chunks())
        self._held, self._held_rows = [], 0

    def _name(self) -> str:
        return f"part-{self._part:05d}.parquet"


def publish(
    storage: Storage, *, notes: Mapping[str, Any] | None = None, progress: Callable[[int], None] | None = None
) -> dict[str, Any]:
    """Publish everything that is committed now and return the content of _run/summary.json, `notes` included.

    At any time, again and again; the same commits give the same bytes. A publication that met others publishes again.
    Every data file is checked against its commit and every unit against the plan. `progress` is called with the number
    of units read. Garbage of lost attempts is collected afterwards.
    Raises ConfigError where nothing is planned; OutputError, one line naming the file, where the output is damaged or
    the books of a complete run do not close: what was published before stays readable.
    """
    names = plan_names(storage)
    if not names:
        raise ConfigError(f"output.uri: {storage.uri}: nothing is planned here yet")
    for number in range(ROUNDS):
        started = time.monotonic()
        with contextlib.suppress(_Overtaken):
            summary = _publish_once(storage, names, dict(notes or {}), progress)
            collect_garbage(storage)
            storage.sweep(LEFT_BEHIND_SECONDS)
            return summary
        took = time.monotonic() - started
        time.sleep(random.uniform(0, 2 + number) * took)  # two that meet must not keep step
    raise OutputError(f"{storage.uri}: others publish here all the time; publish=true when they have ended")


def is_published(storage: Storage, committed: int) -> bool:
    """Whether the tables show exactly `committed` units, all parts being those of one publication."""
    written = read_json(storage, PUBLISHED)
    return bool(written) and _published_units(storage) == committed and written == _versions(storage)


def _publish_once(
    storage: Storage, names: list[str], notes: dict[str, Any], progress: Callable[[int], None] | None
) -> dict[str, Any]:
    """Publish what is committed now, and return the summary. Raises _Overtaken where others published meanwhile."""
    before = _published_units(storage)  # more than is committed where somebody has deleted commits
    mark = fingerprint_id(read_fingerprint(storage))
    committed = committed_units(storage)
    tally = new_tally(storage, names)
    latest = latest_units(storage, names, committed)
    for planned in chain.from_iterable(read_plan(storage, name) for name in names[1:]):
        if planned.unit.unit_id in committed:
            tally.add(read_commit(storage, planned.unit.unit_id), planned.retried)

    def overtaken() -> bool:
        return before != _published_units(storage) > len(committed)

    with storage.replace("dead_letters") as letters, storage.replace("transcripts") as rows:
        tables = {
            "transcripts": _Table(rows, TRANSCRIPT, overtaken),
            "dead_letters": _Table(letters, DEAD_LETTER, overtaken),
        }
        _write_tables(storage, committed, latest, mark, tally, tables, progress)
        _check_books(storage, tally, tables)
    if overtaken():
        raise _Overtaken
    written = letters.versions | rows.versions
    summary = _summary(tally) | notes
    storage.put(SUMMARY, _as_json(summary))
    storage.put(PUBLISHED, _as_json(written))
    if _versions(storage) != written:
        raise _Overtaken
    return summary


def _versions(storage: Storage) -> dict[str, str]:
    return {key: mark for name in TABLES for key, mark in storage.versions(f"{name}/").items()}


def _write_tables(
    storage: Storage,
    committed: set[str],
    latest: Mapping[str, str],
    mark: str,
    tally: Tally,
    tables: Mapping[str, _Table],
    progress: Callable[[int], None] | None,
) -> None:
    def load(planned: PlannedUnit) -> tuple[PlannedUnit, dict[str, Any] | None, Tables]:
        if planned.unit.unit_id not in committed:
            return planned, None, {}
        commit = read_commit(storage, planned.unit.unit_id)
        return planned, commit, read_unit(storage, commit)

    @lru_cache(maxsize=4)  # rounds of retries keep the order of the plan: neighbours are in the same unit
    def retry(unit_id: str) -> Tables:
        commit = read_commit(storage, unit_id)
        _check_unit(storage, commit, mark)
        return read_unit(storage, commit)

    tables["dead_letters"].start(0)  # few rows, one part
    tables["transcripts"].start(0)
    for done, (planned, commit, own) in enumerate(in_order(load, read_plan(storage), storage.parallel), start=1):
        tables["transcripts"].start(planned.part)
        if commit:
            tally.add(commit)
            _check_unit(storage, commit, mark)
            ids = [ref.recording_id for ref in planned.unit.refs]
            _check_recordings(storage, commit, ids, own)
            newer = {ref.recording_id for ref in planned.unit.refs if ref.recording_id in latest and not ref.problem}
            if newer:
                own = _superseded(own, {unit: retry(unit) for unit in {latest[name] for name in newer}}, newer, latest)
                _check_recordings(storage, commit, ids, own)
            for name, table in own.items():
                tables[name].write(_ordered(table, ids))
        if progress:
            progress(done)
    for table in tables.values():
        table.finish()


def _superseded(own: Tables, rounds: Mapping[str, Tables], newer: set[str], latest: Mapping[str, str]) -> Tables:
    """The tables of a unit with those results of `rounds` that are the latest in place of its dead letters `newer`."""

    def of(table: pa.Table, ids: set[str]) -> pa.Array:
        return pc.is_in(table["recording_id"], pa.array(sorted(ids), pa.string()))

    letters = own["dead_letters"]
    duplicate = pc.equal(letters["reason"], "duplicate_id")  # another recording of the same name
    merged = {
        "transcripts": [own["transcripts"]],
        "dead_letters": [letters.filter(pc.or_(duplicate, pc.invert(of(letters, newer))))],
    }
    for unit, tables in sorted(rounds.items()):
        ids = {name for name in newer if latest[name] == unit}
        for name, held in merged.items():
            held.append(tables[name].filter(of(tables[name], ids)))
    return {name: pa.concat_tables(held) for name, held in merged.items()}


def _ordered(table: pa.Table, ids: list[str]) -> pa.Table:
    """Rows in the order of `ids`, segments of a recording in theirs."""
    place = pc.index_in(table["recording_id"], pa.array(list(dict.fromkeys(ids)), pa.string()))
    keys = pa.table(
        {"place": place, "segment": table["segment_index"] if "segment_index" in table.schema.names else place}
    )
    return table.take(pc.sort_indices(keys, [("place", "ascending"), ("segment", "ascending")]))


def _check_unit(storage: Storage, commit: Mapping[str, Any], mark: str) -> None:
    if commit["fingerprint"] != mark:
        unit = f"{storage.uri}: unit {commit['unit_id']}"
        raise OutputError(f"{unit} was committed under fingerprint {commit['fingerprint']}, not {mark}")


def _check_recordings(storage: Storage, commit: Mapping[str, Any], ids: list[str], own: Tables) -> None:
    found = Counter(own["transcripts"]["recording_id"].unique().to_pylist())
    found.update(own["dead_letters"]["recording_id"].to_pylist())
    if found != Counter(ids):
        raise OutputError(
            f"{storage.uri}: unit {commit['unit_id']} does not hold the recordings that the plan gives it"
        )


def _check_books(storage: Storage, tally: Tally, tables: Mapping[str, _Table]) -> None:
    storage.put(ACCOUNTING, _as_json(tally.report()))
    complaints = tally.complaints()
    for name, counted in (("transcripts", tally.rows), ("dead_letters", tally.dead.total())):
        if tables[name].rows != counted:
            complaints.append(f"{tables[name].rows} rows of {name} where the commits count {counted}")
    if complaints:
        raise OutputError(f"{storage.uri}/{ACCOUNTING}: the books do not close: {'; '.join(complaints)}")


def _summary(tally: Tally) -> dict[str, Any]:
    report = tally.report()
    kept = ("closed", "complete", "units_planned", "units_committed", "dead_letters", "segments")
    return {
        **{name: report[name] for name in kept},
        "recordings": report["recordings_planned"],
        "recordings_transcribed": report["recordings_transcribed"],
        "recordings_dead_lettered": report["recordings_dead_lettered"],
        "audio_hours": round(report["seconds_in"] / 3600, 4),
        "storage_retries": dict(retries),
        "published": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _published_units(storage: Storage) -> int:
    units = read_json(storage, SUMMARY).get("units_committed", 0)
    return units if isinstance(units, int) else 0


def _as_json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, indent=1).encode() + b"\n"
