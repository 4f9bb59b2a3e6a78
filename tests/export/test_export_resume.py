"""A killed export goes on where it was; the same export in a store; labels of a selection."""

from __future__ import annotations

import itertools
import json
import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from jobs.export import main
from jobs.select_labels import main as select_main
from pipeline.schemas import LABELS, to_table
from pipeline.storage.base import open_storage
from pipeline.storage.local import LocalStorage
from tests.support.labelled import archive, transcribed
from tests.support.outputs import killable
from tests.support.small_s3 import SmallS3

RECORDINGS = 6
COMMITS = "_export/commits"


def words(source: object, target: object, *more: str) -> list[str]:
    settings = ["export.format=webdataset", "export.tasks=1", "export.shard_rows=1"]
    return [*settings, f"input.uri={source}", f"output.uri={target}", *more]


def die_before(number: int, arguments: list[str], _connection: Connection) -> None:
    """Export, and kill the own process just before it puts the commit of this number."""
    put, commits = LocalStorage.put_if_absent, itertools.count(1)

    def deadly(self: LocalStorage, key: str, data: bytes | Path) -> bool:
        if key.startswith(COMMITS) and next(commits) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return put(self, key, data)

    LocalStorage.put_if_absent = deadly  # type: ignore[method-assign]
    main(arguments)


def files(folder: Path) -> dict[str, bytes]:
    """All files of an export by name, except the directories of attempts that were killed."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.relative_to(folder).parts[0].startswith(".")
    }


def killed(number: int, arguments: list[str], target: Path) -> dict[str, int]:
    """Let an export die before that commit. Returns the inodes of what is committed then."""
    with killable(die_before, number, arguments) as (process, _):
        process.join(250)
        assert process.exitcode == -signal.SIGKILL
    done = {path.stem.rpartition("-")[2] for path in (target / COMMITS).glob("*.json")}
    return {name: (target / f"train/shard-{name}.tar").stat().st_ino for name in done}


def test_after_kills_the_export_is_that_of_an_undisturbed_run_and_nothing_is_written_twice(tmp_path: Path) -> None:
    transcribed(str(archive(tmp_path / "in", RECORDINGS)), str(tmp_path / "out"))
    target = tmp_path / "set"
    first = killed(3, words(tmp_path / "out", target), target)
    second = killed(3, words(tmp_path / "out", target), target)
    assert (len(first), len(second)) == (2, 4)
    assert (target / "train/shard-000004.tar").exists(), "written, but not committed"
    assert main(words(tmp_path / "out", target)) == 0
    assert main(words(tmp_path / "out", tmp_path / "whole")) == 0
    for name, inode in (first | second).items():
        assert (target / f"train/shard-{name}.tar").stat().st_ino == inode
    after, whole = files(target), files(tmp_path / "whole")
    after.pop("DATA_CARD.md"), whole.pop("DATA_CARD.md")  # it names the output
    assert after == whole
    assert len([name for name in whole if name.endswith(".tar")]) == RECORDINGS


def test_a_store_is_read_and_written(s3: SmallS3, tmp_path: Path) -> None:
    transcribed(str(archive(tmp_path / "in", 3)), str(tmp_path / "out"))
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file():
            s3.objects[f"out/{path.relative_to(tmp_path / 'out')}"] = path.read_bytes()
    assert main(words("s3://b/out", "s3://b/set", f"storage.endpoint={s3.url}")) == 0
    assert main(words(tmp_path / "out", tmp_path / "set")) == 0
    there = {key.removeprefix("set/"): data for key, data in s3.objects.items() if key.startswith("set/train/")}
    here = {name: data for name, data in files(tmp_path / "set").items() if name.startswith("train/")}
    assert len(there) == 3
    assert there == here
    puts = sum(method == "PUT" for method, _, _ in s3.log)
    assert main(words("s3://b/out", "s3://b/set", f"storage.endpoint={s3.url}")) == 0
    again = [key for method, key, _ in s3.log if method == "PUT"][puts:]
    assert [key for key in again if key.startswith(("set/train/", f"set/{COMMITS}"))] == []


def select(output: Path, folder: Path) -> None:
    """Labels as jobs.select_labels writes them: the segments of r0 merged to one, r1 to dev, r2 dropped."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in pq.read_table(output / "transcripts").to_pylist():
        rows.setdefault(row["recording_id"], []).append(row)
    merged = rows["r0.wav"][0] | {
        "end_ms": 1900,
        "text": "good morning my friend good morning my friend",
        "words": [word for row in rows["r0.wav"] for word in row["words"]],
    }
    chosen = [
        (merged, [0, 1], True, None, "train"),
        *((row, [row["segment_index"]], True, None, "dev") for row in rows["r1.wav"]),
        *((row, [row["segment_index"]], False, "repetition", None) for row in rows.get("r2.wav", [])),
    ]
    labels = [
        {name: row[name] for name in LABELS.names if name in row}
        | {"label_id": f"{number:016x}", "segment_indices": indices, "speaker": "anna", "expected_wer": 0.1}
        | {"kept": kept, "reason": reason, "split": split, "policy": "p1"}
        for number, (row, indices, kept, reason, split) in enumerate(chosen)
    ]
    storage = open_storage(str(folder))
    with storage.scratch() as scratch:
        pq.write_table(to_table(labels, LABELS), scratch / "part")
        storage.put("labels/part-00000.parquet", scratch / "part")
    storage.put("funnel.json", json.dumps({"transcripts": str(output), "policy": "p1"}).encode())


