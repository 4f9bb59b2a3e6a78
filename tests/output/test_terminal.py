"""What the terminal shows: progress lines, the table, the summary line."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest

from pipeline.output.tables import Line
from pipeline.output.terminal import RunProgress, clock, print_table, summary_line
from pipeline.schemas import SAMPLE_RATE

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


def even(units: Sequence[str]) -> list[float]:
    """600 s of audio are expected of every unit."""
    return [600.0] * len(units)


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


def test_without_a_terminal_there_is_a_line_every_interval_and_one_at_the_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with RunProgress(4, 1, even, 3 * 600, every_seconds=0.2) as progress:
        progress.add("a", samples=3600 * SAMPLE_RATE, dead=2)
        time.sleep(0.5)
        progress.add("b", samples=0, dead=0)
        progress.add("c", samples=0, dead=0)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 3
    assert lines[0].startswith("2 of 4 units · 1 pieces · 1.00 h of audio · RTFx ")
    assert "2 dead letters · ETA " in lines[0]
    assert lines[-1].startswith("4 of 4 units")
    assert "ETA" not in lines[-1]


def test_a_run_that_breaks_prints_no_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), RunProgress(4, 1, even, 1800):
        raise ZeroDivisionError
    assert capsys.readouterr().err == ""


def test_the_speed_counts_this_run_only() -> None:
    progress = RunProgress(10, 9, even, 600)
    assert "RTFx 0.0" in progress.text()
    progress.add("a", samples=SAMPLE_RATE, dead=0)
    assert "10 of 10 units" in progress.text()


def test_the_time_left_follows_the_expected_seconds_and_not_the_number_of_units(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One unit has an hour, nine have 100 s each. After 10 s on the clock half an hour is done, or the nine are."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    expected = {"long": 3600.0} | {f"short{number}": 100.0 for number in range(9)}
    lengths = lambda units: [expected[unit] for unit in units]  # noqa: E731
    pieces, shorts = (RunProgress(10, 0, lengths, sum(expected.values())) for _ in range(2))
    now[0] += 10
    for _ in range(2):
        pieces.add("long", samples=900 * SAMPLE_RATE, dead=0, done=False)
    assert pieces.text().startswith("0 of 10 units · 2 pieces · ")
    assert pieces.text().endswith("ETA 0:15")  # 2,700 s of audio at 180 s per second
    pieces.add("long", samples=900 * SAMPLE_RATE, dead=0)  # it was shorter than expected
    assert pieces.text().endswith("ETA 0:02")
    for number in range(9):
        shorts.add(f"short{number}", samples=0, dead=1)  # dead letters have no samples
    assert shorts.text().endswith("ETA 0:40")


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
