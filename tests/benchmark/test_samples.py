"""Samples of processes: the role of each, its memory, files and threads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.benchmark.samples import Sampler, role_of, size_of

SITE = "/srv/.venv/lib/python3.11/site-packages/ray"


@pytest.mark.parametrize(
    ("command", "role"),
    [
        ("ray::MapWorker(MapBatches(GuardedReplica)).submit", "replica"),
        ("ray::MapWorker(MapBatches(GuardedDecoder))", "decode"),
        ("ray::MapWorker(MapBatches(MeteredCommit)).submit", "commit"),
        ("ray::IDLE", "other worker"),
        ("ray::DashboardAgent", "dashboard agent"),
        ("ray::RuntimeEnvAgent", "runtime env agent"),
        (f"{SITE}/core/src/ray/raylet/raylet --raylet_socket_name=/tmp/a", "raylet"),
        (f"{SITE}/core/src/ray/gcs/gcs_server --log_dir=/tmp/a", "gcs"),
        (f"python -u {SITE}/dashboard/agent.py --node-id=a", "dashboard agent"),
        (f"python -u {SITE}/_private/runtime_env/agent/main.py --node-id=a", "runtime env agent"),
        (f"python -u {SITE}/_private/log_monitor.py --session-dir=/tmp/a", "log monitor"),
        ("sleep 3", "other"),
    ],
)
def test_the_command_line_of_a_process_tells_its_role(command: str, role: str) -> None:
    assert role_of(command) == role


def test_a_sample_has_the_memory_and_files_of_the_driver_and_of_what_it_started() -> None:
    child = "import sys; held = bytearray(b'1' * 50_000_000); files = [open('/dev/null') for _ in range(30)]; "
    script = (
        f"import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', "
        f"{child + 'print(flush=True); sys.stdin.read()'!r}]); child.wait()"
    )
    driver = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert driver.stdin
    assert driver.stdout
    with driver.stdin:
        driver.stdout.readline()  # the child has everything
        first, second = Sampler().take(12.34, driver.pid)
    driver.wait()
    driver.stdout.close()
    assert (first.role, second.role) == ("driver", "other")
    assert first.pid == driver.pid
    assert first.seconds == second.seconds == 12.3
    assert 50 < second.memory_mb < 100
    assert second.shared_mb > 1
    assert second.files - first.files >= 27
    assert first.threads >= 1
    assert Sampler().take(0, driver.pid) == []


def test_the_size_of_a_folder_is_what_its_files_take(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/c").write_bytes(os.urandom(1_000_000))
    os.sync()
    assert 1_000_000 <= size_of(tmp_path) < 1_200_000
