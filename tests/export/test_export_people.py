"""Subtitles and texts for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.export import main
from pipeline.export.cues import Cue, cues_of
from pipeline.export.labels import Label
from tests.support.labelled import archive, transcribed


def label(words: list[tuple[str, int | None, int | None]], text: str, start: int = 0, end: int = 9000) -> Label:
    rows = [{"text": word, "start_ms": begin, "end_ms": stop} for word, begin, stop in words]
    known = dict.fromkeys(Label.__slots__) | {"start_ms": start, "end_ms": end, "text": text, "words": rows}
    return Label(**known)  # type: ignore[arg-type]


def at(word: str, start: int, length: int = 200) -> tuple[str, int, int]:
    return word, start, start + length


def test_a_cue_has_two_lines_at_most() -> None:
    words = [at("abcdefghi", 300 * place) for place in range(10)]
    cues = list(cues_of(label(words, "")))
    assert [cue.lines for cue in cues] == [
        ("abcdefghi abcdefghi abcdefghi abcdefghi", "abcdefghi abcdefghi abcdefghi abcdefghi"),
        ("abcdefghi abcdefghi",),
    ]
    assert [(cue.start_ms, cue.end_ms) for cue in cues] == [(0, 2300), (2400, 2900)]


def test_mandarin_has_no_spaces_and_counts_double() -> None:
    cues = list(cues_of(label([at("好", 100 * place, 100) for place in range(30)], "好" * 30)))
    assert [cue.lines for cue in cues] == [("好" * 21, "好" * 9)]


def test_a_pause_and_seven_seconds_end_a_cue() -> None:
    words = [at("a", 0), at("b", 300), at("c", 1600), at("d", 2500, 500), at("e", 3400, 800), at("f", 4500, 4200)]
    assert list(cues_of(label(words, ""))) == [
        Cue(0, 500, ("a b",)),
        Cue(1600, 4200, ("c d e",)),
        Cue(4500, 8700, ("f",)),
    ]


def test_without_times_a_label_is_one_cue() -> None:
    assert list(cues_of(label([("a", None, None)], "a b", 5, 70))) == [Cue(5, 70, ("a b",))]
    assert list(cues_of(label([], "a b", 5, 70))) == [Cue(5, 70, ("a b",))]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("srt", "1\n00:00:00,000 --> 00:00:00,800\ngood morning my friend\n\n2\n00:00:01,000 --> 00:00:01,800\n"),
        ("vtt", "WEBVTT\n\n00:00:00.000 --> 00:00:00.800\ngood morning my friend\n\n00:00:01.000 --> 00:00:01.800\n"),
        ("txt", "good morning my friend\n"),
    ],
)
def test_each_recording_has_its_file_and_provenance_is_beside(name: str, content: str, tmp_path: Path) -> None:
    transcribed(str(archive(tmp_path / "in", 3)), str(tmp_path / "out"))
    words = [f"export.format={name}", f"input.uri={tmp_path / 'out'}", f"output.uri={tmp_path / 'set'}"]
    assert main(words) == 0
    files = sorted((tmp_path / "set/recordings").iterdir())
    assert [file.name for file in files] == [f"r{number}.wav.{name}" for number in range(3)]
    assert {file.read_text() for file in files} == {content + "good morning my friend\n"}
    rows = [json.loads(line) for line in (tmp_path / "set/train/provenance.jsonl").read_text().splitlines()]
    assert [(row["recording_id"], row["segment_indices"]) for row in rows[:3]] == [
        ("r0.wav", [0]),
        ("r0.wav", [1]),
        ("r1.wav", [0]),
    ]


def test_cues_of_overlapping_channels_are_in_the_order_of_time(tmp_path: Path) -> None:
    def change(row: dict[str, Any]) -> dict[str, Any]:
        late = [word | {"start_ms": word["start_ms"] + 1500, "end_ms": word["end_ms"] + 1500} for word in row["words"]]
        first = {"end_ms": 2400, "words": row["words"][:1] + late[1:]}
        return row | {"channel": row["segment_index"]} | ({} if row["segment_index"] else first)

    transcribed(str(archive(tmp_path / "in", 1)), str(tmp_path / "out"), change=change)
    assert main(["export.format=srt", f"input.uri={tmp_path / 'out'}", f"output.uri={tmp_path / 'set'}"]) == 0
    lines = (tmp_path / "set/recordings/r0.wav.srt").read_text().splitlines()
    assert [line[:12] for line in lines if "-->" in line] == ["00:00:00,000", "00:00:01,000", "00:00:01,700"]


def test_json_has_the_times_of_words_and_its_own_provenance(tmp_path: Path) -> None:
    transcribed(str(archive(tmp_path / "in", 1)), str(tmp_path / "out"))
    assert main(["export.format=json", f"input.uri={tmp_path / 'out'}", f"output.uri={tmp_path / 'set'}"]) == 0
    whole = json.loads((tmp_path / "set/recordings/r0.wav.json").read_text())
    assert whole["text"] == "good morning my friend good morning my friend"
    assert [word["start_ms"] for word in whole["segments"][1]["words"]] == [1000, 1200, 1400, 1600]
    row = whole["segments"][0]
    assert (row["speaker"], row["model_revision"], row["source_uri"]) == ("s0", "abc123", str(tmp_path / "in/r0.wav"))
    assert row["source_bytes"] == (tmp_path / "in/r0.wav").stat().st_size


def test_a_recording_whose_name_is_as_long_as_a_disk_takes_has_its_file(tmp_path: Path) -> None:
    names = [f"{'भ' * 83}{letter}.wav" for letter in "ab"]  # 254 bytes: an ending more is too long
    source = archive(tmp_path / "in", 2)
    for number, name in enumerate(names):
        (source / f"r{number}.wav").rename(source / name)
    (source / "metadata.jsonl").unlink()
    transcribed(str(source), str(tmp_path / "out"))
    assert main(["export.format=json", f"input.uri={tmp_path / 'out'}", f"output.uri={tmp_path / 'set'}"]) == 0
    files = sorted((tmp_path / "set/recordings").iterdir())
    assert [file.name[:80] for file in files] == ["भ" * 80] * 2
    assert sorted(json.loads(file.read_text())["recording_id"] for file in files) == names


def test_a_file_of_one_recording_that_is_a_folder_of_another_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An object store takes both keys; a disk does not."""
    source = archive(tmp_path / "in", 2)
    (source / "metadata.jsonl").unlink()
    (source / "r0.wav.txt").mkdir()
    (source / "r1.wav").rename(source / "r0.wav.txt/r1.wav")
    transcribed(str(source), str(tmp_path / "out"))
    assert main(["export.format=txt", f"input.uri={tmp_path / 'out'}", f"output.uri={tmp_path / 'set'}"]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{tmp_path / 'set/recordings/r0.wav.txt'}")
    assert ": one key is a file and a folder of others here; " in line
