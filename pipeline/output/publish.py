"""Publishes the committed results: two tables that DuckDB, Spark and pandas read, the accounting and a summary.

A local table is replaced as a whole. In an object store that is impossible: its parts are replaced one by one. So the
plan decides which recordings are in which part, and that never changes. A reader may see old and new parts together,
but every recording at most once.

If two publications run at the same time, the older one may overwrite parts of the newer one. So every publication ends
with a check, after it has written its summary: are all parts its own? If not, it publishes again. The publication that
ends last sees everything that the other one has written. If a publication is killed before its check, `is_published`
is False and the next run publishes.
"""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from functools import lru_cache
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.config import ConfigError
from pipeline.output.accounting import Tally
from pipeline.output.commit import DUPLICATE, SCHEMAS, collect_garbage, committed_units, read_commit, read_unit
from pipeline.output.rounds import Results, current_results, planned_now
from pipeline.planning.fingerprint import fingerprint_id
from pipeline.planning.pack import PlannedUnit
from pipeline.planning.plan import ignored_files, plan_names, read_fingerprint, read_plan
from pipeline.planning.update import last_changes
from pipeline.schemas import DEAD_LETTER, TRANSCRIPT, WorkUnit
from pipeline.storage.base import OutputError, Replacement, Storage, clear_abandoned, in_order, read_json
from pipeline.storage.patience import retries

ROW_GROUP = 16_384  # rows: so many are written together
MAX_PUBLICATIONS = 10  # how often to publish, if other drivers publish at the same time
ACCOUNTING, SUMMARY = "_run/accounting.json", "_run/summary.json"
PUBLISHED = "_run/published.json"  # the version of each part, by key
TABLES = ("dead_letters", "transcripts")
Tables = dict[str, pa.Table]  # by the names in TABLES


class _Overtaken(Exception):
    """Another driver published while this publication was running."""


class _TableWriter:
    """Writes one table, part by part. A part without rows has the schema too."""

    def __init__(self, target: Replacement, schema: pa.Schema, overtaken: Callable[[], bool]) -> None:
        self._target, self._schema, self._overtaken = target, schema, overtaken
        self._writer: pq.ParquetWriter | None = None
        self._part = -1
        self._buffer: list[pa.Table] = []
        self._buffered_rows = 0
        self.rows = 0

    def start(self, part: int) -> None:
        """The following rows belong to `part`. Parts come in ascending order."""
        if part != self._part:
            self.finish()
            self._part = part
            path = self._target.path(self._name())
            self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")

    def write(self, table: pa.Table) -> None:
        """Append rows to the current part."""
        self.rows += table.num_rows
        self._buffered_rows += table.num_rows
        self._buffer.append(table)
        if self._buffered_rows >= ROW_GROUP:
            self._flush()

    def finish(self) -> None:
        """Complete the current part. Raises _Overtaken if another driver has published meanwhile."""
        if self._writer:
            self._flush()
            self._writer.close()
            self._writer = None
            if self._overtaken():
                raise _Overtaken
            self._target.add(self._name())

    def _flush(self) -> None:
        assert self._writer
        rows = pa.concat_tables([self._schema.empty_table(), *self._buffer])
        if rows.num_rows:
            self._writer.write_table(rows.combine_chunks())
        self._buffer, self._buffered_rows = [], 0

    def _name(self) -> str:
        return f"part-{self._part:05d}.parquet"


def publish_tables(
    storage: Storage, *, notes: Mapping[str, Any] | None = None, progress: Callable[[int], None] | None = None
) -> dict[str, Any]:
    """Publish everything that is committed now. Returns the content of _run/summary.json, which includes `notes`.

    It may run at any time and as often as you like; the same commits give the same bytes. Every data file is compared
    with its commit and every unit with the plan. If another driver publishes meanwhile, this one publishes again.
    Afterwards the data of lost attempts is deleted. `progress` is called with the number of units read so far.

    Raises ConfigError if nothing is planned. Raises OutputError, one line that names the file, if the output is damaged
    or if the books of a complete run do not close; the tables that were published before stay readable.
    """
    names = plan_names(storage)
    if not names:
        raise ConfigError(f"output.uri: {storage.uri}: nothing is planned here yet")
    for number in range(MAX_PUBLICATIONS):
        started = time.monotonic()
        with contextlib.suppress(_Overtaken):
            summary = _publish_once(storage, names, dict(notes or {}), progress)
            collect_garbage(storage)
            clear_abandoned(storage)
            return summary
        took = time.monotonic() - started
        time.sleep(random.uniform(0, 2 + number) * took)  # a random time, so that two drivers do not meet again
    raise OutputError(f"{storage.uri}: other drivers keep publishing here; run publish=true after they have ended")


