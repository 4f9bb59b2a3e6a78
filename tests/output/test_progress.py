"""The progress of a run: lines, the view of a terminal, signs of life in the output, JSON logs."""

from __future__ import annotations

import json
import logging
import os
import pty
import select
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline import logs
from pipeline.output.progress import RunProgress
from pipeline.output.terminal import PUBLISHING, TRANSCRIBING
from pipeline.schemas import SAMPLE_RATE
from pipeline.storage.base import Storage, open_storage


def even(units: Sequence[str]) -> list[float]:
    """600 s of audio are expected of every unit."""
    return [600.0] * len(units)


def receipt(unit_id: str, seconds: float, *dead: str, done: bool = True, damaged: str | None = None) -> dict[str, Any]:
    """The row of RECEIPT of a unit with so much audio. dead: the reasons of its dead letters."""
    failed = [
        {"recording": f"{unit_id}/{number}", "reason": reason, "dead": True} for number, reason in enumerate(dead)
    ]
    if damaged:
        failed.append({"recording": f"{unit_id}/cut", "reason": damaged, "dead": False})
    counts = {"recordings": 9, "segments": 20, "dead": len(dead), "failed": failed}
    return {"unit_id": unit_id, "samples": round(seconds * SAMPLE_RATE), "done": done, **counts}


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "out"))


def sign(storage: Storage, share: str = "1of1") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(storage.get(f"_run/progress/{share}.json"))
    return found


def test_without_a_terminal_there_is_a_line_before_anything_is_known_then_one_every_interval_and_the_last_figures(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = ""

    def more_lines(count: int) -> list[str]:
        nonlocal said
        said += capsys.readouterr().err
        wanted = said.count("\n") + count
        while said.count("\n") < wanted:
            time.sleep(0.01)
            said += capsys.readouterr().err
        return said.splitlines()

    with RunProgress(every_seconds=0.1, first_seconds=0.0) as progress:
        assert more_lines(1)[0].startswith("planning · 0:0")
        progress.begin(4, 1, even, 3 * 600)
        progress.add(receipt("a", 3600, "not_audio", "empty_file", "not_audio", damaged="truncated_audio"))
        second = more_lines(2)[-1]  # the first of them may have its figures from before
        progress.add(receipt("b", 0))
        progress.add(receipt("c", 0))
        progress.phase(PUBLISHING)
    assert second.startswith("transcribing · 2 of 4 units · 1.00 h of audio · RTFx ")
    assert " · 3 dead letters (not_audio 2, empty_file 1) · ETA " in second
    (*_, last) = (line for line in more_lines(0) if line.startswith("transcribing · 4 of 4 units"))
    assert "ETA" not in last


def test_a_run_that_breaks_at_once_prints_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), RunProgress():
        raise ZeroDivisionError
    assert capsys.readouterr().err == ""


def test_a_terminal_shows_phases_units_and_dead_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as terminal:
        monkeypatch.setattr("sys.stderr", terminal)
        monkeypatch.setenv("COLUMNS", "100")
        monkeypatch.setenv("TERM", "xterm")
        with RunProgress() as progress:
            progress.begin(4, 1, even, 3 * 600)
            progress.add(receipt("a", 3600, "not_audio"))
            print("a warning", file=sys.stderr)
        shown = b""
        while select.select([master], [], [], 0)[0]:
            shown += os.read(master, 1 << 16)
    os.close(master)
    last = shown.decode().rpartition("✓ planning")[2]
    assert "✓ transcribing" in last
    assert "2 of 4 units" in last
    assert "1.00 h of audio · RTFx " in last
    assert "1 dead letters (not_audio 1)" in last
    assert b"a warning" in shown


def test_the_speed_counts_this_run_only() -> None:
    progress = RunProgress()
    progress.begin(10, 9, even, 600)
    assert progress.figures()["rtfx"] == 0
    progress.add(receipt("a", 1))
    assert progress.figures()["units_done"] == 10


def test_the_time_left_follows_the_expected_seconds_and_not_the_number_of_units(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One unit has an hour, nine have 100 s each. After 10 s on the clock half an hour is done, or the nine are."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    expected = {"long": 3600.0} | {f"short{number}": 100.0 for number in range(9)}
    pieces, shorts = RunProgress(), RunProgress()
    for progress in (pieces, shorts):
        progress.begin(10, 0, lambda units: [expected[unit] for unit in units], sum(expected.values()))
    now[0] += 10
    for _ in range(2):
        pieces.add(receipt("long", 900, done=False))
    assert pieces.figures()["units_done"] == 0
    assert pieces.figures()["eta_seconds"] == 15  # 2,700 s of audio at 180 s per second
    pieces.add(receipt("long", 900))  # it was shorter than expected
    assert pieces.figures()["eta_seconds"] == 2.5
    for number in range(9):
        shorts.add(receipt(f"short{number}", 0, "not_audio"))  # dead letters have no samples
    assert shorts.figures()["eta_seconds"] == 40


def test_the_output_says_how_far_its_run_is_and_how_it_ended(storage: Storage) -> None:
    with RunProgress("2/3") as progress:
        progress.storage, progress.run = storage, "abc"
        storage.put("_run/attempts/u1.0/model-abc-1", b"")
        storage.put("_run/attempts/u1.0/model-abc-2", b"")  # of its second attempt
        storage.put("_run/attempts/u2.0/decode-abc-3", b"")
        storage.put("_run/attempts/u2.0/decode-other-4", b"")
        progress.begin(4, 1, even, 1800)
        progress.add(receipt("a", 600, "not_audio"))
        progress.sign()
        found = sign(storage, "2of3")
        assert (found["state"], found["units_done"], found["units_total"]) == (TRANSCRIBING, 2, 4)
        assert found["at_work"] == {"decode": 1, "model": 1}
        assert found["dead_letters"] == {"not_audio": 1}
        assert found["eta_seconds"] >= 0
    assert sign(storage, "2of3")["state"] == "done"
    assert sign(storage, "2of3")["at_work"] == {}


@pytest.mark.parametrize(
    ("error", "state", "says"),
    [
        (ValueError("a https://user:pass@host\nb"), "failed", "a https://host b"),  # pragma: allowlist secret
        (KeyboardInterrupt(), "stopped", None),
    ],
)
def test_a_run_that_ends_early_says_so(storage: Storage, error: BaseException, state: str, says: str | None) -> None:
    progress = RunProgress()
    progress.storage = storage
    with pytest.raises(type(error)), progress:
        raise error
    assert (sign(storage)["state"], sign(storage)["error"]) == (state, says)


@pytest.fixture
def json_logs() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logs.units.setLevel(logging.NOTSET)


def test_json_logs_have_a_line_for_the_progress_each_unit_and_each_dead_letter(
    json_logs: None, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("json")
    with RunProgress() as progress:
        progress.begin(4, 1, even, 1800)
        progress.add(receipt("a", 600, "not_audio"))
        progress.add(receipt("b", 600, done=False))
        progress.phase(PUBLISHING)
    with logs.about(unit="a", recording="a/0"):
        logging.getLogger("pipeline").warning("odd: %s", "ä\n")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    dead, unit, line, odd = lines
    assert (dead["unit"], dead["recording"], dead["reason"], dead["level"]) == ("a", "a/0", "not_audio", "WARNING")
    assert (unit["message"], unit["unit"], unit["audio_seconds"], unit["dead"]) == ("committed", "a", 600, 1)
    assert line["message"].startswith("transcribing · 2 of 4 units")
    assert line["units_done"] == 2
    assert (odd["message"], odd["recording"]) == ("odd: ä\n", "a/0")
