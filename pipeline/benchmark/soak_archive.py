"""The archive of the soak: a manifest that names a few short recordings again and again, cut off when time is up.

Every line has an id of its own, so that each is transcribed. The copies of a recording must have the same segments:
that shows what was lost or doubled.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline.benchmark.speech import members
from pipeline.output.commit import committed_units
from pipeline.planning.plan import read_plan
from pipeline.storage.local import LocalStorage

MANIFEST = "manifest.jsonl"
EMPTY = "empty.wav"  # of no bytes: a dead letter each time
LONGEST_BYTES = 100_000  # without the one recording of minutes, whose unit would take as long as hundreds of others
SHORTEST_SECONDS = 1.0  # that every recording has at least
ID_DIGITS = 8
Row = Mapping[str, Any]


def write(folder: Path, seconds: float) -> Path:
    """Write the recordings and a manifest with at least so many seconds of audio to `folder`. Returns its path."""
    files = {name: content for name, content in members() if len(content) <= LONGEST_BYTES}
    audio = {name: content for name, content in files.items() if not name.endswith(".json")} | {EMPTY: b""}
    for name, content in audio.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    names = [(name, name.split("/")[1] if "/" in name else "en") for name in audio]  # shard/language/file
    with (folder / MANIFEST).open("w", encoding="utf-8") as file:
        for number in range(round(seconds / SHORTEST_SECONDS)):
            name, language = names[number % len(names)]
            recording_id = f"{number:0{ID_DIGITS}d}/{name}"
            line = {"id": recording_id, "audio_filepath": name, "language": language}
            file.write(json.dumps(line) + "\n")
    return folder / MANIFEST


def cut(manifest: Path, output: Path) -> int:
    """Remove all lines behind the last recording that is committed: here the archive ends. Returns the lines left."""
    storage = LocalStorage(output)
    done = committed_units(storage)
    units = (planned.unit for planned in (read_plan(storage) if done else ()))
    ids = (ref.recording_id for unit in units if unit.unit_id in done for ref in unit.refs)
    lines = manifest.read_text(encoding="utf-8").splitlines(keepends=True)
    left = 1 + max((int(name[:ID_DIGITS]) for name in ids), default=0)
    manifest.write_text("".join(lines[:left]), encoding="utf-8")
    return left


def compare(manifest: Path, output: Path) -> dict[str, Any]:
    """Compare what is published with the manifest. Returns `closed` (of the books), and what `count` returns."""
    lines = manifest.read_text(encoding="utf-8").splitlines()
    rows = _read(output / "transcripts", ["recording_id", "segment_index", "start_ms", "end_ms"])
    letters = _read(output / "dead_letters", ["recording_id", "reason"])
    books = output / "_run/accounting.json"
    closed = books.exists() and json.loads(books.read_text(encoding="utf-8"))["closed"]
    return {"closed": closed} | count([json.loads(line)["id"] for line in lines], rows, letters)


def count(ids: Iterable[str], rows: Iterable[Row], letters: Iterable[Row]) -> dict[str, Any]:
    """How many recordings, rows and dead letters there are and should be, and the first ids of which that differs.

    ids: of the archive. What most copies of a recording have is what all of them should have.
    """
    found: dict[str, list[Any]] = defaultdict(list)
    for row in rows:
        found[row["recording_id"]].append((row["segment_index"], row["start_ms"], row["end_ms"]))
    for letter in letters:
        found[letter["recording_id"]].append(letter["reason"])
    copies: dict[str, Counter[tuple[Any, ...]]] = defaultdict(Counter)
    wanted = list(ids)
    for name in wanted:
        copies[_file(name)][tuple(sorted(found[name]))] += 1
    usual = {name: sets.most_common(1)[0][0] for name, sets in copies.items()}
    expected = [one for name in wanted for one in usual[_file(name)]]
    published = [one for results in found.values() for one in results]
    differing = [name for name in wanted if tuple(sorted(found[name])) != usual[_file(name)]]
    return {
        "recordings": len(wanted),
        "rows": sum(not isinstance(one, str) for one in published),
        "rows_expected": sum(not isinstance(one, str) for one in expected),
        "dead_letters": sum(isinstance(one, str) for one in published),
        "dead_letters_expected": sum(isinstance(one, str) for one in expected),
        "differing": sorted({*differing, *(found.keys() - set(wanted))}),
    }


def _file(recording_id: str) -> str:
    return recording_id[ID_DIGITS + 1 :]


def _read(folder: Path, columns: list[str]) -> list[dict[str, Any]]:
    return list(pq.read_table(folder, columns=columns).to_pylist()) if folder.exists() else []
