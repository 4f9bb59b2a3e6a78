"""`ray job submit` to a real cluster of two nodes with a token: exit codes reach the command line, a stop is clean."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from tests.support.archives import archive, arguments, wav
from tests.support.drivers import HANG
from tests.support.ray_cluster import RAY, ROOT, RayCluster, ray_nodes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(HANG)]
JOB = ("python", "-m", "jobs.transcribe")
STORE_BYTES = 120 * 2**20


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with ray_nodes(object_store_bytes=STORE_BYTES) as started:
        yield started


def words(source: Path, output: Path, model: Path, *more: str) -> list[str]:
    return [*arguments(source, output, model), "compute.gpus_per_replica=1", "plan.unit_recordings=1", *more]


def replicas(cluster: RayCluster) -> int:
    count = 0
    for process in cluster.processes():
        with contextlib.suppress(psutil.Error):  # the process may end at any moment
            count += "GuardedReplica" in " ".join(process.cmdline())
    return count


def in_background(cluster: RayCluster, name: str, command: list[str]) -> subprocess.Popen[str]:
    submit = [str(RAY), "job", "submit", "--address", cluster.address, "--submission-id", name, "--working-dir", "."]
    return subprocess.Popen(
        [*submit, "--", *JOB, *command],
        cwd=ROOT,
        env=cluster.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def commits(output: Path) -> int:
    return len(list((output / "commits").glob("*/*.json")))


def check_exact(output: Path, recordings: int) -> None:
    rows = pq.read_table(output / "transcripts", columns=["recording_id", "segment_index"]).to_pylist()
    assert {row["recording_id"] for row in rows} == {f"r{number:03d}.wav" for number in range(recordings)}
    assert len({(row["recording_id"], row["segment_index"]) for row in rows}) == len(rows)
    assert pq.read_table(output / "dead_letters")["recording_id"].to_pylist() == ["bad.wav"]
    assert json.loads((output / "_run/accounting.json").read_text())["closed"]


def test_a_job_stops_clean_resumes_scales_and_its_exit_codes_reach_the_command_line(
    cluster: RayCluster, tmp_path: Path, small_model_dir: Path
) -> None:
    output, recordings = tmp_path / "out", 60
    source = archive(tmp_path / "in", recordings, seconds=6.0)
    (source / "bad.wav").write_bytes(b"")
    command = words(source, output, small_model_dir, "compute.replicas_max=2", "denoise.max_steps=48")
    running = in_background(cluster, "stopped", command)
    seen: set[int] = set()
    while commits(output) < 5 or 2 not in seen:
        seen.add(replicas(cluster))
        assert running.poll() is None, running.communicate()[0][-3000:]
        time.sleep(0.1)
    assert seen >= {1, 2}  # from replicas_min to replicas_max, one GPU each: the second is on the other node
    stopped = cluster.command("job", "stop", "stopped", "--address", cluster.address)
    assert stopped.returncode == 0, stopped.stderr
    running.communicate(timeout=HANG)
    log = cluster.command("job", "logs", "stopped", "--address", cluster.address).stdout
    assert "To go on, run the same command again" in log
    assert "Traceback" not in log
    before = commits(output)
    assert 5 <= before < recordings

    over_budget = cluster.submit(*JOB, *command, "budget.max_dead_fraction=0.01")
    assert over_budget.returncode != 0
    assert "budget.max_dead_fraction allows 1.0%" in over_budget.stdout + over_budget.stderr
    assert f"{recordings + 1} recordings, " in over_budget.stdout
    assert "units to do" not in over_budget.stdout  # what the stopped run committed is over the budget

    within = cluster.submit(*JOB, *command)
    assert within.returncode == 0, within.stdout[-2000:]
    assert f"{recordings + 1 - before} of {recordings + 1} units to do" in within.stdout
    check_exact(output, recordings)
    assert f"{recordings + 1} recordings, " in within.stdout
    mistaken = cluster.submit(*JOB, *command, "denoise.stepz=3")
    assert mistaken.returncode != 0
    assert "denoise.stepz: no such key" in mistaken.stdout + mistaken.stderr


def test_without_the_token_the_cluster_refuses_commands(cluster: RayCluster) -> None:
    stranger = cluster.environment | {"RAY_AUTH_TOKEN": "0" * 64}
    refused = cluster.command("job", "list", "--address", cluster.address, environment=stranger)
    assert refused.returncode != 0


def test_a_slow_model_throttles_the_decoding(cluster: RayCluster, tmp_path: Path, small_model_dir: Path) -> None:
    """400 MB of decoded audio for a model that takes minutes: the object stores of 120 MB never spill to disk."""
    source = tmp_path / "in"
    for number in range(40):
        wav(source / f"r{number:03d}.wav", 320.0, number)
    command = words(source, tmp_path / "out", small_model_dir, "denoise.max_steps=200", "denoise.early_stop=false")
    running = in_background(cluster, "slow", [*command, "compute.units_in_flight=2", "compute.decode_actors=2"])
    peaks, busy_since = [], None
    while busy_since is None or time.monotonic() < busy_since + 10:
        assert running.poll() is None, running.communicate()[0][-3000:]
        nodes = json.loads(cluster.get("/nodes?view=summary") or "{}").get("data", {}).get("summary", [])
        used = [node["raylet"].get("objectStoreUsedMemory", 0) for node in nodes]
        peaks.append(max(used, default=0))
        if busy_since is None and peaks[-1] > 10e6:
            busy_since = time.monotonic()
        time.sleep(0.5)
    cluster.command("job", "stop", "slow", "--address", cluster.address)
    running.communicate(timeout=HANG)
    assert 10e6 < max(peaks) <= STORE_BYTES
    assert not [path for path in cluster.root.rglob("ray_spilled_objects*/*") if path.is_file()]