def is_published(storage: Storage, committed: int) -> bool:
    """Whether the tables contain exactly `committed` units of all plans, and all parts are from one publication."""
    written, summary = read_json(storage, PUBLISHED), read_json(storage, SUMMARY)
    is_all = _published_units(storage) == committed and summary.get("plans") == len(plan_names(storage))
    return bool(written) and is_all and written == _versions(storage)


def refreshed_summary(storage: Storage) -> dict[str, Any]:
    """The summary of the last publication, with what the last comparison of the source has found. It is kept so."""
    summary = read_json(storage, SUMMARY)
    if summary.get("source_changes") != (found := asdict(last_changes(storage))):
        summary["source_changes"] = found
        storage.put(SUMMARY, _as_json(summary))
    return summary


def _publish_once(
    storage: Storage, names: list[str], notes: dict[str, Any], progress: Callable[[int], None] | None
) -> dict[str, Any]:
    """Publish what is committed now, and return the summary. Raises _Overtaken if another driver publishes too."""
    before = _published_units(storage)
    fingerprint = fingerprint_id(read_fingerprint(storage))
    committed = committed_units(storage)
    results = current_results(storage, names, committed)
    tally = Tally(*planned_now(storage, names, committed, results))
    for planned in chain.from_iterable(read_plan(storage, name, placed=False) for name in names[1:]):
        if planned.unit.unit_id in committed:
            tally.add(read_commit(storage, planned.unit.unit_id))
    for unit_id, index in results.superseded:
        tally.supersede(read_commit(storage, unit_id), index)

    def overtaken() -> bool:
        """Whether another driver has published meanwhile, and more units than this publication contains."""
        now = _published_units(storage)
        # A user may have deleted commits. Then `before` is too large, but it does not change.
        return now != before and now > len(committed)

    with storage.replace("dead_letters") as dead_letters, storage.replace("transcripts") as transcripts:
        writers = {
            "transcripts": _TableWriter(transcripts, TRANSCRIPT, overtaken),
            "dead_letters": _TableWriter(dead_letters, DEAD_LETTER, overtaken),
        }
        _write_tables(storage, names, committed, results, fingerprint, tally, writers, progress)
        _check_books(storage, tally, writers)
    if overtaken():
        raise _Overtaken
    written = dead_letters.versions | transcripts.versions
    summary = (
        _summary(tally)
        | {"ignored_files": ignored_files(storage)}
        | {"plans": len(names), "source_changes": asdict(last_changes(storage))}
        | notes
    )
    storage.put(SUMMARY, _as_json(summary))
    storage.put(PUBLISHED, _as_json(written))
    if _versions(storage) != written:
        raise _Overtaken
    return summary


def _versions(storage: Storage) -> dict[str, str]:
    """The version of each part that is in the storage now, by key."""
    return {key: version for name in TABLES for key, version in storage.versions(f"{name}/").items()}


def _write_tables(
    storage: Storage,
    names: list[str],
    committed: set[str],
    results: Results,
    fingerprint: str,
    tally: Tally,
    writers: Mapping[str, _TableWriter],
    progress: Callable[[int], None] | None,
) -> None:
    """Write both tables in the order of the plans `names`, and count every commit of a unit with a part in `tally`.

    committed: ids of units. fingerprint: id that all commits must have. Raises OutputError if a unit is damaged or does
    not agree with the plan.
    """

    def load(planned: PlannedUnit) -> tuple[PlannedUnit, dict[str, Any] | None, Tables]:
        if planned.unit.unit_id not in committed:
            return planned, None, {name: schema.empty_table() for name, schema in SCHEMAS.items()}
        commit = read_commit(storage, planned.unit.unit_id)
        return planned, commit, read_unit(storage, commit)

    @lru_cache(maxsize=4)  # a round of retries has the order of the plan, so neighbours are in the same unit
    def load_later(unit_id: str) -> Tables:
        commit = read_commit(storage, unit_id)
        _check_unit(storage, commit, fingerprint)
        return read_unit(storage, commit)

    writers["dead_letters"].start(0)  # few rows: a single part
    writers["transcripts"].start(0)
    units = chain.from_iterable(read_plan(storage, name, placed=True) for name in names)
    for done, (planned, commit, own) in enumerate(in_order(load, units, storage.parallel), start=1):
        unit = planned.unit
        writers["transcripts"].start(planned.part or 0)
        ids = [ref.recording_id for ref in unit.refs]
        if commit:
            tally.add(commit)
            _check_unit(storage, commit, fingerprint)
            _check_recordings(storage, unit, ids, own)
        elsewhere = {
            ref.recording_id: results.current[ref.recording_id][0]
            for ref in unit.refs
            if ref.recording_id in results.current and ref.problem != DUPLICATE
        }
        elsewhere = {name: unit_id for name, unit_id in elsewhere.items() if unit_id != unit.unit_id}
        if elsewhere:
            own = _with_retries(own, {one: load_later(one) for one in set(elsewhere.values())}, elsewhere)
            _check_recordings(storage, unit, ids if commit else list(elsewhere), own)
        own = _without(own, results.dropped.intersection(ids))
        for name, table in own.items():
            writers[name].write(_ordered(table, ids))
        if progress:
            progress(done)
    for writer in writers.values():
        writer.finish()


