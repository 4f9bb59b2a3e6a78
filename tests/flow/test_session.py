"""The folder of a local Ray: short enough for its sockets, nobody left in it, cleared by age."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.flow.reaper import holders
from pipeline.flow.session import clear_left_over, is_short, ray_folder, sessions_folder

ROOT = Path(__file__).parents[2]


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A TMPDIR of this test, which is short."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield folder
    shutil.rmtree(folder)


def test_a_long_temporary_folder_gets_a_short_one_for_ray(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sessions_folder().parent == temporary
    long = tmp_path / ("long" * 25)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert not is_short(long)
    assert is_short(sessions_folder())
    assert list(long.iterdir()) == []
    monkeypatch.setenv("RAY_TMPDIR", str(temporary))
    assert sessions_folder().parent == temporary


def test_the_folder_of_a_start_leaves_room_for_the_addresses_of_rays_sockets(temporary: Path) -> None:
    with ray_folder() as folder:
        longest = folder / "session_2026-11-29_06-28-06_024868_1234567/sockets/plasma_store"
        assert len(os.fsencode(longest)) <= 107
        assert folder.stat().st_mode & 0o077 == 0


def test_folders_that_nobody_wrote_to_for_long_are_cleared_at_the_next_start(temporary: Path) -> None:
    home = sessions_folder()
    old, used, new = (home / name / "session_1_2/logs" for name in ("old", "used", "new"))
    long_ago = time.time() - 7200
    for logs in (old, used, new):
        logs.mkdir(parents=True)
        (logs / "raylet.out").write_text("x")
        for path in (logs / "raylet.out", *list(logs.parents)[:2], logs):
            os.utime(path, (long_ago, long_ago))
    (new / "raylet.out").write_text("still writing")
    with (used / "raylet.out").open("rb"):  # stopped for a while, and alive
        other = [sys.executable, "-c", f"import time; f = open({str(used / 'raylet.out')!r}); time.sleep(600)"]
        with subprocess.Popen(other) as process:
            while process.pid not in holders(str(used)):
                time.sleep(0.1)
            assert clear_left_over(home) == 1
            process.kill()
    assert sorted(path.name for path in home.iterdir()) == ["new", "used"]


def test_a_driver_that_goes_on_after_its_ray_is_not_killed(temporary: Path) -> None:
    """Its logs below the folder stay open; another process that has some open is killed."""
    code = """
import subprocess, sys, time
from pipeline.flow.session import ray_folder
with ray_folder() as folder:
    log = (folder / "log").open("w")
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], stdout=log)
print(child.wait(200), flush=True)
time.sleep(2)
print("alive")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout.split(), done.returncode) == (["-9", "alive"], 0), done.stderr
