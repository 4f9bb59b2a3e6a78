"""What planning costs: recordings are planned, half of the units committed, the rest resumed, the books closed.

Every size runs in a process of its own, which does what the driver of a run does.

- Plan: recordings, as a listing yields them, are checked for duplicates, packed and written.
- Resume: the ids of the committed units are listed; the places of the others are read from the plan. Both stay in
  memory to the end, as in a run.
- Account: every commit is read, and the books are closed.

Not in `seconds`: the listing of the source, which depends on its format and its store (`list_seconds` is the time for a
local JSONL manifest with one line per unit), and the commits, which a run makes over days. Their figures are made up.
With "memory" the commits are made up as they are read, so that our code is measured and not the disk or the network.
With "files" each commit is a file, as in a local output, written without waiting for the disk.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import re
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Sequence, Set
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Literal, TypeVar

import pyarrow as pa

from pipeline.config import PlanConfig, SourceConfig
from pipeline.output.accounting import close_books
from pipeline.output.commit import COMMITS, FIGURES, commit_key, commit_record, committed_units
from pipeline.planning.left import units_left
from pipeline.planning.pack import mark_duplicates, pack_units, with_parts
from pipeline.planning.plan import BASE, plan_key, unit_ids, write_plan
from pipeline.schemas import SAMPLE_RATE, RecordingRef
from pipeline.sources.formats import list_recordings
from pipeline.storage.local import LocalStorage
from pipeline.storage.scratch import scratch_folder

T = TypeVar("T")
Commits = Literal["memory", "files"]

SIZES = ((10_000, 1), (100_000, 1), (1_000_000, 1), (100_000, 256))  # units, recordings in each
PEAK_MB = 1_500  # the memory that a driver may take, whatever the size
SECONDS = 600.0  # audio of a unit
SAMPLES_EACH = round(SECONDS * SAMPLE_RATE)
ROWS = 40  # transcript rows of a unit with one recording; with more recordings: one row each
PART_ROWS = 100_000
UNIT = b"UNIT"  # stands for the id in what all commits have in common
STEPS = ("plan", "resume", "account")
SHOWN = (
    "units",
    "recordings",
    "seconds",
    *(f"{step}_seconds" for step in STEPS),
    "cpu_seconds",
    "list_seconds",
    "peak_rss_mb",
)
COLUMNS = {name: max(len(name), len("1,000,000")) for name in SHOWN}  # widths


class MadeUpCommits(LocalStorage):
    """A directory whose commits are no files: those of `units` (ids, ordered) are made up when they are read.

    recordings: how many each unit has.
    """

    def __init__(self, root: Path, units: Sequence[str] = (), recordings: int = 1) -> None:
        super().__init__(root)
        self.units = units
        self.recordings = recordings

    def get(self, key: str) -> bytes:
        return made_up_commit(key[-21:-5], self.recordings) if key.startswith(COMMITS) else super().get(key)

    def versions(self, prefix: str) -> dict[str, str]:
        return dict.fromkeys(self.list(prefix), "1") if prefix.startswith(COMMITS) else super().versions(prefix)

    def list(self, prefix: str) -> Iterator[str]:
        if not prefix.startswith(COMMITS):
            yield from super().list(prefix)
            return
        digits = prefix.removeprefix(COMMITS).rstrip("/")
        first, end = (bisect_left(self.units, bound) for bound in (digits, f"{digits}g"))  # hex ends before "g"
        for index in range(first, end):
            yield commit_key(self.units[index])


def made_up_commit(unit_id: str, recordings: int = 1) -> bytes:
    """The commit of a unit whose recordings were all transcribed."""
    return _commit_template(recordings).replace(UNIT, unit_id.encode())


@functools.cache
def _commit_template(recordings: int) -> bytes:
    unit, rows = UNIT.decode(), ROWS if recordings == 1 else recordings
    data = {"key": f"data/{unit}-{'0' * 16}.arrow", "rows": rows, "bytes": 20_000, "sha256": "0" * 64}
    figures = dict.fromkeys(FIGURES, 0) | {"in": SAMPLES_EACH, "transcribed": SAMPLES_EACH}
    lists: dict[str, list[Any]] = {name: [value] * recordings for name, value in figures.items()}
    lists |= {"rows": [rows // recordings] * recordings, "reason": [None] * recordings, "problem": [None] * recordings}
    record = commit_record(
        unit,
        "0" * 16,
        by_recording=lists,
        data={"transcripts": data},
        fingerprint="0" * 16,
    )
    return json.dumps(record).encode()


def measure(sizes: Sequence[tuple[int, int]] = SIZES, *, commits: Commits = "memory") -> Iterator[dict[str, Any]]:
    """One row per size (units, recordings in each), as it is measured: seconds of all steps, peak_rss_mb, and more."""
    for units, each in sizes:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as child:
            yield child.submit(measure_here, units, each, commits).result()


def measure_here(units: int, each: int, commits: Commits) -> dict[str, Any]:
    """The row of one size, measured in this process: its peak is that of the process. `each`: recordings in a unit.

    Raises RuntimeError where a unit is lost.
    """
    clock = _Clock()
    with scratch_folder("bench-") as folder:
        manifest = folder / "manifest.jsonl"
        write_manifest(manifest, units)
        source = SourceConfig(uri=str(manifest), format="manifest", root="s3://archive")
        clock.time("list", lambda: deque(list_recordings(source), maxlen=0))
        made_up = MadeUpCommits(folder / "out", recordings=each)
        storage: LocalStorage = made_up
        listed = mark_duplicates(recordings(units, each))
        packed = with_parts(pack_units(listed, PlanConfig(unit_recordings=each)), PART_ROWS)
        clock.time("plan", lambda: write_plan(storage, BASE, packed))
        half = sorted(unit_ids(storage))[::2]
        started = time.perf_counter()
        if commits == "files":
            storage = _written(made_up, half)
        else:
            made_up.units = half
        commit_seconds = time.perf_counter() - started
        del half
        kept = clock.time("resume", lambda: _resumed(storage))  # a run keeps both in memory to its end
        books = clock.time("account", lambda: close_books(storage))
        plan_bytes = (storage.root / plan_key(BASE)).stat().st_size
    list_seconds = clock.seconds.pop("list")
    clock.cpu_seconds.pop("list")
    done, left = (len(part) for part in kept)
    expected = f"{(units, units * each, -(-units // 2), units // 2, [])}"
    counted = f"{(books['units_planned'], books['recordings_planned'], done, left, books['complaints'])}"
    if counted != expected or books["units_committed"] != done:
        raise RuntimeError(f"{expected} expected, {counted} counted")
    return {
        "units": units,
        "recordings": units * each,
        "seconds": round(sum(clock.seconds.values()), 2),
        "peak_rss_mb": round(peak_rss_mb()),
        "cpu_seconds": round(sum(clock.cpu_seconds.values()), 2),
        **{f"{step}_seconds": round(clock.seconds[step], 2) for step in STEPS},
        "units_left": left,
        "list_seconds": round(list_seconds, 2),
        "plan_mb": round(plan_bytes / 1e6, 1),
        "commits": commits,
        "commit_seconds": round(commit_seconds, 2),
    }


def recordings(units: int, each: int = 1) -> Iterator[RecordingRef]:
    """Ten minutes of mp3 for each unit, in `each` recordings: tar files of a hundred, as a WebDataset on S3 is listed.

    Every recording has a sidecar.
    """
    count, seconds, size = units * each, SECONDS / each, 4_800_000 // each
    for shard in range(-(-count // 100)):
        uri, version = f"s3://archive/talks/{shard:06d}.tar", f"{shard:032x}"
        for at in range(min(100, count - 100 * shard)):
            name, start = f"{shard:06d}-{at:02d}", at * 5_000_000
            sidecars = ((".json", start + 4_900_000, 120),)
            yield RecordingRef(
                name,
                "webdataset",
                uri,
                f"{name}.mp3",
                start + 512,
                size + at,
                version,
                sidecars,
                "de",
                None,
                None,
                seconds,
            )


def write_manifest(path: Path, count: int) -> None:
    """JSONL: an id, a path, the seconds and the language of each recording."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            name = f"{number // 1000:04d}/talk-{number:08d}"
            line = {"id": name, "audio_filepath": f"s3://archive/talks/{name}.mp3", "duration": SECONDS}
            file.write(json.dumps(line | {"language": "de"}) + "\n")


def header() -> str:
    """The names over the columns of `line`."""
    return "  ".join(f"{name:>{width}}" for name, width in COLUMNS.items())


def line(row: dict[str, Any]) -> str:
    """A row of `measure` for a terminal."""
    return "  ".join(f"{row[name]:{width},}" for name, width in COLUMNS.items())


def verdict(row: dict[str, Any]) -> str:
    """Whether the driver stayed within PEAK_MB, in one line."""
    size = f"{row['units']:,} units, {row['recordings']:,} recordings"
    state = "within" if row["peak_rss_mb"] <= PEAK_MB else "ABOVE"
    return f"{size}: the driver's peak of {row['peak_rss_mb']:,} MB is {state} the bound of {PEAK_MB:,} MB"


def _resumed(storage: LocalStorage) -> tuple[Set[str], pa.Table]:
    """The ids of the committed units, and the places of the others, as `pipeline.run` has them."""
    committed = committed_units(storage)
    return committed, units_left(storage, committed)


def _written(storage: MadeUpCommits, units: Sequence[str]) -> LocalStorage:
    """An ordinary storage of the same directory, with a file for the commit of each unit."""
    for unit in units:
        path = storage.root / commit_key(unit)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(made_up_commit(unit, storage.recordings))
    return LocalStorage(storage.root)


def peak_rss_mb() -> float:
    """Linux: the most memory that this process has had resident since it began."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


class _Clock:
    """Wall and processor seconds of each step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.cpu_seconds: dict[str, float] = {}

    def time(self, step: str, work: Callable[[], T]) -> T:
        wall, cpu = time.perf_counter(), time.process_time()
        result = work()
        self.seconds[step], self.cpu_seconds[step] = time.perf_counter() - wall, time.process_time() - cpu
        return result
