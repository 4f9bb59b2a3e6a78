"""The parts of the published tables: which units are in each, and whether it is published as it would be now."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.output.calibrator import calibrator_id
from pipeline.output.commit import DUPLICATE, SCHEMAS, UNIT_BYTES, Commits
from pipeline.output.rounds import Results
from pipeline.planning.fingerprint import fingerprint_id
from pipeline.planning.left import unit_runs
from pipeline.planning.pack import Pointer
from pipeline.planning.plan import read_columns, read_fingerprint
from pipeline.storage.base import Storage, read_json

SUMMARY = "_run/summary.json"
CONFIG = "_run/config.yaml"  # the settings of the last run
PUBLISHED = "_run/published.json"  # "versions" of all files of both tables; "parts": the ledger
REST = "rest"  # the name of the part without a number


@dataclass(slots=True)
class Part:
    """Units whose results are published together.

    number: of its files; None: units that only have results of recordings of other parts, after a retry or an update.
    plan, row_groups: where its units are planned. units: ids of the committed ones in order. elsewhere: by recording id
    the unit whose result counts, if that is not its own one. dropped: ids of recordings without a result that counts.
    superseded: results that count no longer. digest: changes whenever what would be published of it changes.
    """

    number: int | None
    plan: str
    row_groups: list[int] = field(default_factory=list)
    units: np.ndarray = field(default_factory=lambda: np.array([], UNIT_BYTES))
    elsewhere: dict[str, str] = field(default_factory=dict)
    dropped: set[str] = field(default_factory=set)
    superseded: list[Pointer] = field(default_factory=list)
    digest: str = ""

    @property
    def name(self) -> str:
        """Its name in the ledger."""
        return REST if self.number is None else str(self.number)

    def unit_ids(self) -> Iterator[str]:
        """The ids of its committed units."""
        return (unit.decode() for unit in self.units.tolist())


def read_ledger(storage: Storage) -> dict[str, dict[str, Any]]:
    """What the last publication has noted of each part, by name: digest, rows of each table, tally, versions."""
    ledger: dict[str, dict[str, Any]] = read_json(storage, PUBLISHED).get("parts", {})
    return ledger


def parts_of(storage: Storage, names: list[str], commits: Commits, results: Results) -> list[Part]:
    """The parts of all plans `names` in order, and at the end the one without a number. The first one is always there.

    Of the plans only ids are read. Memory: 16 bytes for each committed unit.
    """
    rest = Part(None, "", superseded=results.superseded)
    parts: dict[int, Part] = {}
    found: dict[int | None, list[np.ndarray]] = {}
    for name in names:
        for index, ids, numbers, recordings in _row_groups(storage, name, results):
            for number, units in _by_part(ids, numbers):
                part = rest if number is None else parts.setdefault(number, Part(number, name))
                found.setdefault(number, []).append(np.array(units, UNIT_BYTES))
                part.row_groups.append(index)
            for number, unit_id, recording in recordings:
                _note_result(parts[number], unit_id, recording, results)
    if names:
        parts.setdefault(0, Part(0, names[0]))
    made_by = [fingerprint_id(read_fingerprint(storage)), calibrator_id(storage)] if names else []
    for part in (everything := [*(parts[number] for number in sorted(parts)), rest]):
        _close(part, found.get(part.number, []), commits, made_by)
    return everything


def _row_groups(
    storage: Storage, name: str, results: Results
) -> Iterator[tuple[int, list[str], list[int | None], list[tuple[int, str, str]]]]:
    """Of each row group of a plan: its number, the ids of its units, their parts, and the recordings tried again.

    The latter as part, unit and recording.
    """
    again = pa.array({*results.current, *results.dropped}, pa.string())
    columns = ["unit_id", "part", *(["recording_id", "problem"] if len(again) else [])]
    for index, table in enumerate(read_columns(storage, name, columns)):
        runs = list(unit_runs(table["unit_id"].combine_chunks()))
        numbers = table["part"].take(pa.array([first for _, first, _ in runs], pa.int64())).to_pylist()
        recordings = []
        if len(again):
            is_again = pc.and_(pc.is_in(table["recording_id"], again), pc.is_valid(table["part"]))
            is_first = pc.fill_null(pc.not_equal(table["problem"], DUPLICATE), True)
            rows = table.filter(pc.and_(is_again, is_first)).select(["part", "unit_id", "recording_id"])
            recordings = [tuple(row.values()) for row in rows.to_pylist()]
        yield index, [unit_id for unit_id, _, _ in runs], numbers, recordings


def _by_part(ids: list[str], numbers: list[int | None]) -> Iterator[tuple[int | None, list[str]]]:
    for number, group in groupby(zip(numbers, ids, strict=True), key=itemgetter(0)):
        yield number, [unit_id for _, unit_id in group]


def _note_result(part: Part, unit_id: str, recording: str, results: Results) -> None:
    if recording in results.current and (elsewhere := results.current[recording][0]) != unit_id:
        part.elsewhere[recording] = elsewhere
    if recording in results.dropped:
        part.dropped.add(recording)


def _close(part: Part, units: list[np.ndarray], commits: Commits, made_by: list[str]) -> None:
    """Set the committed units of a part, and its digest. made_by: ids of the settings and of the calibrator."""
    ids = np.concatenate([part.units, *units])
    versions = commits.versions_of(ids)
    part.units = ids[versions != 0]
    others = np.array(sorted({*part.elsewhere.values(), *(unit for unit, _ in part.superseded)}), UNIT_BYTES)
    content = [*made_by, *(str(schema) for schema in SCHEMAS.values())]
    content += [repr(sorted(part.elsewhere.items())), repr(sorted(part.dropped)), repr(sorted(part.superseded))]
    digest = hashlib.blake2b("\n".join(content).encode(), digest_size=16)
    for array in (ids, versions, others, commits.versions_of(others)):
        digest.update(array.tobytes())
    part.digest = digest.hexdigest()


def is_known(entry: Mapping[str, Any], part: Part) -> bool:
    """Whether an entry of the ledger describes what would be published of this part."""
    return bool(entry["digest"] == part.digest)
