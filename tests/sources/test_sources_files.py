"""Plain files: every audio file once, its reference from the .txt beside it, nothing else."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from pathlib import Path

import fsspec
import pytest

from pipeline.config import ConfigError, SourceConfig
from pipeline.schemas import BadRecording, Recording, RecordingRef
from pipeline.sources import formats
from pipeline.sources.access import metadata_tables
from pipeline.sources.files import list_recordings, read_recording
from tests.support.small_s3 import SmallS3


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
        with pytest.raises(BadRecording, match=r"bad_metadata: .*a\.wav: \.txt: not UTF-8"):
            read_recording(bad)
    assert read_recording(good).reference is None


def test_a_file_whose_name_is_not_utf_8_is_read(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.wav")).write_bytes(b"audio")
    (tmp_path / "literal\\xe9.wav").write_bytes(b"other")
    first, second = listed(tmp_path)
    assert (first.recording_id, formats.read_recording(first).audio) == ("caf\\xe9.wav", b"audio")
    assert (second.recording_id, formats.read_recording(second).audio) == ("literal\\xe9.wav", b"other")


def test_what_is_left_out_by_name_is_counted_by_extension(tmp_path: Path) -> None:
    for name in ("a.wav", "a.txt", "alone.txt", "b.TXT", "doc/x.pdf", "README", "c.avi", "d.flv", ".hidden.pdf"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    ignored: Counter[str] = Counter()
    refs = list_recordings(SourceConfig(uri=str(tmp_path), format="files"), ignored=ignored)
    assert [ref.recording_id for ref in refs] == ["a.wav", "c.avi", "d.flv"]
    assert ignored == {"txt": 2, "pdf": 1, "": 1}


def test_other_and_hidden_files_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "a.wav", "b.pdf", "c/d.pdf", ".e.wav", ".git/f.wav", "notes.txt")
    with caplog.at_level(logging.INFO):
        assert [ref.recording_id for ref in listed(tmp_path)] == ["a.wav"]
    assert "3 files that are not audio" in caplog.text


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


@pytest.mark.parametrize("keys", [{"audio_column": "audio"}, {"id_column": "id"}])
def test_columns_for_audio_and_id_are_refused(tmp_path: Path, keys: dict[str, str]) -> None:
    touch(tmp_path, "a.wav")
    with pytest.raises(ConfigError, match=rf"^source\.{next(iter(keys))}: .*has no columns for it"):
        listed(tmp_path, **keys)


def read_all(refs: list[RecordingRef]) -> dict[str, Recording]:
    return {ref.recording_id: read_recording(ref) for ref in refs}


def test_every_companion_of_the_tar_reader_is_read_beside_a_file(tmp_path: Path) -> None:
    names = (
        "one.wav",
        "two.wav",
        "three.wav",
        "four.wav",
        "five.clean.wav",
        "five.noisy.wav",
        "six.wav",
        "sub/one.wav",
    )
    touch(tmp_path, *names)
    (tmp_path / "one.wav.txt").write_text("eins")
    (tmp_path / "two.TXT").write_text("zwei")
    (tmp_path / "three.lab").write_text("drei")
    (tmp_path / "four.json").write_text('{"text": "vier", "speaker": "s1", "language": "de-AT"}')
    (tmp_path / "five.txt").write_text("fünf", encoding="utf-8")
    (tmp_path / "five.lang").write_text("German")
    (tmp_path / "six.JSON").write_text("[1, 2]")
    recordings = read_all(listed(tmp_path))
    assert {key: (read.language, read.reference, read.metadata) for key, read in recordings.items()} == {
        "one.wav": (None, "eins", None),
        "two.wav": (None, "zwei", None),
        "three.wav": (None, "drei", None),
        "four.wav": ("de", "vier", '{"speaker": "s1"}'),
        "five.clean.wav": ("de", "fünf", None),
        "five.noisy.wav": ("de", "fünf", None),
        "six.wav": (None, None, '{"json": [1, 2]}'),
        "sub/one.wav": (None, None, None),
    }


def test_the_settings_name_keys_of_companion_files(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav")
    (tmp_path / "a.json").write_text('{"text": "wrong", "caption": "right", "tongue": "French", "language": "nl"}')
    (read,) = read_all(listed(tmp_path, text_column="caption", language="column:tongue")).values()
    assert (read.language, read.reference) == ("fr", "right")


def test_texts_without_audio_are_counted_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "a.wav", "a.txt", "b.txt", "sub/c.json", "sub/d.wav")
    listed(tmp_path)
    assert caplog.text.count("belong to no audio") == 1
    assert "2 texts or companion files belong to no audio" in caplog.text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metadata.csv", "file_name,transcription,speaker,locale\nde/a.wav,hallo,anna,de\nb.wav,welt,bert,und\n"),
        (
            "metadata.tsv",
            "file_name\ttranscription\tspeaker\tlocale\n./de/a.wav\thallo\tanna\tde\nb.wav\twelt\tbert\t\n",
        ),
        (
            "metadata.jsonl",
            '{"file_name": "de/a.wav", "text": "hallo", "speaker": "anna", "lang": "de"}\n'
            '{"file_name": "b.wav", "text": "welt", "speaker": "bert"}\n',
        ),
    ],
)
def test_a_table_describes_the_files_of_its_folder(tmp_path: Path, name: str, text: str) -> None:
    touch(tmp_path, "train/de/a.wav", "train/b.wav", "train/c.wav", "other/b.wav")
    (tmp_path / "train" / name).write_text(text)
    recordings = read_all(list(formats.list_recordings(SourceConfig(uri=str(tmp_path)))))
    assert {key: (read.language, read.reference, read.metadata) for key, read in recordings.items()} == {
        "train/de/a.wav": ("de", "hallo", '{"speaker": "anna"}'),
        "train/b.wav": (None, "welt", '{"speaker": "bert"}'),
        "train/c.wav": (None, None, None),
        "other/b.wav": (None, None, None),
    }


def test_the_table_of_lj_speech_describes_its_files(tmp_path: Path) -> None:
    touch(tmp_path, "wavs/LJ001-0001.wav", "wavs/LJ001-0002.wav")
    (tmp_path / "metadata.csv").write_text("LJ001-0001|Dr. 2, said|doctor two, said\nLJ001-0002|b|b\n")
    (one, two) = read_all(listed(tmp_path)).values()
    assert (one.reference, one.metadata) == ("Dr. 2, said", '{"normalized_text": "doctor two, said"}')
    assert two.reference == "b"


def test_a_table_and_companion_files_are_joined(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav")
    (tmp_path / "metadata.csv").write_text("file_name,text,speaker\na.wav,of the table,anna\n")
    (tmp_path / "a.json").write_text('{"text": "of the file", "lang": "de", "mood": "good", "speaker": "nobody"}')
    (read,) = read_all(listed(tmp_path)).values()
    assert (read.language, read.reference) == ("de", "of the table")
    assert json.loads(read.metadata or "") == {"mood": "good", "speaker": "anna"}


def test_rows_of_a_table_without_audio_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "a.wav")
    (tmp_path / "metadata.csv").write_text("file_name,text\na.wav,a\nlost.wav,b\nalso/lost.wav,c\n")
    with caplog.at_level(logging.INFO):
        (ref,) = formats.list_recordings(SourceConfig(uri=str(tmp_path)))
    assert ref.reference == "a"
    assert "2 texts or companion files belong to no audio" in caplog.text
    assert "lost.wav" in caplog.text
    assert "not read" not in caplog.text
    assert "ignored" not in caplog.text


def test_a_table_in_a_store_describes_its_files() -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/folder/audio/a.wav", b"A")
    memory.pipe_file("/folder/metadata.jsonl", b'{"file_name": "audio/a.wav", "text": "hallo", "language": "zh-HK"}')
    (ref,) = listed("memory://folder")
    assert (ref.problem, ref.reference) == ("unsupported_language", "hallo")
    (ref,) = listed("memory://folder", language="de")
    assert (ref.problem, ref.language, ref.reference) == (None, "de", "hallo")


def test_looking_for_tables_takes_one_request_for_each_folder_of_a_bucket(s3: SmallS3) -> None:
    s3.objects = {f"in/{folder}/{number}.wav": b"x" for folder in range(3) for number in range(2)}
    s3.objects |= {"in/1/metadata.csv": b"file_name,text\n0.wav,eins\n", "in/2/metadata.csv.bak": b"x"}
    assert [ref.reference for ref in listed("s3://b/in")] == [None, None, "eins", None, None, None]
    looked = [key for _, key, _ in s3.log if "metadata" in key and not key.endswith(".csv")]
    assert sorted(looked) == ["?in/0/metadata.", "?in/1/metadata.", "?in/2/metadata.", "?in/metadata."]


@pytest.mark.parametrize(
    ("tables", "expected"),
    [
        (
            {
                "in/metadata.tsv": b"file_name\ttext\na.wav\ttsv\n",
                "in/metadata.jsonl": b'{"file_name": "a.wav", "text": "jsonl"}',
            },
            "tsv",
        ),
        ({"in/metadata.csv": b"file_name,text\nlj/a.wav,above\n", "in/docs/metadata.csv": b"file_name,text\n"}, None),
        ({"metadata.csv": b"file_name,text\na.wav,elsewhere\n"}, None),
    ],
)
def test_tables_in_a_bucket_are_those_of_the_folder(
    s3: SmallS3, tables: dict[str, bytes], expected: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    s3.objects = tables | {"in/a.wav": b"x"}
    assert [ref.reference for ref in listed("s3://b/in")] == [expected]
    assert "not read" not in caplog.text


def test_a_folder_without_a_name_has_its_own_tables(s3: SmallS3) -> None:
    s3.objects = {"in//a.wav": b"x", "in//metadata.csv": b"file_name,text\na.wav,right\n"}
    s3.objects["in/metadata.csv"] = b"file_name,text\na.wav,wrong\n"
    assert [ref.reference for ref in listed("s3://b/in")] == ["right"]


def test_the_table_of_lj_speech_in_a_bucket_is_read_and_not_said_to_be_left_out(
    s3: SmallS3, caplog: pytest.LogCaptureFixture
) -> None:
    s3.objects = {"lj/wavs/LJ001-0001.wav": b"x", "lj/metadata.csv": b"LJ001-0001|its text|its text\n"}
    assert [ref.reference for ref in listed("s3://b/lj")] == ["its text"]
    assert "not read" not in caplog.text


def test_tables_in_folders_that_are_not_searched_are_named(
    s3: SmallS3, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(metadata_tables, "REMOTE_FOLDERS", 2)
    s3.objects = {f"in/{folder}/a.wav": b"x" for folder in range(4)}
    s3.objects |= {f"in/{folder}/metadata.csv": b"file_name,text\na.wav,eins\n" for folder in range(4)}
    assert [ref.reference for ref in listed("s3://b/in")] == ["eins", "eins", None, None]
    assert "s3://b/in: 2 tables were not read" in caplog.text
    assert "the first is s3://b/in/2/metadata.csv" in caplog.text


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
