"""What was planned is what is read: no format gives a recording the audio of a source that was written again."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import SourceConfig
from pipeline.schemas import BadRecording, RecordingRef
from pipeline.sources.formats import as_it_is_now, list_recordings, read_recording
from tests.support.corpora import archive

Pairs = list[tuple[str, str]]  # id and text; the audio is the text as bytes
BEFORE, SWAPPED = [("a", "one"), ("b", "two")], [("a", "two"), ("b", "one")]


def members(pairs: Pairs) -> dict[str, bytes]:
    files = {f"{name}.wav": text.encode() for name, text in pairs}
    return files | {f"{name}.txt": text.encode() for name, text in pairs}


def a_tar(root: Path, pairs: Pairs) -> None:
    (root / "s.tar").write_bytes(archive(members(pairs), ".tar"))


def a_packed_tar(root: Path, pairs: Pairs) -> None:
    (root / "s.tar.gz").write_bytes(archive(members(pairs)))


def a_parquet(root: Path, pairs: Pairs) -> None:
    names, texts = zip(*pairs, strict=True)
    pq.write_table(
        pa.table({"id": names, "audio": [text.encode() for text in texts], "text": texts}), root / "t.parquet"
    )


def plain_files(root: Path, pairs: Pairs) -> None:
    for name, data in members(pairs).items():
        (root / name).write_bytes(data)


def a_manifest(root: Path, pairs: Pairs) -> None:
    plain_files(root, pairs)
    rows = [{"audio_filepath": f"{name}.wav", "text": text, "duration": 1.0} for name, text in pairs]
    with gzip.open(root / "m.jsonl.gz", "wt") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)


def a_librispeech_chapter(root: Path, pairs: Pairs) -> None:
    folder = root / "84/121"
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pairs:
        (folder / f"84-121-{name}.flac").write_bytes(text.encode())
    (folder / "84-121.trans.txt").write_text("".join(f"84-121-{name} {text}\n" for name, text in pairs))


def a_saved_dataset(root: Path, pairs: Pairs) -> None:
    import datasets

    names, texts = zip(*pairs, strict=True)
    shutil.rmtree(root / "set", ignore_errors=True)
    rows = pa.table({"id": names, "audio": [text.encode() for text in texts], "text": texts})
    datasets.Dataset(rows).save_to_disk(root / "set")


LAYOUTS: dict[str, Callable[[Path, Pairs], None]] = {
    "s.tar": a_tar,
    "s.tar.gz": a_packed_tar,
    "t.parquet": a_parquet,
    "": plain_files,
    "m.jsonl.gz": a_manifest,
    "84": a_librispeech_chapter,
    "set": a_saved_dataset,
}
EVERY_FORMAT = pytest.mark.parametrize("place", LAYOUTS)


def listed(uri: object) -> list[RecordingRef]:
    return list(list_recordings(SourceConfig(uri=str(uri))))


def reason(ref: RecordingRef) -> str:
    with pytest.raises(BadRecording) as bad:
        read_recording(ref)
    return bad.value.reason


def later(root: Path) -> None:
    """Every file was written a second later: two writes within one tick of the clock look the same."""
    for path in root.rglob("*"):
        os.utime(path, (time.time() + 1,) * 2)


@EVERY_FORMAT
def test_a_source_with_swapped_rows_is_never_paired_wrongly(tmp_path: Path, place: str) -> None:
    LAYOUTS[place](tmp_path, BEFORE)
    refs = listed(tmp_path / place)
    LAYOUTS[place](tmp_path, SWAPPED)
    later(tmp_path)
    assert [reason(ref) for ref in refs] == ["source_changed", "source_changed"]


@EVERY_FORMAT
def test_a_change_between_two_recordings_is_noticed_at_the_second(tmp_path: Path, place: str) -> None:
    LAYOUTS[place](tmp_path, BEFORE)
    first, second = listed(tmp_path / place)
    read = read_recording(first)
    assert (read.audio, read.reference) == (b"one", "one")
    LAYOUTS[place](tmp_path, SWAPPED)
    later(tmp_path)
    assert reason(second) == "source_changed"


@EVERY_FORMAT
def test_a_source_that_nobody_touched_is_read(tmp_path: Path, place: str) -> None:
    LAYOUTS[place](tmp_path, BEFORE)
    read = [read_recording(ref) for ref in listed(tmp_path / place)]
    assert [(recording.audio, recording.reference) for recording in read] == [(b"one", "one"), (b"two", "two")]


@pytest.mark.parametrize("place", ["s.tar", "s.tar.gz", "t.parquet", ""])
def test_a_change_in_a_store_is_noticed(tmp_path: Path, place: str) -> None:
    store = fsspec.filesystem("memory")
    folder = f"/changed-{place}"

    def upload(pairs: Pairs) -> None:
        LAYOUTS[place](tmp_path, pairs)
        for path in tmp_path.iterdir():
            store.pipe_file(f"{folder}/{path.name}", path.read_bytes())

    upload(BEFORE)
    first, second = listed(f"memory:/{folder}/{place}")
    assert read_recording(first).audio == b"one"
    upload(SWAPPED)
    assert reason(second) == "source_changed"
    assert reason(first) == "source_changed"


def test_only_the_changed_recording_of_a_folder_is_refused(tmp_path: Path) -> None:
    plain_files(tmp_path, BEFORE)
    a, b = listed(tmp_path)
    (tmp_path / "b.txt").write_text("a longer text than was planned")
    assert read_recording(a).reference == "one"
    with pytest.raises(BadRecording, match=r"^source_changed: .*b\.txt: written again since it was planned \(version "):
        read_recording(b)


def test_a_shorter_or_damaged_rewrite_is_a_change_and_no_damage_of_the_source(tmp_path: Path) -> None:
    (tmp_path / "other").touch()  # an empty folder would be a mount that is gone
    for place in ("s.tar", "s.tar.gz", "t.parquet"):
        LAYOUTS[place](tmp_path, BEFORE)
        ref, _ = listed(tmp_path / place)
        (tmp_path / place).write_bytes(b"not what it was")
        assert reason(ref) == "source_changed"
        (tmp_path / place).unlink()
        assert reason(ref) == "missing_file"


def test_a_file_that_was_repaired_has_its_version_of_now_and_an_archive_keeps_the_planned_one(tmp_path: Path) -> None:
    """A file's name says which recording it is. In an archive a place says it, and another may be there now."""
    alone, packed = tmp_path / "files", tmp_path / "tars"
    alone.mkdir()
    packed.mkdir()
    (alone / "a.wav").write_bytes(b"before")
    with tarfile.open(packed / "a.tar", "w") as packing:
        packing.add(alone / "a.wav", "a.wav")
    refs = [next(list_recordings(SourceConfig(uri=str(folder)))) for folder in (alone, packed)]
    for path in (alone / "a.wav", packed / "a.tar"):
        path.write_bytes(path.read_bytes() + b"after")
    repaired, same = (as_it_is_now(ref) for ref in refs)
    assert same == refs[1]
    assert repaired.version != refs[0].version
    assert read_recording(repaired).audio == b"beforeafter"
    with pytest.raises(BadRecording, match="written again"):
        read_recording(refs[0])
