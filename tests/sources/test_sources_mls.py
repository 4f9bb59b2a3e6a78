"""Multilingual LibriSpeech: transcripts by id, speakers and books from it, times from segments.txt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.config import ConfigError, SourceConfig
from pipeline.schemas import RecordingRef
from pipeline.sources.corpora import mls
from pipeline.sources.formats import list_recordings, read_recording
from tests.support.corpora import MLS, clip, table, write
from tests.support.corpora import mls as tree_of


def listed(uri: Path | str, **keys: str) -> dict[str, RecordingRef]:
    return {ref.recording_id: ref for ref in list_recordings(SourceConfig(uri=str(uri), **keys))}


@pytest.mark.parametrize("kind", ["flac", "opus"])
def test_a_tree_gives_references_speakers_and_seconds(tmp_path: Path, kind: str) -> None:
    write(tmp_path, tree_of(kind=kind))
    refs = listed(tmp_path)  # detected by `format: auto`
    assert tuple(refs) == MLS
    assert [ref.reference for ref in refs.values()] == ["guten morgen", "die brücke ist rosa", 'er sagte "ja"']
    assert {(ref.language, ref.seconds, ref.problem) for ref in refs.values()} == {("de", 2.25, None)}
    recording = read_recording(refs[MLS[0]])
    assert recording.audio == clip("de", "guten morgen", kind)
    assert json.loads(recording.metadata or "") == {
        "speaker": "4650",
        "book": "7935",
        "gender": "F",
        "url": f"http://archive/{MLS[0]}.mp3",
        "start": "10.5",
        "end": "12.75",
        "split": "test",
    }
    assert "gender" not in json.loads(refs[MLS[2]].metadata or "")


@pytest.mark.parametrize(("name", "language"), [("english", "en"), ("french", "fr"), ("spanish", "es")])
def test_the_folder_gives_the_language_from_any_root(tmp_path: Path, name: str, language: str) -> None:
    write(tmp_path, tree_of(name))
    for uri in ("", f"mls_{name}", f"mls_{name}/test", f"mls_{name}/test/transcripts.txt"):
        assert {ref.language for ref in listed(tmp_path / uri).values()} == {language}


def test_missing_audio_and_bad_lines_are_problems_of_their_own(tmp_path: Path) -> None:
    tree = {name: data for name, data in tree_of().items() if MLS[1] not in name}
    tree["mls_german/test/transcripts.txt"] += b"no_id\tx\n1_2_3\ta\tb\n../_.._x\ty\n"
    refs = listed(write(tmp_path, tree))
    assert {name: ref.problem for name, ref in refs.items() if ref.problem} == {
        MLS[1]: "missing_file",
        "mls_german/test/transcripts.txt:4": "bad_metadata",
        "mls_german/test/transcripts.txt:5": "bad_metadata",
        "mls_german/test/transcripts.txt:6": "bad_metadata",
    }
    assert refs[MLS[1]].reference == "die brücke ist rosa"


def test_without_segments_or_with_strange_ones_nothing_is_declared(tmp_path: Path) -> None:
    tree = tree_of()
    del tree["mls_german/test/segments.txt"], tree["mls_german/metainfo.txt"]
    assert {ref.seconds for ref in listed(write(tmp_path / "none", tree)).values()} == {None}
    strange = table((MLS[0], "u", "5", "4"), (MLS[1], "u", "x", "y"), (MLS[2], "u"))
    write(tmp_path / "strange", tree | {"mls_german/test/segments.txt": strange})
    assert {ref.seconds for ref in listed(tmp_path / "strange").values()} == {None}


def test_segments_in_another_order_are_held_in_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mls, "LOOK_AHEAD", 2)
    write(tmp_path, tree_of())  # segments: 1844.., 4650.._1, 4650.._2; transcripts: the first one last
    assert [ref.seconds for ref in listed(tmp_path).values()] == [2.25, 2.25, 2.25]
    monkeypatch.setattr(mls, "LOOK_AHEAD", 1)
    assert [ref.seconds for ref in listed(tmp_path).values()] == [None, None, 2.25]


def test_splits_are_folders(tmp_path: Path) -> None:
    write(tmp_path, tree_of() | tree_of(split="dev"))
    with pytest.raises(ConfigError, match=r"^source\.split: .* has several; set it to one of dev, test$"):
        listed(tmp_path)
    with pytest.raises(ConfigError, match=r"^source\.split: .* has no 'train' \(it has dev, test\)$"):
        listed(tmp_path, split="train")
    assert len(listed(tmp_path, split="dev")) == 3
