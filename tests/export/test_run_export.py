"""What holds for all formats: the data card, resuming, mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.export import main
from tests.support.labelled import archive, transcribed


def words(tmp_path: Path, *more: str) -> list[str]:
    return ["export.format=txt", f"input.uri={tmp_path / 'out'}", f"output.uri={tmp_path / 'set'}", *more]


def test_the_data_card_says_what_is_in_it_and_how_to_make_it_again(tmp_path: Path) -> None:
    def change(row: dict) -> dict:
        silent = {"text": "", "words": []} if row["recording_id"] == "r3.wav" else {}
        return row | {"confidence": 0.75, "confidence_source": "calibrated:language"} | silent

    transcribed(str(archive(tmp_path / "in", 4)), str(tmp_path / "out"), change=change)
    assert main(["--config", "configs/export.yaml", *words(tmp_path)]) == 0
    card = (tmp_path / "set/DATA_CARD.md").read_text()
    assert card.startswith("# txt: 6 rows, 0.002 hours\n")
    assert "- expected WER: 25.0% of 24 words that have one\n" in card
    assert "- licence of the recordings: CC-BY-4.0\n" in card
    assert "- made by: tiny, revision abc123\n" in card
    assert "| no_text | 2 | 0.001 |\n" in card
    assert f"- source: {tmp_path / 'in'}\n" in card
    again = next(line for line in card.splitlines() if line.startswith("fullcanvas export "))
    assert main([*again.split()[2:], f"output.uri={tmp_path / 'again'}"]) == 0
    assert (tmp_path / "again/recordings/r0.wav.txt").exists()


def test_a_second_start_writes_no_shard_again(tmp_path: Path) -> None:
    transcribed(str(archive(tmp_path / "in", 3)), str(tmp_path / "out"))
    assert main(words(tmp_path, "export.shard_rows=1")) == 0
    text = tmp_path / "set/recordings/r1.wav.txt"
    before, commits = text.stat().st_ino, sorted((tmp_path / "set/_export/commits").iterdir())
    assert len(commits) == 3
    assert main(words(tmp_path, "export.shard_rows=1")) == 0
    assert text.stat().st_ino == before
    commits[1].unlink()
    assert main(words(tmp_path, "export.shard_rows=1")) == 0
    assert text.stat().st_ino != before


def test_another_format_or_other_labels_in_the_same_output_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    transcribed(str(archive(tmp_path / "in", 2)), str(tmp_path / "out"))
    assert main(words(tmp_path)) == 0
    assert main(words(tmp_path, "export.format=srt")) == 2
    assert 'export.format was "txt", now "srt"' in capsys.readouterr().err
    transcribed(str(tmp_path / "in"), str(tmp_path / "out2"), change=lambda row: row | {"text": "other"})
    assert main(words(tmp_path, f"input.uri={tmp_path / 'out2'}")) == 2
    assert "input.versions was" in capsys.readouterr().err
    for commit in (tmp_path / "set/_export/commits").iterdir():
        commit.unlink()  # as if it was killed before
    assert main(words(tmp_path, "export.format=srt")) == 2
    assert 'export.format was "txt", now "srt"' in capsys.readouterr().err


def test_a_folder_with_other_files_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    transcribed(str(archive(tmp_path / "in", 1)), str(tmp_path / "out"))
    assert main(words(tmp_path, f"output.uri={tmp_path / 'out'}")) == 2
    assert capsys.readouterr().err.endswith(" is there; an export needs a place of its own\n")
    assert not (tmp_path / "out/_export").exists()


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (["input.uri={}/nothing"], "input.uri: "),
        (["input.uri={}/empty"], "input.uri: {}/empty: neither labels nor published transcripts are there"),
        (["export.audio=segments"], "export.audio: txt has no segments, only reference"),
        (["export.all_rows=true"], "export.all_rows: only nemo has a mark for rows that are dropped, txt has none"),
    ],
)
def test_a_mistake_is_one_line(more: list[str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    transcribed(str(archive(tmp_path / "in", 1)), str(tmp_path / "out"))
    (tmp_path / "empty").mkdir()
    assert main(words(tmp_path, *(word.format(tmp_path) for word in more))) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(line.format(tmp_path))


def test_transcripts_of_another_run_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    transcribed(str(archive(tmp_path / "in", 1)), str(tmp_path / "out"))
    transcribed(str(archive(tmp_path / "other", 2)), str(tmp_path / "out2"))
    assert main(words(tmp_path, f"input.transcripts={tmp_path / 'out2'}")) == 3
    assert "are of units that are not planned: " in capsys.readouterr().err.splitlines()[-1]
