"""Rows joined with audio: in the order of the audio, no more of it than needed, nothing lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.schemas import RecordingRef
from pipeline.sources.access.listing import File, list_files
from pipeline.sources.corpora.joined import join, read_recording
from tests.support.corpora import archive, write


def rows(*ids: str) -> list[RecordingRef]:
    return [RecordingRef(name, "fleurs", "/t.tsv", f"line {line}", language="de") for line, name in enumerate(ids, 1)]


def joined(root: Path, *ids: str) -> list[RecordingRef]:
    return list(join(rows(*ids), list_files(str(root))))


@pytest.mark.parametrize("ending", [".tar", ".tar.gz", ".tgz"])
def test_members_come_in_the_order_of_the_archive_and_are_read(tmp_path: Path, ending: str) -> None:
    members = {"test/c.wav": b"C", "test/": b"", "test/x.wav": b"X", "deep/er/a.WAV": b"AA", "b.txt": b"-"}
    write(tmp_path, {f"s{ending}": archive(members, ending)})
    refs = joined(tmp_path, "xx/a", "xx/b", "xx/c")
    assert [(ref.recording_id, ref.problem) for ref in refs] == [
        ("xx/c", None),
        ("xx/a", None),
        ("xx/b", "missing_file"),
    ]
    read = [read_recording(ref) for ref in refs[:2]]
    assert [(one.audio, one.language) for one in read] == [(b"C", "de"), (b"AA", "de")]
    assert refs[2].problem_detail == "/t.tsv, line 2: there is no audio of this name"


def test_files_and_archives_may_be_side_by_side(tmp_path: Path) -> None:
    write(tmp_path, {"a.flac": b"A", "s.tar": archive({"b.wav": b"B", "a.wav": b"other"}, ".tar"), "z.ogg": b"Z"})
    refs = joined(tmp_path, "z", "b", "a")
    assert [(ref.recording_id, read_recording(ref).audio) for ref in refs] == [("a", b"A"), ("b", b"B"), ("z", b"Z")]


def test_no_more_audio_is_listed_than_is_needed(tmp_path: Path) -> None:
    write(tmp_path, {"a.flac": b"A", "b.tar": b"damaged"})

    def files() -> Iterator[File]:
        yield from list_files(str(tmp_path / "a.flac"))
        raise AssertionError("more than is needed")

    assert [ref.problem for ref in join(rows("a"), files())] == [None]
    assert [ref.problem for ref in joined(tmp_path, "a")] == [None]
    assert list(join([], files())) == []


def test_rows_that_a_damaged_archive_lacks_have_its_problem_and_the_rest_is_listed(tmp_path: Path) -> None:
    whole = archive({"a.wav": b"A" * 600, "b.wav": b"B" * 600, "c.wav": b"C"}, ".tar")
    write(tmp_path, {"1.tar": whole[: 512 + 1024 + 512 + 100], "2.tar": archive({"d.wav": b"D"}, ".tar")})
    refs = {ref.recording_id: ref for ref in joined(tmp_path, "d", "c", "b", "a")}
    assert {name: ref.problem for name, ref in refs.items()} == {
        "a": None,
        "b": "truncated_archive",
        "c": "truncated_archive",
        "d": None,
    }
    assert f"{tmp_path}/1.tar" in (refs["c"].problem_detail or "")


def test_a_link_is_not_audio(tmp_path: Path) -> None:
    data = bytearray(archive({"a.wav": b"", "b.wav": b"B"}, ".tar"))
    data[156:157] = b"2"  # the first becomes a symbolic link
    data[148:156] = b"%06o\0 " % (sum(data[:148]) + 8 * 32 + sum(data[156:512]))
    write(tmp_path, {"s.tar": bytes(data)})
    assert [(ref.recording_id, ref.problem) for ref in joined(tmp_path, "a", "b")] == [
        ("a", "unsafe_name"),
        ("b", None),
    ]


def test_second_rows_of_one_file_come_last(tmp_path: Path) -> None:
    write(tmp_path, {"a.wav": b"A", "b.wav": b"B"})
    refs = joined(tmp_path, "x/a", "y/a", "b")
    assert [(ref.recording_id, ref.problem) for ref in refs] == [("x/a", None), ("b", None), ("y/a", "duplicate_id")]
