"""FLEURS: rows without a header joined with a packed or unpacked archive; the file name is the id."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import ConfigError, SourceConfig
from pipeline.schemas import RecordingRef
from pipeline.sources.formats import list_recordings, read_recording
from tests.support.corpora import FLEURS, archive, clip, fleurs, seconds, table, write


def listed(uri: Path | str, **keys: str) -> list[RecordingRef]:
    return list(list_recordings(SourceConfig(uri=str(uri), **keys)))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("packed", [True, False])
def test_packed_and_unpacked_audio_give_the_same_recordings(tmp_path: Path, packed: bool, end: str) -> None:
    write(tmp_path, fleurs(packed=packed, end=end))
    refs = listed(tmp_path)  # detected by `format: auto`
    stems = ["1020", "1015", "1004"] if packed else ["1004", "1015", "1020"]  # in the order of the audio
    assert [ref.recording_id for ref in refs] == [f"en_us/{stem}" for stem in stems]
    for ref in refs:
        number, raw, text, gender = FLEURS[ref.recording_id.removeprefix("en_us/") + ".wav"]
        recording = read_recording(ref)
        assert (recording.audio, recording.language, recording.reference) == (clip("en-us", text, "wav"), "en", text)
        metadata = {"raw_transcription": raw, "sentence_id": number, "gender": gender, "split": "test"}
        assert json.loads(recording.metadata or "") == metadata
        assert ref.seconds == pytest.approx(seconds("en-us", text))
        assert ref.version


@pytest.mark.parametrize(
    ("folder", "language"),
    [("en_us", "en"), ("de_de", "de"), ("fr_fr", "fr"), ("es_419", "es"), ("hi_in", "hi"), ("cmn_hans_cn", "zh")],
)
def test_the_folder_gives_the_language(tmp_path: Path, folder: str, language: str) -> None:
    write(tmp_path, fleurs(folder))
    for uri in (tmp_path, tmp_path / "data", tmp_path / "data" / folder, tmp_path / "data" / folder / "test.tsv"):
        refs = listed(uri)
        assert {(ref.language, ref.problem) for ref in refs} == {(language, None)}
        assert refs[0].recording_id.startswith(f"{folder}/")


def test_a_language_that_the_model_does_not_know_is_a_problem_of_each_row_unless_one_is_set(tmp_path: Path) -> None:
    write(tmp_path, fleurs("nl_nl"))
    assert {(ref.recording_id, ref.problem) for ref in listed(tmp_path)} == {
        (f"nl_nl/{name.removesuffix('.wav')}", "unsupported_language") for name in FLEURS
    }
    assert {(ref.language, ref.problem) for ref in listed(tmp_path, language="de")} == {("de", None)}
    assert "language" not in (listed(tmp_path, language="de")[0].metadata or "")


def test_another_column_can_be_the_reference(tmp_path: Path) -> None:
    write(tmp_path, fleurs())
    assert {ref.reference for ref in listed(tmp_path, text_column="raw_transcription")} == {
        raw for _, raw, _, _ in FLEURS.values()
    }
    with pytest.raises(ConfigError, match=r"^source\.text_column: no column 'nope' in .*test\.tsv \(it has "):
        listed(tmp_path, text_column="nope")


def test_bad_rows_and_missing_audio_are_problems_of_their_own(tmp_path: Path) -> None:
    tree = fleurs()
    rows = table(
        ("7", "9.wav", "Gone", "gone", "g", "16000", "MALE"),
        ("7", "1004.wav", "Twice", "twice", "t", "16000", "MALE"),
        ("7", "../../etc/passwd", "x", "x", "x", "16000", "MALE"),
        ("7", "10.wav", "a\ttab", "x", "x", "16000", "MALE"),
        ("7", "11.wav", "x", "x", "x", "long", "MALE"),
    )
    tree["data/en_us/test.tsv"] += rows + b"\xff\n"
    refs = listed(write(tmp_path, tree))
    good = [ref.recording_id for ref in refs if ref.problem is None]
    assert good == ["en_us/1020", "en_us/1015", "en_us/1004"]
    assert {(ref.recording_id, ref.problem) for ref in refs if ref.problem} == {
        ("en_us/9", "missing_file"),
        ("en_us/1004", "duplicate_id"),
        ("data/en_us/test.tsv:6", "unsafe_name"),
        ("data/en_us/test.tsv:7", "bad_metadata"),
        ("data/en_us/test.tsv:8", "bad_metadata"),
        ("data/en_us/test.tsv:9", "bad_metadata"),
    }
    assert all("test.tsv" in (ref.problem_detail or "") for ref in refs if ref.problem)
    (gone,) = (ref for ref in refs if ref.problem == "missing_file")
    assert gone.reference == "gone"  # an evaluation counts it as deleted


def test_rows_after_the_end_of_a_cut_archive_have_its_problem(tmp_path: Path) -> None:
    tree = fleurs()
    path = "data/en_us/audio/test.tar.gz"
    refs = listed(write(tmp_path, tree | {path: tree[path][: len(tree[path]) // 2]}))
    assert {ref.recording_id for ref in refs} == {f"en_us/{name.removesuffix('.wav')}" for name in FLEURS}
    problems = [ref.problem for ref in refs]
    assert problems[0] is None
    assert set(problems[1:]) == {"truncated_archive"}


def test_plain_tars_are_read_by_range(tmp_path: Path) -> None:
    tree = {name: data for name, data in fleurs().items() if name.endswith(".tsv")}
    sounds = {f"test/{name}": clip("en-us", text, "wav") for name, (_, _, text, _) in FLEURS.items()}
    write(tmp_path, tree | {"data/en_us/audio/test.tar": archive(sounds, ".tar")})
    refs = listed(tmp_path)
    assert [ref.recording_id for ref in refs] == ["en_us/1004", "en_us/1015", "en_us/1020"]
    first = read_recording(refs[0])
    assert (first.audio, first.language, first.reference) == (sounds["test/1004.wav"], "en", "he said two red cats")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("fuzz"), fleurs(packed=False))


CELLS = st.lists(st.text(st.characters(codec="utf-8"), max_size=6) | st.just("1004.wav"), max_size=9).map("\t".join)


@given(st.lists(CELLS.map(str.encode) | st.binary(max_size=60), max_size=6))
def test_random_rows_never_raise_and_never_hide_a_good_one(folder: Path, rows: list[bytes]) -> None:
    good = fleurs()["data/en_us/test.tsv"].splitlines(keepends=True)
    lines = [row.replace(b"\n", b" ") + b"\n" for row in rows]
    path = folder / "data/en_us/test.tsv"
    path.write_bytes(good[0] + b"".join(lines) + b"".join(good[1:]))
    refs = listed(path)
    assert {ref.recording_id for ref in refs} >= {"en_us/1004", "en_us/1015", "en_us/1020"}
    valid = [ref.recording_id for ref in refs if ref.problem is None]
    assert len(valid) == len(set(valid))
    assert len(refs) <= len(good) + len(rows)
    for ref in refs:
        assert ref.problem is None or ref.problem_detail
