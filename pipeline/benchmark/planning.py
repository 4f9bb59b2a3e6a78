"""What a run costs before and after the audio: recordings are planned, half of them committed, resumed, accounted.

Every size runs in a process of its own, with the code of a real run. Plan: recordings as a listing yields them are
checked for duplicates, packed and written. Resume: committed units are listed, the others read from the plan and kept
as `jobs.transcribe` keeps them. Account: every commit is read, the books are made. One unit is one recording.

Not in `seconds`: the listing of the source, which depends on its format and its store (`list_seconds` is that of a
local JSONL manifest of as many lines), and the commits, which a run makes over days. They hold made-up figures. With
"memory" they are made up as they are read and are no files, so that our code is measured and not the disk or the
network; with "files" each is a file, as in a local output, written without waiting for the disk.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import re
import tempfile
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Literal, TypeVar

from pipeline.config import PlanConfig, SourceConfig
from pipeline.output.accounting import close_books
from pipeline.output.commit import COMMITS, SAMPLES, commit_key, commit_record, committed_units
from pipeline.planning.pack import mark_duplicates, pack, with_parts
from pipeline.planning.plan import BASE, plan_key, todo, unit_ids, write_plan
from pipeline.schemas import SAMPLE_RATE, RecordingRef
from pipeline.sources.formats import list_recordings
from pipeline.storage.local import LocalStorage

T = TypeVar("T")
Commits = Literal["memory", "files"]

SIZES = (10_000, 100_000, 1_000_000)
SECONDS = 600.0  # of a recording
SAMPLES_EACH = round(SECONDS * SAMPLE_RATE)
ROWS = 40  # of a recording's transcript
PART_ROWS = 100_000
UNIT = b"UNIT"  # stands for the id in what all commits have in common
STEPS = ("plan", "resume", "account")
SHOWN = ("units", "seconds", *(f"{step}_seconds" for step in STEPS), "cpu_seconds", "list_seconds", "peak_rss_mb")
COLUMNS = {name: max(len(name), len("1,000,000")) for name in SHOWN}  # widths


class MadeUpCommits(LocalStorage):
    """A directory whose commits are no files: those of `units` (ids, ordered) are made up when they are read."""

    def __init__(self, root: Path, units: Sequence[str] = ()) -> None:
        super().__init__(root)
        self.units = units

    def get(self, key: str) -> bytes:
        return made_up_commit(key[-21:-5]) if key.startswith(COMMITS) else super().get(key)

    def list(self, prefix: str) -> Iterator[str]:
        if not prefix.startswith(COMMITS):
            yield from super().list(prefix)
            return
        digits = prefix.removeprefix(COMMITS).rstrip("/")
        first, end = (bisect_left(self.units, bound) for bound in (digits, f"{digits}g"))  # hex ends before "g"
        for index in range(first, end):
            yield commit_key(self.units[index])


def made_up_commit(unit_id: str) -> bytes:
    """The commit of a unit whose one recording was transcribed."""
    return _commit_template().replace(UNIT, unit_id.encode())


@functools.cache
def _commit_template() -> bytes:
    unit = UNIT.decode()
    data = {"key": f"data/{unit}-{'0' * 16}.parquet", "rows": ROWS, "bytes": 20_000, "sha256": "0" * 64}
    samples = dict.fromkeys(SAMPLES, 0) | {"in": SAMPLES_EACH, "transcribed": SAMPLES_EACH}
    record = commit_record(
        unit,
        "0" * 16,
        recordings=1,
        transcribed=1,
        rows=ROWS,
        dead={},
        samples=samples,
        data={"transcripts": data},
        fingerprint="0" * 16,
    )
    return json.dumps(record).encode()


def measure(sizes: Sequence[int] = SIZES, *, commits: Commits = "memory") -> Iterator[dict[str, Any]]:
    """One row per size, as it is measured: units, seconds (of the steps together), peak_rss_mb and its parts."""
    for units in sizes:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as child:
            yield child.submit(measure_here, units, commits).result()


def measure_here(units: int, commits: Commits) -> dict[str, Any]:
    """The row of one size, in this process, whose whole peak is in it. Raises RuntimeError where a unit is lost."""
    clock = _Clock()
    with tempfile.TemporaryDirectory(prefix="fullcanvas-bench-") as folder:
        manifest = Path(folder) / "manifest.jsonl"
        write_manifest(manifest, units)
        clock.time("list", lambda: deque(list_recordings(SourceConfig(uri=str(manifest), format="manifest")), maxlen=0))
        made_up = MadeUpCommits(Path(folder) / "out")
        storage: LocalStorage = made_up
        packed = with_parts(pack(mark_duplicates(recordings(units)), PlanConfig(unit_recordings=1)), PART_ROWS)
        clock.time("plan", lambda: write_plan(storage, BASE, packed))
        half = sorted(unit_ids(storage))[::2]
        started = time.perf_counter()
        if commits == "files":
            storage = _written(made_up, half)
        else:
            made_up.units = half
        commit_seconds = time.perf_counter() - started
        del half
        left = clock.time("resume", lambda: todo(storage, committed_units(storage)))  # a run holds them to its end
        books = clock.time("account", lambda: close_books(storage))
        plan_bytes = (storage.root / plan_key(BASE)).stat().st_size
    list_seconds = clock.seconds.pop("list")
    clock.cpu_seconds.pop("list")
    committed, rest = -(-units // 2), units // 2
    found = books["units_planned"], books["units_committed"], len(left), books["complaints"]
    if found != (units, committed, rest, []):
        raise RuntimeError(f"{(units, committed, rest, [])} expected, {found} found")
    return {
        "units": units,
        "seconds": round(sum(clock.seconds.values()), 2),
        "peak_rss_mb": round(_peak_rss_mb()),
        "cpu_seconds": round(sum(clock.cpu_seconds.values()), 2),
        **{f"{step}_seconds": round(clock.seconds[step], 2) for step in STEPS},
        "units_left": rest,
        "list_seconds": round(list_seconds, 2),
        "plan_mb": round(plan_bytes / 1e6, 1),
        "commits": commits,
        "commit_seconds": round(commit_seconds, 2),
    }


def recordings(count: int) -> Iterator[RecordingRef]:
    """Talks of ten minutes in tar files of a hundred, each with a sidecar, as a WebDataset on S3 is listed."""
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
                4_800_000 + at,
                version,
                sidecars,
                "de",
                None,
                None,
                SECONDS,
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


def _written(storage: LocalStorage, units: Sequence[str]) -> LocalStorage:
    """An ordinary storage of the same directory, with a file for the commit of each unit."""
    for unit in units:
        path = storage.root / commit_key(unit)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(made_up_commit(unit))
    return LocalStorage(storage.root)


def _peak_rss_mb() -> float:
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
