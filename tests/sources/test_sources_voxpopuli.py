"""VoxPopuli: the tree that its own scripts make, and the archives in parts of the hub."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.config import ConfigError, SourceConfig
from pipeline.schemas import RecordingRef
from pipeline.sources.formats import list_recordings, read_recording
from tests.support.corpora import VOXPOPULI, clip, voxpopuli, write

FIRST, SECOND = VOXPOPULI


def listed(uri: Path | str, **keys: str) -> dict[str, RecordingRef]:
    return {ref.recording_id: ref for ref in list_recordings(SourceConfig(uri=str(uri), **keys))}


@pytest.mark.parametrize("hub", [False, True])
def test_both_layouts_give_the_same_recordings(tmp_path: Path, hub: bool) -> None:
    write(tmp_path, voxpopuli(hub=hub))
    refs = listed(tmp_path)  # detected by `format: auto`
    assert set(refs) == {FIRST, SECOND}
    kind = "wav" if hub else "ogg"
    first, second = read_recording(refs[FIRST]), read_recording(refs[SECOND])
    assert (first.audio, second.audio) == (
        clip("en-us", "good morning friends", kind),
        clip("en-us", "two red cats", kind),
    )
    assert (first.language, first.reference) == ("en", "good morning friends")
    assert json.loads(first.metadata or "") == {
        "raw_text": '"Good morning", friends.',
        "split": "test",
        "gender": "female",
        "is_gold_transcript": "True",
        "accent": None,
        "speaker": "28229",
    }
    metadata = json.loads(second.metadata or "")
    assert (second.reference, metadata["speaker"], metadata["gender"]) == ("two red cats", None, None)


@pytest.mark.parametrize("old", ["id_", "audio_id"])
def test_the_id_may_have_another_name(tmp_path: Path, old: str) -> None:
    tree = voxpopuli()
    name = "transcribed_data/en/asr_test.tsv"
    refs = listed(write(tmp_path, tree | {name: tree[name].replace(b"id\t", old.encode() + b"\t", 1)}))
    assert {(ref.recording_id, ref.problem) for ref in refs.values()} == {(FIRST, None), (SECOND, None)}


def test_audio_is_joined_by_its_name_in_any_folder_below(tmp_path: Path) -> None:
    tree = {name.replace("/2009/", "/moved/deeper/"): data for name, data in voxpopuli().items()}
    refs = listed(write(tmp_path, tree))
    assert refs[SECOND].source_uri.endswith(f"/moved/deeper/{SECOND}.ogg")
    assert refs[SECOND].problem is None


def test_archives_of_other_splits_are_not_opened(tmp_path: Path) -> None:
    tree = voxpopuli(hub=True) | voxpopuli(hub=True, split="dev")
    parts = [name for name in tree if "/dev/" in name]
    write(tmp_path, tree | dict.fromkeys(parts, b"damaged" * 200))
    with pytest.raises(ConfigError, match=r"has several; set it to one of dev, test$"):
        listed(tmp_path)
    assert {ref.problem for ref in listed(tmp_path, split="test").values()} == {None}
    assert {ref.problem for ref in listed(tmp_path, split="dev").values()} == {"corrupt_archive"}


def test_a_row_without_audio_keeps_its_reference(tmp_path: Path) -> None:
    tree = {name: data for name, data in voxpopuli().items() if SECOND not in name}
    tree["transcribed_data/en/asr_test.tsv"] += b"short\trow\n"
    refs = listed(write(tmp_path, tree))
    assert (refs[SECOND].problem, refs[SECOND].reference) == ("missing_file", "two red cats")
    assert refs["transcribed_data/en/asr_test.tsv:4"].problem == "bad_metadata"
    assert refs[FIRST].problem is None


@pytest.mark.parametrize(("folder", "language"), [("de", "de"), ("en_accented", "en"), ("fr", "fr")])
def test_the_folder_gives_the_language(tmp_path: Path, folder: str, language: str) -> None:
    write(tmp_path, voxpopuli(folder))
    assert {ref.language for ref in listed(tmp_path / "transcribed_data" / folder).values()} == {language}
