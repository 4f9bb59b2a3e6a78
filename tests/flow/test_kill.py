"""kill -9 at random moments, then the same command again: every recording is there once, and the books close."""

from __future__ import annotations

import json
import random
import subprocess
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.audio.stage import Decoder
from pipeline.output.attempts import PREFIX as ATTEMPTS
from pipeline.output.pieces import PREFIX
from pipeline.schemas import About, WorkUnit
from pipeline.sources.formats import list_recordings
from tests.support.archives import archive, arguments, settings, wav
from tests.support.drivers import HANG, committed, finish, held, kill, start

RECORDINGS = 120  # 30 units of 4, and one behind them
COMMITS = 24  # so many units are committed for certain, although the last bundle is held and some may be suspects
DRIVERS = 2  # drivers that are killed; a third one finishes
KILLS = ("GuardedDecoder",) * 2 + ("GuardedReplica",) * 2 + ("driver",)  # for each driver: 2 * 5 = 10 kills
SEED = 20


def check_alive(driver: subprocess.Popen[bytes], stage: str, deadline: float) -> None:
    assert driver.poll() is None, f"the driver ended before the kill of {stage}"
    assert time.monotonic() < deadline
    time.sleep(0.05)


def wait_for_the_third_piece(output: Path, driver: subprocess.Popen[bytes], deadline: float) -> None:
    """Until the decoder is at the piece at which it is held."""
    while not list((output / ATTEMPTS).glob("*.2/decode-*")):
        check_alive(driver, "GuardedDecoder", deadline)


def one_more_saved(
    output: Path, before: set[str], driver: subprocess.Popen[bytes], stage: str, deadline: float
) -> set[str]:
    """The saved pieces, as soon as there are more than `before`."""
    saved: set[str] = set()
    while len(saved) <= len(before):
        saved = {str(path) for path in (output / PREFIX).glob("*/*")}
        check_alive(driver, stage, deadline)
    return saved


@pytest.mark.slow
@pytest.mark.timeout(HANG + 300)
def test_after_ten_kills_every_recording_is_there_once(tmp_path: Path, small_model_dir: Path) -> None:
    chance = random.Random(SEED)
    source = archive(tmp_path / "in", RECORDINGS)
    (source / "r010b.wav").write_bytes(b"")
    words = arguments(source, tmp_path / "out", small_model_dir)
    log = tmp_path / "log"
    kills: Counter[str] = Counter()
    deadline = time.monotonic() + HANG
    for _ in range(DRIVERS):
        driver = start(words, log, **held(tmp_path / "hold"))
        try:
            for stage in KILLS:
                # Decode actors run ahead, so they are killed first, at any time. The others wait.
                wanted = 0 if stage == "GuardedDecoder" else committed(tmp_path / "out") + chance.randrange(4)
                wanted = min(wanted, COMMITS)
                while committed(tmp_path / "out") < wanted:
                    check_alive(driver, stage, deadline)
                time.sleep(chance.uniform(0, 1.5))
                while not kill(driver.pid, stage):
                    check_alive(driver, stage, deadline)
                kills[stage] += 1
        finally:
            driver.kill()
            driver.wait()
    assert kills == {"GuardedDecoder": 4, "GuardedReplica": 4, "driver": 2}
    assert "raylet" not in log.read_text()  # Ray's own words about processes that die
    finish(words, log)
    rows = pq.read_table(tmp_path / "out/transcripts", columns=["recording_id", "segment_index"]).to_pylist()
    letters = pq.read_table(tmp_path / "out/dead_letters", columns=["recording_id", "reason"]).to_pylist()
    assert max(Counter((row["recording_id"], row["segment_index"]) for row in rows).values()) == 1
    assert {row["recording_id"] for row in rows} == {f"r{number:03d}.wav" for number in range(RECORDINGS)}
    assert letters == [{"recording_id": "r010b.wav", "reason": "empty_file"}]
    assert json.loads((tmp_path / "out/_run/accounting.json").read_text())["closed"]


@pytest.mark.slow
@pytest.mark.timeout(HANG + 300)
def test_a_long_recording_is_whole_after_kills_between_its_pieces(tmp_path: Path, small_model_dir: Path) -> None:
    """Decode actor, replica and driver are killed while pieces are saved. A saved piece is not recognised again."""
    chance = random.Random(SEED)
    source, output = tmp_path / "in", tmp_path / "out"
    wav(source / "a.wav", 5.0, seed=1)
    wav(source / "b.wav", 200.0, seed=2)
    words = [*arguments(source, output, small_model_dir), "segment.piece_seconds=60"]
    config = settings(source, output, small_model_dir, "segment.piece_seconds=60")
    unit = WorkUnit("0" * 16, tuple(list_recordings(config.source)))
    pieces = list(Decoder(config, About(1.0, ("en",), "m", "f")).pieces(unit))
    wanted = {(s["key"].partition("#")[0], s["segment_index"], s["start_sample"]) for p in pieces for s in p.segments}
    log = tmp_path / "log"
    deadline = time.monotonic() + HANG
    saved: set[str] = set()
    for stages in (("GuardedDecoder", "GuardedReplica", "driver"), ()):
        driver = start(words, log, **(held(tmp_path / "hold", "THIRD_PIECE") if stages else {}))
        try:
            for stage in stages:
                if stage == "GuardedDecoder":
                    wait_for_the_third_piece(output, driver, deadline)
                else:
                    saved = one_more_saved(output, saved, driver, stage, deadline)
                    time.sleep(chance.uniform(0, 0.3))
                while not kill(driver.pid, stage):
                    check_alive(driver, stage, deadline)
            if not stages:
                assert driver.wait(timeout=max(1, deadline - time.monotonic())) == 0, log.read_text()[-3000:]
        finally:
            driver.kill()
            driver.wait()
    assert len(saved) >= 2
    rows = pq.read_table(output / "transcripts", columns=["recording_id", "segment_index", "start_ms"]).to_pylist()
    assert {(row["recording_id"], row["segment_index"], row["start_ms"] * 16) for row in rows} == wanted
    assert len(rows) == len(wanted)
    assert json.loads((output / "_run/accounting.json").read_text())["closed"]
    assert json.loads((output / "_run/summary.json").read_text())["pipeline_audio_seconds"] < 205 - 50
    assert not list((output / PREFIX).glob("*/*"))
