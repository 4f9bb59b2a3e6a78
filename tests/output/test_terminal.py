"""What the terminal shows: the table, the summary line."""

from __future__ import annotations

import pytest

from pipeline.output.tables import Line
from pipeline.output.terminal import clock, print_table, summary_line

SUMMARY = {
    "complete": True,
    "recordings": 44,
    "segments": 109,
    "audio_hours": 0.0844,
    "recordings_dead_lettered": 3,
    "dead_letters": {"empty_file": 1, "not_audio": 2},
    "pipeline_rtfx": 10.04,
    "units_committed": 8,
    "units_planned": 8,
}


def test_the_summary_line_has_every_figure() -> None:
    assert summary_line(SUMMARY) == (
        "44 recordings, 109 segments, 0.084 audio hours, 3 dead letters (empty_file 1, not_audio 2), pipeline_rtfx 10.0"
    )


def test_the_summary_line_says_what_is_damaged_and_what_is_in_unread_archives() -> None:
    more = {"damaged": {"truncated_audio": 2}, "recordings_damaged": 2, "recordings_unread": 35}
    line = summary_line(SUMMARY | more)
    assert ", 2 damaged (truncated_audio 2), about 35 more recordings in archives that cannot be read, " in line


def test_the_summary_line_says_which_files_were_left_out_by_name() -> None:
    counts = {"txt": 12, "pdf": 3, "": 2, "a": 1, "b": 1, "c": 1, "d": 1, "e": 1}
    line = summary_line(SUMMARY | {"ignored_files": counts})
    assert "left out by name: 12 .txt, 3 .pdf, 2 without extension, 1 .a, 1 .b, 1 .c, 2 others, " in line


def test_the_summary_line_says_what_was_not_heard() -> None:
    line = summary_line(SUMMARY | {"left_out": {"audio_tracks": 2, "bytes": 1234}})
    assert "2 audio tracks are not recognised (source.track=all recognises all), 1,234 bytes behind the audio" in line


def test_the_summary_line_of_an_unfinished_output_says_how_far_it_is() -> None:
    partial = SUMMARY | {"complete": False, "units_committed": 3, "dead_letters": {}, "recordings_dead_lettered": 0}
    del partial["pipeline_rtfx"]
    assert summary_line(partial) == (
        "44 recordings, 109 segments, 0.084 audio hours, 0 dead letters, pipeline_rtfx unknown, 3 of 8 units so far"
    )


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (61, "1:01"), (3599.6, "1:00:00"), (90061, "25:01:01")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_the_table_is_cut_in_both_directions(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [Line(f"r{number}", "en", "word " * 50, 0.5) for number in range(60)]
    print_table(lines, recordings=1000)
    out = capsys.readouterr().out.splitlines()
    assert out[0].split() == ["recording", "language", "text", "confidence"]
    assert len(out) == 42
    assert out[-1] == "... and 960 more"
    assert max(map(len, out)) <= 120
    assert all("word word" in line and line.endswith("0.50") for line in out[1:-1])


def test_a_table_of_what_nobody_expects_stays_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [
        Line("[red]r[/red]", None, "a [bold]b\x1b[31m\nc", 1.0),
        Line("silent", "de", "", None),
    ]
    print_table(lines, recordings=2)
    out = capsys.readouterr().out
    assert "[red]r[/red]" in out
    assert "a [bold]b [31m c" in out
    assert "\x1b" not in out
    assert "(silence)" in out
    assert len(out.splitlines()) == 3
