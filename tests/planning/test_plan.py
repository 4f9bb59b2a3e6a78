"""Tests of the plan: it is written once, read as a stream and by place, and says what is left to do."""

from __future__ import annotations

import dataclasses
import json
import threading
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import ConfigError, PlanConfig, SourceConfig
from pipeline.output.commit import committed_units
from pipeline.planning import plan as planning
from pipeline.planning.fingerprint import fingerprint_id
from pipeline.planning.left import read_units_left, units_left, unread_recordings
from pipeline.planning.pack import PlannedUnit, mark_duplicates, pack_units, with_parts
from pipeline.planning.plan import (
    BASE,
    PlanReader,
    ensure_plan,
    plan_key,
    plan_names,
    plan_size,
    read_fingerprint,
    read_plan,
    round_number,
    unit_ids,
    write_plan,
)
from pipeline.schemas import PLAN, UNIT_LEFT, Place, RecordingRef
from pipeline.storage.base import OutputError, Storage, open_storage
from tests.planning.test_pack import CONFIGS, REFS
from tests.support.outputs import FINGERPRINT, UNITS, commit, left, plan, ref


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "out"))


@settings(deadline=None, max_examples=50)
@given(REFS, CONFIGS, st.integers(1, 100))
def test_a_plan_reads_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, refs: list[RecordingRef], config: PlanConfig, part_rows: int
) -> None:
    storage = open_storage(str(tmp_path_factory.mktemp("plan")))
    planned = list(with_parts(pack_units(mark_duplicates(refs), config), part_rows))
    assert write_plan(storage, BASE, planned)
    assert list(read_plan(storage)) == planned
    assert unit_ids(storage) == {entry.unit.unit_id for entry in planned}
    size = plan_size(storage)
    assert (size.units, size.recordings) == (len(planned), len(refs))
    assert size.bytes == sum(item.size for item in refs)


def test_the_plan_schema_carries_every_field_of_a_ref() -> None:
    assert tuple(PLAN.names[6:]) == tuple(field.name for field in dataclasses.fields(RecordingRef))


