"""Plain files: every audio file once, its reference from the .txt beside it, nothing else."""

from __future__ import annotations

import logging
from pathlib import Path

import fsspec
import pytest

from pipeline.config import ConfigError, SourceConfig
from pipeline.schemas import BadRecording, Recording, RecordingRef
from pipeline.sources.files import list_recordings, read_recording


def listed(uri: Path | str, **keys: str) -> list[RecordingRef]:
    return list(list_recordings(SourceConfig(uri=str(uri), format="files", **keys)))


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def test_ids_are_paths_with_extension(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav", "a.flac", "de/x/rec.1.MP3", "de/x/rec.2.MP3", "z.opus")
    refs = listed(tmp_path)
    assert [ref.recording_id for ref in refs] == ["a.flac", "a.wav", "z.opus", "de/x/rec.1.MP3", "de/x/rec.2.MP3"]
    assert [read_recording(ref).audio.decode() for ref in refs] == [ref.recording_id for ref in refs]
    assert [ref.size for ref in refs] == [len(ref.recording_id) for ref in refs]
    assert all(ref.source_uri == str(tmp_path / ref.recording_id) and ref.version for ref in refs)


def test_a_text_beside_the_audio_is_its_reference(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav", "a-1.wav", "a.1.wav", "a.2.wav", "b.wav")
    (tmp_path / "a.txt").write_text("\ufeffgrüß dich\n", encoding="utf-8")
    (tmp_path / "a.2.txt").write_text("two")
    recordings = {ref.recording_id: read_recording(ref) for ref in listed(tmp_path, language="de")}
    assert {key: recording.reference for key, recording in recordings.items()} == {
        "a.wav": "grüß dich",
        "a-1.wav": None,
        "a.1.wav": None,
        "a.2.wav": "two",
        "b.wav": None,
    }
    assert recordings["a.wav"] == Recording(b"a.wav", "de", "grüß dich", None)


@pytest.mark.parametrize(("text", "at_listing"), [(b"\xff\xff", False), (bytes(5 << 20), True)])
def test_a_reference_that_cannot_be_read_is_bad_metadata(tmp_path: Path, text: bytes, at_listing: bool) -> None:
    touch(tmp_path, "a.wav", "b.wav")
    (tmp_path / "a.txt").write_bytes(text)
    bad, good = listed(tmp_path)
    assert (bad.problem == "bad_metadata") is at_listing
    if not at_listing:
        with pytest.raises(BadRecording, match=r"bad_metadata: .*a\.txt"):
            read_recording(bad)
    assert read_recording(good).reference is None


def test_other_and_hidden_files_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "a.wav", "b.pdf", "c/d.pdf", ".e.wav", ".git/f.wav", "notes.txt")
    with caplog.at_level(logging.INFO):
        assert [ref.recording_id for ref in listed(tmp_path)] == ["a.wav"]
    assert "2 files that are not audio" in caplog.text


def test_a_file_that_the_uri_names_is_read_whatever_its_extension(tmp_path: Path) -> None:
    touch(tmp_path, "call.bin")
    (ref,) = listed(tmp_path / "call.bin")
    assert (ref.recording_id, read_recording(ref).audio) == ("call.bin", b"call.bin")


@pytest.mark.parametrize(
    ("pattern", "ids"),
    [
        ("*.wav", ["a.wav"]),
        ("**.wav", ["a.wav", "de/c.wav", "en/d.wav", "en/x/e.wav"]),
        ("**/*.wav", ["a.wav", "de/c.wav", "en/d.wav", "en/x/e.wav"]),
        ("en/*", ["d.wav"]),
        ("en/**", ["d.wav", "x/e.wav"]),
        ("e[mn]/**/?.wav", ["en/d.wav", "en/x/e.wav"]),
        ("{en,de}/**", ["de/c.wav", "en/d.wav", "en/x/e.wav"]),
        ("{a,en/d}.wav", ["a.wav", "en/d.wav"]),
    ],
)
def test_globs_list_the_files_that_match(tmp_path: Path, pattern: str, ids: list[str]) -> None:
    touch(tmp_path, "a.wav", "b.pdf", "de/c.wav", "en/d.wav", "en/x/e.wav")
    assert [ref.recording_id for ref in listed(f"{tmp_path}/{pattern}")] == ids


@pytest.mark.parametrize("uri", ["nowhere", "nowhere.wav", "*.wav", "{a,b}.wav", "nowhere/**.wav"])
def test_a_missing_source_is_an_error_in_one_line(tmp_path: Path, uri: str) -> None:
    with pytest.raises(ConfigError, match=r"^source\.uri: [^\n]*: no such file[^\n]*$"):
        listed(tmp_path / uri)


@pytest.mark.parametrize("keys", [{"text_column": "text"}, {"id_column": "id"}, {"language": "column:lang"}])
def test_columns_are_refused(tmp_path: Path, keys: dict[str, str]) -> None:
    touch(tmp_path, "a.wav")
    with pytest.raises(ConfigError, match=rf"^source\.{next(iter(keys))}: .*has no columns"):
        listed(tmp_path, **keys)


def test_a_file_that_vanished_is_missing(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav", "b.wav")
    (tmp_path / "broken.wav").symlink_to(tmp_path / "nowhere.wav")
    refs = listed(tmp_path)
    assert [ref.recording_id for ref in refs] == ["a.wav", "b.wav", "broken.wav"]
    (tmp_path / "a.wav").unlink()
    for ref in (refs[0], refs[2]):
        with pytest.raises(BadRecording, match="missing_file"):
            read_recording(ref)


def test_remote_files_are_read_like_local_ones() -> None:
    memory = fsspec.filesystem("memory")
    for name in ("a.wav", "a.txt", "sub/b.flac", "sub/skip.md", "empty.wav"):
        memory.pipe_file(f"/plain/{name}", name.encode() if name != "empty.wav" else b"")
    refs = listed("memory://plain")
    assert [(ref.recording_id, ref.source_uri) for ref in refs] == [
        ("a.wav", "memory:///plain/a.wav"),
        ("empty.wav", "memory:///plain/empty.wav"),
        ("sub/b.flac", "memory:///plain/sub/b.flac"),
    ]
    assert [read_recording(ref) for ref in refs] == [
        Recording(b"a.wav", None, "a.txt", None),
        Recording(b"", None, None, None),
        Recording(b"sub/b.flac", None, None, None),
    ]
    assert [ref.recording_id for ref in listed("memory://plain/*/**.flac")] == ["sub/b.flac"]
