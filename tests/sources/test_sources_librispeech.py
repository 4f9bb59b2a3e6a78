"""LibriSpeech trees: utterances with their transcripts, speaker and chapter."""

from __future__ import annotations

import json
from pathlib import Path

import fsspec
import pytest

from pipeline.config import ConfigError, SourceConfig
from pipeline.schemas import Recording, RecordingRef
from pipeline.sources.formats import list_recordings, read_recording

TREE = {
    "dev-clean/84/121123/84-121123-0000.flac": b"A",
    "dev-clean/84/121123/84-121123-0001.flac": b"BB",
    "dev-clean/84/121123/84-121123.trans.txt": b"84-121123-0000 GO DO YOU HEAR\n84-121123-0001 BUT  IN\r\n\n",
    "dev-clean/84/121550/84-121550-0000.flac": b"CCC",
    "dev-clean/84/121550/84-121550.trans.txt": b"84-121550-0000 MAYBE\n84-121550-0001 LOST\n",
    "SPEAKERS.TXT": b"84 | F | dev-clean",
}


def write(root: Path, tree: dict[str, bytes]) -> None:
    for name, data in tree.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def listed(uri: Path | str, **keys: str) -> dict[str, RecordingRef]:
    return {ref.recording_id: ref for ref in list_recordings(SourceConfig(uri=str(uri), **keys))}


def check(refs: dict[str, RecordingRef]) -> None:
    assert list(refs) == ["84-121123-0000", "84-121123-0001", "84-121550-0000", "84-121550-0001"]
    first = read_recording(refs["84-121123-0000"])
    assert first == Recording(b"A", "en", "GO DO YOU HEAR", first.metadata)
    assert json.loads(first.metadata or "") == {"speaker": "84", "chapter": "121123", "subset": "dev-clean"}
    assert refs["84-121123-0001"].reference == "BUT  IN"
    assert refs["84-121550-0001"].problem == "missing_file"
    assert refs["84-121550-0001"].reference == "LOST"


def test_a_tree_gives_references_speakers_and_chapters(tmp_path: Path) -> None:
    write(tmp_path, TREE)
    check(listed(tmp_path, language="en"))  # detected by `format: auto`
    refs = listed(tmp_path / "dev-clean/84", format="librispeech")
    assert json.loads(refs["84-121123-0000"].metadata or "") == {"speaker": "84", "chapter": "121123"}


@pytest.mark.parametrize("subset", ["test-clean", "test-other"])
def test_a_subset_of_the_release_is_a_root(tmp_path: Path, subset: str) -> None:
    for name in ("test-clean", "test-other"):
        write(tmp_path / "LibriSpeech", {key.replace("dev-clean", name): data for key, data in TREE.items()})
    refs = listed(tmp_path / "LibriSpeech" / subset)  # detected by `format: auto`
    assert list(refs) == ["84-121123-0000", "84-121123-0001", "84-121550-0000", "84-121550-0001"]
    assert all(f"/{subset}/" in ref.source_uri for ref in refs.values())
    assert {json.loads(ref.metadata or "")["speaker"] for ref in refs.values()} == {"84"}


def test_a_remote_tree_is_read_like_a_local_one() -> None:
    for name, data in TREE.items():
        fsspec.filesystem("memory").pipe_file(f"/libri/{name}", data)
    check(listed("memory://libri", language="en"))


def test_names_of_other_corpora_take_speaker_and_chapter_from_the_folders(tmp_path: Path) -> None:
    write(tmp_path, {"de/spk7/book3/x.wav": b"A", "de/spk7/book3/b.trans.txt": b"x hallo\n"})
    (ref,) = listed(tmp_path, format="librispeech").values()
    assert ref.reference == "hallo"
    assert json.loads(ref.metadata or "") == {"speaker": "spk7", "chapter": "book3", "subset": "de"}


def test_transcripts_that_cannot_be_read_are_the_problem_of_their_chapter(tmp_path: Path) -> None:
    write(tmp_path, TREE | {"dev-clean/84/121123/84-121123.trans.txt": b"84-121123-0000 \xff\xff"})
    refs = listed(tmp_path)
    assert [refs[name].problem for name in list(refs)[:3]] == ["bad_metadata", "bad_metadata", None]
    assert "121123.trans.txt: not UTF-8" in (refs["84-121123-0000"].problem_detail or "")


def test_columns_are_refused(tmp_path: Path) -> None:
    write(tmp_path, TREE)
    with pytest.raises(ConfigError, match=r"^source\.text_column: text: format librispeech has no columns for it$"):
        listed(tmp_path, text_column="text")