def test_planning_streams(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = 0

    def listing() -> Iterator[RecordingRef]:
        nonlocal listed
        for number in range(10_000):
            listed += 1
            yield ref(number)

    next(pack_units(listing(), UNITS))
    assert listed == 4
    monkeypatch.setattr(planning, "ROW_GROUP", 500)
    tracemalloc.start()
    write_plan(storage, BASE, (PlannedUnit(unit) for unit in pack_units(listing(), UNITS)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert plan_size(storage).recordings == 10_000
    assert peak < 3_000_000  # a row group, not 10,000 recordings


def _ensure(storage: Storage, **fingerprint: object) -> str:
    return ensure_plan(storage, SourceConfig(uri="/in"), UNITS, part_rows=10, fingerprint=FINGERPRINT | fingerprint)


def test_a_plan_is_written_once_and_racing_drivers_share_it(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four drivers list at the same time, one of them with other settings. One plan is written, with its settings."""
    barrier = threading.Barrier(4, timeout=100)
    listed: list[int] = []

    def make_plan(source: SourceConfig, config: PlanConfig, *_: object) -> object:
        assert source.uri == "/in"
        barrier.wait()
        listed.append(len(listed))
        return pack_units([ref(f"{len(listed)}-{number}") for number in range(20)], config)

    monkeypatch.setattr(planning, "make_plan", make_plan)
    outcomes: list[object] = []

    def drive(seed: int) -> None:
        try:
            outcomes.append(_ensure(storage, **{"denoise.seed": seed}))
        except ConfigError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=drive, args=(seed,)) for seed in (1, 1, 1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(listed) == 4
    seed = read_fingerprint(storage)["denoise.seed"]
    fingerprint = fingerprint_id(FINGERPRINT | {"denoise.seed": seed})
    assert Counter(outcome for outcome in outcomes if isinstance(outcome, str)) == {fingerprint: 3 if seed == 1 else 1}
    first = list(read_plan(storage))
    assert len({entry.unit.refs[0].recording_id.split("-")[0] for entry in first}) == 1
    _ensure(storage, **{"denoise.seed": seed})  # it lists nothing: the barrier would wait
    assert list(read_plan(storage)) == first
    assert json.loads(storage.get("_run/fingerprint.json")) == FINGERPRINT | {"denoise.seed": seed}


def test_a_resume_with_another_fingerprint_is_refused_before_the_source_is_listed(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "make_plan", lambda _, config, *more: pack_units([ref(1)], config))
    assert _ensure(storage) == _ensure(storage) == fingerprint_id(FINGERPRINT)
    monkeypatch.delattr(planning, "make_plan")
    with pytest.raises(ConfigError, match=r"denoise\.max_steps was 16, now 8"):
        _ensure(storage, **{"denoise.max_steps": 8})


def test_a_source_that_cannot_be_listed_leaves_no_plan(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Iterator[object]:
        yield from pack_units([ref(1), ref(2)], PlanConfig(unit_recordings=1))
        raise ConfigError("source.uri: gone")

    monkeypatch.setattr(planning, "make_plan", broken)
    with pytest.raises(ConfigError, match="gone"):
        _ensure(storage)
    assert list(storage.list("")) == []


def test_todo_is_the_plan_without_what_is_committed(storage: Storage) -> None:
    fingerprint = plan(storage, [ref(number) for number in range(10)])
    units = left(storage)
    assert [len(unit.refs) for unit in units] == [3, 3, 3, 1]
    for unit in (units[2], units[0]):
        commit(storage, unit, fingerprint)
    assert left(storage) == [units[1], units[3]]
    places = units_left(storage, committed_units(storage))
    assert places.schema == UNIT_LEFT
    assert places["unit_id"].to_pylist() == [units[1].unit_id, units[3].unit_id]
    assert len(units_left(storage, {unit.unit_id for unit in units})) == 0


def test_archives_that_cannot_be_read_weigh_by_their_bytes_until_they_are_committed(storage: Storage) -> None:
    bad = [
        RecordingRef(f"{name}!archive", "webdataset", f"/in/{name}", size=18_000, problem="corrupt_archive")
        for name in "xy"
    ]
    fingerprint = plan(storage, [*(ref(number) for number in range(4)), *bad])
    assert [len(unit.refs) for unit in left(storage)] == [3, 3]
    assert unread_recordings(storage, frozenset()) == 36 - 2
    commit(storage, left(storage)[1], fingerprint)
    assert unread_recordings(storage, committed_units(storage)) == 0


def test_rows_of_a_unit_stay_in_one_row_group(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "ROW_GROUP", 7)
    plan(storage, [ref(number) for number in range(50)])
    with storage.open(plan_key(BASE)) as stream, pq.ParquetFile(stream) as file:
        groups = [set(file.read_row_group(i)["unit_id"].to_pylist()) for i in range(file.num_row_groups)]
    assert len(groups) > 3
    assert sum(len(group) for group in groups) == len(set.union(*groups)) == 17
    assert [item for unit in left(storage) for item in unit.refs] == [ref(number) for number in range(50)]


@settings(deadline=None, max_examples=50)
@given(REFS, CONFIGS, st.integers(1, 20), st.randoms())
def test_every_unit_is_read_back_from_its_place(
    tmp_path_factory: pytest.TempPathFactory, refs: list[RecordingRef], config: PlanConfig, group: int, dice: Random
) -> None:
    """In any order, across row groups and rounds; each of its recordings by itself as well."""
    storage = open_storage(str(tmp_path_factory.mktemp("plan")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "ROW_GROUP", group)
        for number, name in enumerate((BASE, "round-1")):
            write_plan(storage, name, with_parts(pack_units(mark_duplicates(refs), config, number=number), 10))
    units = list(read_units_left(storage, frozenset()))
    places = [(row["unit_id"], Place(**row["place"])) for row in units_left(storage, frozenset()).to_pylist()]
    assert [unit_id for unit_id, _ in places] == [unit.unit_id for unit in units]
    reader = PlanReader(storage)
    pairs = list(zip(units, places, strict=True))
    dice.shuffle(pairs)
    for unit, (unit_id, place) in pairs:
        assert reader.unit(unit_id, place) == unit
        alone = [reader.unit(unit_id, place.recording(index)).refs for index in range(len(unit.refs))]
        assert alone == [(item,) for item in unit.refs]


@pytest.mark.parametrize(
    "place", [Place(BASE, 0, 3, 3), Place(BASE, 0, 0, 4), Place(BASE, 0, 1000, 3), Place(BASE, 9, 0, 3)]
)
def test_a_unit_that_is_not_at_its_place_is_an_error_that_names_the_plan(storage: Storage, place: Place) -> None:
    plan(storage, [ref(number) for number in range(10)])
    with pytest.raises(OutputError, match=r"_run/plan\.parquet: unit \w+ is not at its place in the plan"):
        PlanReader(storage).unit(left(storage)[0].unit_id, place)


def test_rounds_are_ordered_by_number(storage: Storage) -> None:
    assert plan_names(storage) == []
    for name in (BASE, *(f"round-{number}" for number in (10, 2, 1))):
        write_plan(storage, name, [])
    storage.put("_run/round-notes.parquet", b"")
    assert plan_names(storage) == ["plan", "round-1", "round-2", "round-10"]
    assert [round_number(name) for name in ("plan", "round-7", "round-x")] == [0, 7, 0]


@pytest.mark.parametrize("content", [b"", b"PAR1 not parquet", b"x" * 10_000])
def test_a_damaged_plan_is_named_in_one_line(storage: Storage, content: bytes) -> None:
    storage.put(plan_key(BASE), content)
    with pytest.raises(OutputError) as error:
        list(read_plan(storage))
    assert "_run/plan.parquet" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_plan_that_is_damaged_behind_its_beginning_is_named_in_one_line(storage: Storage) -> None:
    plan(storage, [ref(number) for number in range(9)])
    body = bytearray(storage.get(plan_key(BASE)))
    body[4:200] = bytes(196)  # the footer is whole
    storage.put(plan_key(BASE), bytes(body))
    with pytest.raises(OutputError, match=r"_run/plan\.parquet: damaged or cut off: .+"):
        list(read_plan(storage))
