"""Common Voice: tables of several releases, quotes that are characters, clips that are missing."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import ConfigError, SourceConfig
from pipeline.schemas import RecordingRef
from pipeline.sources.formats import list_recordings, read_recording
from tests.support.corpora import clip, commonvoice, table, write

LOCALE = "cv-corpus-17.0-2024-03-15/de"


def listed(uri: Path | str, **keys: str) -> dict[str, RecordingRef]:
    return {ref.recording_id: ref for ref in list_recordings(SourceConfig(uri=str(uri), **keys))}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("new", [True, False])
def test_old_and_new_releases_give_the_same_recordings(tmp_path: Path, new: bool, end: str) -> None:
    write(tmp_path, commonvoice(new=new, end=end))
    refs = listed(tmp_path)  # detected by `format: auto`
    assert list(refs) == [f"common_voice_de_{number}" for number in (17, 18, 19, 20)]
    assert [ref.reference for ref in refs.values()] == [
        'Er sagte "ja" und ging.',  # quotes are characters
        '"Nein!"',
        '"Brot", sagte sie.',  # but for those that csv has written
        "Fehlt.",
    ]
    assert [ref.problem for ref in refs.values()] == [None, None, None, "missing_file"]
    recording = read_recording(refs["common_voice_de_18"])  # its path has no .mp3
    assert (recording.audio, recording.language) == (clip("de", "guten morgen", "mp3"), "de")
    metadata = json.loads(recording.metadata or "")
    assert (metadata["speaker"], metadata["age"], metadata["split"]) == ("cd34", "fourties", "test")
    assert metadata["gender"] == ("male_masculine" if new else "male")
    assert {"client_id", "path", "locale", "sentence"}.isdisjoint(metadata)


def test_durations_are_known_if_the_release_has_them(tmp_path: Path) -> None:
    seconds = [ref.seconds for ref in listed(write(tmp_path / "new", commonvoice())).values()]
    assert seconds == [2.004, 1.25, None, None]
    tree = commonvoice() | {f"{LOCALE}/clip_durations.tsv": table(("clip", "duration[ms]"), ("x", "long"), ("y",))}
    assert {ref.seconds for ref in listed(write(tmp_path / "bad", tree)).values()} == {None}


@pytest.mark.parametrize(("locale", "language"), [("en", "en"), ("zh-CN", "zh"), ("hi", "hi"), ("es", "es")])
def test_the_locale_is_the_language(tmp_path: Path, locale: str, language: str) -> None:
    write(tmp_path, commonvoice(locale))
    for uri in (tmp_path, tmp_path / "cv-corpus-17.0-2024-03-15" / locale):
        assert {ref.language for ref in listed(uri).values()} == {language}


def test_a_row_of_another_locale_is_a_problem_of_that_row(tmp_path: Path) -> None:
    tree = commonvoice(new=False)
    name = f"{LOCALE}/test.tsv"
    lines = tree[name].splitlines(keepends=True)
    tree[name] = b"".join([lines[0], lines[1].replace(b"\tde\t", b"\tbr\t"), *lines[2:], b"too\tfew\n"])
    refs = listed(write(tmp_path, tree))
    problems = ["unsupported_language", None, None, "missing_file", "bad_metadata"]
    assert [ref.problem for ref in refs.values()] == problems
    assert list(refs)[-1] == f"{LOCALE}/test.tsv:6"


def test_one_of_several_splits_must_be_named(tmp_path: Path) -> None:
    write(tmp_path, commonvoice(split="validated") | commonvoice())
    with pytest.raises(ConfigError, match=r"^source\.split: .* has several; set it to one of test, validated$"):
        listed(tmp_path)
    assert {json.loads(ref.metadata or "")["split"] for ref in listed(tmp_path, split="validated").values()} == {
        "validated"
    }
    assert len(listed(tmp_path / LOCALE / "test.tsv")) == 4


def test_a_table_that_is_not_of_common_voice_is_an_error_in_one_line(tmp_path: Path) -> None:
    tree = commonvoice() | {f"{LOCALE}/test.tsv": b"client_id\tsentence\na\tb\n"}
    with pytest.raises(ConfigError, match=r"^source\.uri: .*test\.tsv: no column path \(it has client_id, sentence\)$"):
        listed(write(tmp_path, tree))


def test_a_table_is_read_line_by_line(tmp_path: Path) -> None:
    rows = ((f"speaker {row}", f"common_voice_de_{row}.mp3", f"Satz {row}.", "de") for row in range(10_000))
    tree = {"test.tsv": table(("client_id", "path", "sentence", "locale"), *rows), "clips/x.mp3": b""}
    write(tmp_path / "de", tree)
    tracemalloc.start()
    try:
        count = sum(1 for _ in list_recordings(SourceConfig(uri=str(tmp_path))))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 10_000
    assert peak < len(tree["test.tsv"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("fuzz"), commonvoice(new=False))


CELL = st.text(st.characters(codec="utf-8", exclude_characters="\n\t"), max_size=8)


@given(st.lists(st.lists(CELL, max_size=12).map(lambda cells: "\t".join(cells).encode()) | st.binary(max_size=60)))
def test_random_rows_never_raise_and_never_hide_a_good_one(folder: Path, rows: list[bytes]) -> None:
    header, *good = commonvoice(new=False)[f"{LOCALE}/test.tsv"].splitlines(keepends=True)
    lines = [row.replace(b"\n", b" ") + b"\n" for row in rows]
    path = folder / LOCALE / "test.tsv"
    path.write_bytes(header + good[0] + b"".join(lines) + b"".join(good[1:]))
    refs = list(list_recordings(SourceConfig(uri=str(path))))
    assert [ref.recording_id for ref in refs if ref.problem is None] == [
        f"common_voice_de_{number}" for number in (17, 18, 19)
    ]
    assert len(refs) <= 4 + len(rows)


SENTENCES = st.text(st.sampled_from("\"'«a é日,;"), min_size=1, max_size=8)


@given(st.lists(SENTENCES, min_size=1, max_size=5))
def test_a_sentence_stays_as_it_is_unless_csv_has_quoted_it(folder: Path, sentences: list[str]) -> None:
    plain = [text for text in sentences if not (text[0] == text[-1] == '"' and '""' in text[1:-1])]
    quoted = [text for text in sentences if '"' in text]
    rows = [*plain, *('"' + text.replace('"', '""') + '"' for text in quoted)]
    path = folder / LOCALE / "dev.tsv"
    path.write_bytes(table(("path", "sentence"), *(("common_voice_de_17.mp3", text) for text in rows)))
    if rows:
        references = [ref.reference for ref in list_recordings(SourceConfig(uri=str(path)))]
        assert references == [*plain, *quoted]