def _with_retries(own: Tables, rounds: Mapping[str, Tables], elsewhere: Mapping[str, str]) -> Tables:
    """The tables of a unit, in which results of other units replace those of some recordings.

    rounds: tables of the other units, by unit id. elsewhere: the unit whose result counts, by recording id.
    """
    merged = {name: [table] for name, table in _without(own, elsewhere).items()}
    for unit_id, tables in sorted(rounds.items()):
        ids = [recording for recording, unit in elsewhere.items() if unit == unit_id]
        for name, sources in merged.items():
            sources.append(tables[name].filter(_is_of(tables[name], ids)))
    return {name: pa.concat_tables(sources) for name, sources in merged.items()}


def _without(own: Tables, ids: Iterable[str]) -> Tables:
    """The tables of a unit without the results of these recordings."""
    return {name: table.filter(pc.invert(_is_of(table, ids))) for name, table in own.items()} if ids else own


def _is_of(table: pa.Table, ids: Iterable[str]) -> pa.Array:
    """Which rows are results of these recordings. Those of another recording with the same id are not."""
    is_of = pc.is_in(table["recording_id"], pa.array(sorted(ids), pa.string()))
    return pc.and_(is_of, pc.not_equal(table["reason"], DUPLICATE)) if "reason" in table.schema.names else is_of


def _ordered(table: pa.Table, ids: list[str]) -> pa.Table:
    """Rows in the order of `ids`, the segments of a recording in their order."""
    place = pc.index_in(table["recording_id"], pa.array(list(dict.fromkeys(ids)), pa.string()))
    keys = pa.table(
        {"place": place, "segment": table["segment_index"] if "segment_index" in table.schema.names else place}
    )
    return table.take(pc.sort_indices(keys, [("place", "ascending"), ("segment", "ascending")]))


def _check_unit(storage: Storage, commit: Mapping[str, Any], fingerprint: str) -> None:
    if commit["fingerprint"] != fingerprint:
        unit = f"{storage.uri}: unit {commit['unit_id']}"
        raise OutputError(f"{unit} was committed under fingerprint {commit['fingerprint']}, not {fingerprint}")


def _check_recordings(storage: Storage, unit: WorkUnit, ids: Iterable[str], own: Tables) -> None:
    """Raises OutputError unless each of `ids` has transcripts or a dead letter, exactly once."""
    answered = Counter(own["transcripts"]["recording_id"].unique().to_pylist())
    answered.update(own["dead_letters"]["recording_id"].to_pylist())
    if answered != Counter(ids):
        raise OutputError(f"{storage.uri}: unit {unit.unit_id} does not contain the recordings of its plan")


def _check_books(storage: Storage, tally: Tally, writers: Mapping[str, _TableWriter]) -> None:
    """Write _run/accounting.json. Raises OutputError if the books do not close or do not agree with the tables."""
    storage.put(ACCOUNTING, _as_json(tally.report()))
    complaints = tally.complaints()
    for name, counted in (("transcripts", tally.rows), ("dead_letters", tally.dead.total())):
        if writers[name].rows != counted:
            complaints.append(f"{writers[name].rows} rows of {name}, but {counted} in the commits")
    if complaints:
        raise OutputError(f"{storage.uri}/{ACCOUNTING}: the books do not close: {'; '.join(complaints)}")


def _summary(tally: Tally) -> dict[str, Any]:
    report = tally.report()
    same_names = (
        *("closed", "complete", "units_planned", "units_committed", "dead_letters", "damaged", "segments", "left_out"),
        *("recordings_damaged", "recordings_unread", "bytes_unread"),
    )
    return {
        **{name: report[name] for name in same_names},
        "recordings": report["recordings_planned"],
        "recordings_transcribed": report["recordings_transcribed"],
        "recordings_dead_lettered": report["recordings_dead_lettered"],
        "audio_hours": round(report["seconds_in"] / 3600, 4),
        "storage_retries": dict(retries),
        "published": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _published_units(storage: Storage) -> int:
    """How many units the last publication contains, as its summary says."""
    units = read_json(storage, SUMMARY).get("units_committed", 0)
    return units if isinstance(units, int) else 0


def _as_json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, indent=1).encode() + b"\n"