def test_labels_are_exported_by_split_with_their_policy_and_expected_errors(tmp_path: Path) -> None:
    transcribed(str(archive(tmp_path / "in", 3)), str(tmp_path / "out"))
    select(tmp_path / "out", tmp_path / "labels")
    arguments = ["export.format=nemo", "export.tasks=1", "export.all_rows=true"]
    assert main([*arguments, f"input.uri={tmp_path / 'labels'}", f"output.uri={tmp_path / 'set'}"]) == 0
    rows = {
        split: [json.loads(line) for line in (tmp_path / f"set/{split}/manifest.json").read_text().splitlines()]
        for split in ("train", "dev")
    }
    found = [(row["recording_id"], row["segment_indices"], row.get("_skipme")) for row in rows["train"]]
    assert found == [("r0.wav", [0, 1], None), ("r2.wav", [0], "repetition"), ("r2.wav", [1], "repetition")]
    assert [row["recording_id"] for row in rows["dev"]] == ["r1.wav", "r1.wav"]
    assert {(row["policy"], row["speaker"]) for split in rows.values() for row in split} == {("p1", "anna")}
    assert [row["duration"] for row in rows["train"]] == [1.9, 0.9, 0.9]
    card = (tmp_path / "set/DATA_CARD.md").read_text()
    assert "- expected WER: 10.0% of " in card
    assert "| repetition | 2 | 0.001 |\n" in card


def test_what_a_selection_keeps_is_exported_under_its_ids(tmp_path: Path) -> None:
    def change(row: dict[str, Any]) -> dict[str, Any]:
        doubtful = row["recording_id"] == "r3.wav"
        return row | {"confidence": 0.1 if doubtful else 0.9, "confidence_source": "calibrated:all"}

    transcribed(str(archive(tmp_path / "in", 4)), str(tmp_path / "out"), change=change)
    chosen = ["policy.min_confidence={default: 0.5}", f"transcripts={tmp_path / 'out'}"]
    assert select_main([*chosen, f"output.uri={tmp_path / 'labels'}"]) == 0
    labels = pq.read_table(tmp_path / "labels/labels").to_pylist()
    assert sorted(label["recording_id"] for label in labels if not label["kept"]) == ["r3.wav"] * 2
    assert main(words(tmp_path / "labels", tmp_path / "set", "export.format=nemo")) == 0
    manifests = (tmp_path / "set").glob("*/manifest.json")
    rows = [json.loads(line) for path in manifests for line in path.read_text().splitlines()]
    kept = {(label["label_id"], label["text"], label["policy"]) for label in labels if label["kept"]}
    assert {(row["id"], row["text"], row["policy"]) for row in rows} == kept
    assert len(rows) == len(kept) == 6
    assert main(words(tmp_path / "out", tmp_path / "all", "export.format=txt")) == 0
    lines = (tmp_path / "all/train/provenance.jsonl").read_text().splitlines()
    assert {label["label_id"] for label in labels} == {json.loads(line)["id"] for line in lines}


def test_a_single_shard_is_cut_without_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.export.run_export.ray_cluster", None)
    transcribed(str(archive(tmp_path / "in", 2)), str(tmp_path / "out"))
    assert main(["export.format=webdataset", f"input.uri={tmp_path / 'out'}", f"output.uri={tmp_path / 'set'}"]) == 0


def test_labels_of_a_selection_that_has_not_ended_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    transcribed(str(archive(tmp_path / "in", 2)), str(tmp_path / "out"))
    chosen = [f"transcripts={tmp_path / 'out'}", f"output.uri={tmp_path / 'labels'}", "audit.sample=0"]
    assert select_main(chosen) == 0
    part = tmp_path / "out/transcripts/part-00001.parquet"
    part.write_bytes(b"PAR1 cut off")  # so the next selection ends in its middle
    assert select_main(chosen) == 3
    assert capsys.readouterr().err.startswith(f"{part}: damaged or cut off: ")
    part.unlink()
    assert main(words(tmp_path / "labels", tmp_path / "set")) == 2
    assert capsys.readouterr().err.endswith(": its selection has not ended; run jobs.select_labels again\n")
    assert select_main(chosen) == 0
    assert main(words(tmp_path / "labels", tmp_path / "set")) == 0


def test_a_recording_in_two_shards_is_refused_where_it_has_one_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    transcribed(str(archive(tmp_path / "in", 2)), str(tmp_path / "out"))
    select(tmp_path / "out", tmp_path / "labels")
    parts = tmp_path / "labels/labels"
    (parts / "part-00001.parquet").write_bytes((parts / "part-00000.parquet").read_bytes())
    assert main(words(tmp_path / "labels", tmp_path / "set", "export.format=txt")) == 3
    assert "r0.wav.txt: two shards wrote it: " in capsys.readouterr().err
