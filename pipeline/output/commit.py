"""Commits one unit: data files with a name of this attempt, then one conditional put of the commit that names them."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import re
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import chain, groupby, islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.planning.pack import UNIT_DIGITS
from pipeline.schemas import DEAD_LETTER, REASONS, SAMPLE_RATE, TRANSCRIPT, WorkUnit, widened
from pipeline.storage.base import OutputError, Storage, delete_all, in_order

COMMITS, DATA = "commits/", "data/"
SCHEMAS = {"transcripts": TRANSCRIPT, "dead_letters": DEAD_LETTER}
EMPTY = {name: schema.empty_table() for name, schema in SCHEMAS.items()}
SAMPLES = ("in", "transcribed", "silence", "lost", "dead")  # at 16 kHz; "in" is the sum of the others
LEFT_OUT = ("audio_tracks", "bytes")  # what transcribed recordings have besides what was recognised; bytes: behind it
# What a commit counts of each recording. source_bytes: of its audio, as it was listed. unread_bytes: of an archive that
# cannot be read.
FIGURES = (*SAMPLES, *(f"left_out_{name}" for name in LEFT_OUT), "source_bytes", "unread_bytes")
DUPLICATE = "duplicate_id"  # the reason of a recording whose id an earlier one has
ATTEMPT_DIGITS = 16  # hex digits of an attempt's name
UNIT_BYTES = f"S{UNIT_DIGITS}"  # the type of unit ids in arrays
HEX = [f"{value:02x}" for value in range(256)]  # the first two digits of unit ids
SEQUENTIAL_KEYS = 2_000  # a longer listing is split into the 256 prefixes, which are listed in parallel


@dataclass(frozen=True, slots=True)
class Receipt:
    """What is committed for a unit. won False: another attempt committed it first, and these are its figures."""

    unit_id: str
    won: bool
    recordings: int
    transcribed: int  # recordings
    rows: int  # of transcripts
    dead: dict[str, int]  # recordings by reason
    samples: dict[str, int]  # at 16 kHz, by the names in SAMPLES
    by_recording: dict[str, list[Any]]  # of the unit, in its order: "reason" of a dead letter, "problem" of damage, ...


def new_attempt() -> str:
    """A random name for an attempt: 16 hex digits."""
    return uuid.uuid4().hex[:ATTEMPT_DIGITS]


def commit_unit(
    storage: Storage,
    unit: WorkUnit,
    attempt: str,
    transcripts: pa.Table,
    dead_letters: pa.Table,
    figures: Sequence[Mapping[str, int]],
    fingerprint: str,
) -> Receipt:
    """Commit the results of all recordings of `unit`, exactly once.

    If several attempts commit the same unit, the first one wins; the others delete their own data.

    transcripts, dead_letters: tables with exactly the schemas TRANSCRIPT and DEAD_LETTER. Every recording of the unit
    is in one of them. attempt: from `new_attempt`. figures: of each recording in the order of the unit, by the names in
    FIGURES; "dead" is `dead_samples` of its dead letter.
    Raises ValueError if the results do not agree with the unit, so that a bug in an earlier stage is never committed.
    """
    tables = {"transcripts": transcripts, "dead_letters": dead_letters}
    _check(unit, attempt, tables, figures, fingerprint)
    keys = {
        name: f"{DATA}{unit.unit_id}-{attempt}{suffix}.arrow"
        for name, suffix in (("transcripts", ""), ("dead_letters", ".dead"))
        if tables[name].num_rows
    }
    entries = in_order(
        lambda name: _put_table(storage, keys[name], tables[name]), keys, min(storage.parallel, len(keys))
    )
    data = dict(zip(keys, entries, strict=True))
    commit = commit_record(
        unit.unit_id, attempt, by_recording=_by_recording(unit, tables, figures), data=data, fingerprint=fingerprint
    )
    if storage.put_if_absent(commit_key(unit.unit_id), json.dumps(commit).encode()):
        return _receipt(commit, won=True)
    winner = read_commit(storage, unit.unit_id)
    winner_keys = {entry["key"] for entry in winner["data"].values()}
    delete_all(storage, set(keys.values()) - winner_keys)
    return _receipt(winner, won=False)


def commit_record(
    unit_id: str,
    attempt: str,
    *,
    by_recording: Mapping[str, Sequence[Any]],
    data: Mapping[str, Mapping[str, Any]],
    fingerprint: str,
) -> dict[str, Any]:
    """The content of commits/<2 hex>/<unit>.json, with the time and the host of this call.

    by_recording: lists with a value for each recording of the unit, in its order. "rows": of transcripts. "reason": of
    its dead letter, else None. "problem": of a damaged recording, else None. Then FIGURES. data: for each table its
    key, rows, bytes and sha256. The other entries are sums of by_recording.
    """
    sums = {name: sum(by_recording[name]) for name in FIGURES}
    reasons, sizes = by_recording["reason"], by_recording["source_bytes"]
    return {
        "unit_id": unit_id,
        "attempt": attempt,
        "recordings": len(reasons),
        "transcribed": reasons.count(None),
        "rows": sum(by_recording["rows"]),
        "dead": _counted(reasons),
        "damaged": _counted(by_recording["problem"]),
        "samples": {name: sums[name] for name in SAMPLES},
        "left_out": {name: sums[f"left_out_{name}"] for name in LEFT_OUT},
        "bytes": {
            "in": sums["source_bytes"] + sums["unread_bytes"],
            "dead": sum(size for size, reason in zip(sizes, reasons, strict=True) if reason),
            "unread": sums["unread_bytes"],
        },
        "archives_unread": sum(size > 0 for size in by_recording["unread_bytes"]),
        "by_recording": dict(by_recording),
        "data": dict(data),
        "fingerprint": fingerprint,
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "host": platform.node(),
    }


def commit_key(unit_id: str) -> str:
    """The object that contains the commit of a unit."""
    return f"{COMMITS}{unit_id[:2]}/{unit_id}.json"


def one_of(commit: Mapping[str, Any], index: int) -> dict[str, Any]:
    """The entries of a commit that are sums, for the recording at `index` of its unit alone."""
    lists = {name: [values[index]] for name, values in commit["by_recording"].items()}
    return commit_record(commit["unit_id"], "", by_recording=lists, data={}, fingerprint="")


def committed_units(storage: Storage) -> set[str]:
    """The ids of all committed units, from one listing. Memory: about 110 MB for a million."""
    return {_unit_of(key) for key in _list_by_unit(storage, COMMITS, "/")}


class Commits:
    """The committed units with the versions of their commits, from one listing. 16 and 8 bytes for each, and its id."""

    def __init__(self, storage: Storage) -> None:
        listed = [(_unit_of(key), version) for key, version in _list_versions(storage, COMMITS)]
        self.units = {unit for unit, _ in listed}
        self._ids = np.array([unit for unit, _ in listed], UNIT_BYTES)  # in order, as keys are listed
        self._versions = np.fromiter((_number_of(version) for _, version in listed), np.int64, len(listed))

    def versions_of(self, units: np.ndarray) -> np.ndarray:
        """int64: for each of these ids a number that changes when it is committed again; 0: it is not committed."""
        if not len(self._ids):
            return np.zeros(len(units), np.int64)
        at = np.minimum(np.searchsorted(self._ids, units), len(self._ids) - 1)
        return np.where(self._ids[at] == units, self._versions[at], 0)


def read_commits(storage: Storage) -> Iterator[dict[str, Any]]:
    """All commits in the order of their unit ids. Raises OutputError if one cannot be read."""
    yield from in_order(partial(_load, storage), _list_by_unit(storage, COMMITS, "/"), storage.parallel)


def read_commit(storage: Storage, unit_id: str) -> dict[str, Any]:
    """The commit of one unit. Raises FileNotFoundError if there is none, OutputError if it cannot be read."""
    return _load(storage, commit_key(unit_id))


def read_unit(storage: Storage, commit: Mapping[str, Any]) -> dict[str, pa.Table]:
    """The committed tables "transcripts" and "dead_letters". A table without rows has no file and is empty.

    Raises OutputError with the name of the file if it is missing, or if its checksum, schema or number of rows is not
    what the commit says.
    """
    entries = commit["data"]
    return {
        name: _verified(storage, entries[name], SCHEMAS[name]) if name in entries else EMPTY[name] for name in SCHEMAS
    }


def collect_garbage(storage: Storage) -> int:
    """Delete the data of attempts that lost: their unit is committed, so they can never be committed.

    Data of units that are not committed stays, because its writer may commit it soon. Returns how many objects were
    deleted.
    """
    deleted = 0
    for unit_id, group in groupby(_list_by_unit(storage, DATA, ""), key=_unit_of):
        keys = list(group)
        if len({_attempt_of(key) for key in keys}) < 2:
            continue  # of a single attempt: it has won, or may still commit
        try:
            commit = read_commit(storage, unit_id)
        except FileNotFoundError:
            continue
        for key in set(keys) - {entry["key"] for entry in commit["data"].values()}:
            storage.delete(key)
            deleted += 1
    return deleted


def encoded(table: pa.Table) -> bytes:
    """A table as an Arrow IPC file. Few and wide rows take a fraction of the time that Parquet takes."""
    sink = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
    with pa.ipc.new_file(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    return sink.getvalue()


def dead_samples(seconds: float | None) -> int:
    """The length of a dead letter in samples at 16 kHz. A recording of unknown length counts as 0."""
    return 0 if seconds is None else round(seconds * SAMPLE_RATE)


def _by_recording(
    unit: WorkUnit, tables: Mapping[str, pa.Table], figures: Sequence[Mapping[str, int]]
) -> dict[str, list[Any]]:
    """The lists of `commit_record`. Where an id occurs twice, a listed duplicate has the dead letter duplicate_id."""
    rows = Counter(tables["transcripts"]["recording_id"].to_pylist())
    problems = dict(
        zip(*(tables["transcripts"][name].to_pylist() for name in ("recording_id", "problem")), strict=True)
    )
    letters = tables["dead_letters"].select(["recording_id", "reason"]).to_pylist()
    reasons = {row["recording_id"]: row["reason"] for row in letters if row["reason"] != DUPLICATE}
    lists: dict[str, list[Any]] = {name: [each[name] for each in figures] for name in FIGURES}
    is_copy = [ref.problem == DUPLICATE for ref in unit.refs]
    ids = [ref.recording_id for ref in unit.refs]
    return {
        "rows": [0 if copy else rows[name] for name, copy in zip(ids, is_copy, strict=True)],
        "reason": [DUPLICATE if copy else reasons.get(name) for name, copy in zip(ids, is_copy, strict=True)],
        "problem": [None if copy else problems.get(name) for name, copy in zip(ids, is_copy, strict=True)],
        **lists,
    }


def _counted(reasons: Sequence[str | None]) -> dict[str, int]:
    """How often each reason occurs, in the order of reasons."""
    return dict(sorted(Counter(reason for reason in reasons if reason is not None).items()))


def _check(
    unit: WorkUnit,
    attempt: str,
    tables: Mapping[str, pa.Table],
    figures: Sequence[Mapping[str, int]],
    fingerprint: str,
) -> None:
    """Raises ValueError if the arguments of `commit_unit` do not agree with each other."""

    def demand(condition: bool, complaint: str) -> None:
        if not condition:
            raise ValueError(f"unit {unit.unit_id}: {complaint}")

    demand(re.fullmatch(r"[0-9A-Za-z_]+", attempt) is not None, f"{attempt!r} is not the name of an attempt")
    for name, table in tables.items():
        demand(table.schema.equals(SCHEMAS[name]), f"{name} has another schema:\n{table.schema}")
        demand(set(table["unit_id"].to_pylist()) <= {unit.unit_id}, f"{name} has rows of another unit")
        demand(set(table["fingerprint"].to_pylist()) <= {fingerprint}, f"{name} has rows of another fingerprint")
    transcripts, dead = tables["transcripts"], tables["dead_letters"]
    demand(transcripts["text"].null_count == 0, "a transcript has null text; it must be a dead letter")
    rows = Counter(zip(transcripts["recording_id"].to_pylist(), transcripts["segment_index"].to_pylist(), strict=True))
    demand(all(count == 1 for count in rows.values()), "a segment appears twice")
    answered = Counter({recording for recording, _ in rows}) + Counter(dead["recording_id"].to_pylist())
    planned = Counter(ref.recording_id for ref in unit.refs)
    demand(
        answered == planned,
        f"results are missing for {list(planned - answered)[:3]}, not planned are {list(answered - planned)[:3]}",
    )
    demand(set(dead["reason"].to_pylist()) <= set(REASONS), "a dead letter has an unknown reason")
    demand(len(figures) == len(unit.refs), f"figures of {len(figures)} recordings, not of {len(unit.refs)}")
    for each in figures:
        demand(set(each) == set(FIGURES), f"figures are {sorted(each)}")
        demand(all(isinstance(count, int) and count >= 0 for count in each.values()), f"figures are {dict(each)}")
        demand(each["in"] == sum(each[name] for name in SAMPLES[1:]), f"samples do not close: {dict(each)}")
    counted, in_letters = (
        sum(each["dead"] for each in figures),
        sum(dead_samples(seconds) for seconds in dead["seconds"].to_pylist()),
    )
    demand(counted == in_letters, f"{counted} dead samples, but {in_letters} in the dead letters")


def _put_table(storage: Storage, key: str, table: pa.Table) -> dict[str, Any]:
    """Write a data file. Returns its entry in the commit."""
    body = encoded(table)
    storage.put(key, body)
    return {"key": key, "rows": table.num_rows, "bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}


def _verified(storage: Storage, entry: Mapping[str, Any], schema: pa.Schema) -> pa.Table:
    """The table of one entry of a commit. Raises OutputError as `read_unit` does."""
    name = f"{storage.uri}/{entry['key']}"
    repair = "; delete its commit to transcribe the unit again"
    try:
        body = storage.get(entry["key"])
    except FileNotFoundError:
        raise OutputError(f"{name}: committed, but missing{repair}") from None
    if hashlib.sha256(body).hexdigest() != entry["sha256"]:
        raise OutputError(f"{name}: damaged: its checksum is not the committed one{repair}")
    try:
        table = _decoded(body, entry["key"])
    except ValueError as err:
        raise OutputError(f"{name}: {' '.join(str(err).split())}{repair}") from None
    if table.num_rows != entry["rows"]:
        raise OutputError(f"{name}: {table.num_rows} rows instead of {entry['rows']}{repair}")
    try:
        return widened(table, schema)
    except ValueError as err:
        raise OutputError(f"{name}: {err}; a newer fullcanvas wrote it: use that one") from None


def _decoded(body: bytes, key: str) -> pa.Table:
    """The table of a data file. Raises ValueError if it is none. Earlier versions wrote Parquet."""
    if key.endswith(".parquet"):
        return pq.ParquetFile(pa.BufferReader(body)).read(use_threads=False)
    return pa.ipc.open_file(body, options=pa.ipc.IpcReadOptions(use_threads=False)).read_all()


def _receipt(commit: Mapping[str, Any], *, won: bool) -> Receipt:
    names = ("unit_id", "recordings", "transcribed", "rows", "dead", "samples", "by_recording")
    return Receipt(won=won, **{name: commit[name] for name in names})


def _load(storage: Storage, key: str) -> dict[str, Any]:
    """The commit at `key`. Raises FileNotFoundError or OutputError as `read_commit` does."""
    try:
        commit: dict[str, Any] = json.loads(storage.get(key))
        if commit["unit_id"] == _unit_of(key):
            return commit
    except (ValueError, KeyError, TypeError):
        pass
    raise OutputError(f"{storage.uri}/{key}: not a commit of this unit; delete it to transcribe the unit again")


def _list_by_unit(storage: Storage, prefix: str, separator: str) -> Iterator[str]:
    """Keys `<prefix><2 hex><separator>...` in order. If there are many, the 256 prefixes are listed in parallel."""
    prefixes = _prefixes(storage, prefix, separator)
    yield from chain.from_iterable(in_order(lambda start: list(storage.list(start)), prefixes, storage.parallel))


def _list_versions(storage: Storage, prefix: str) -> Iterator[tuple[str, str]]:
    """The keys below `prefix` with their versions, in order; in parallel as in `_list_by_unit`."""
    for versions in in_order(storage.versions, _prefixes(storage, prefix, "/"), storage.parallel):
        yield from versions.items()


def _prefixes(storage: Storage, prefix: str, separator: str) -> list[str]:
    """What to list to get all keys below `prefix` in order: the 256 prefixes if that is worth it."""
    is_worth_it = storage.parallel > 1 and next(islice(storage.list(prefix), SEQUENTIAL_KEYS, None), None)
    return [f"{prefix}{digits}{separator}" for digits in HEX] if is_worth_it else [prefix]


def _number_of(version: str) -> int:
    """63 bits of a hash of a version, not 0."""
    return int.from_bytes(hashlib.blake2b(version.encode(), digest_size=8).digest()) >> 1 or 1


def _unit_of(key: str) -> str:
    return key.rpartition("/")[2][:UNIT_DIGITS]


def _attempt_of(key: str) -> str:
    return key.rpartition("/")[2][UNIT_DIGITS + 1 :].partition(".")[0]
