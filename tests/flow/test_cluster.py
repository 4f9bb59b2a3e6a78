"""The local Ray: a token protects it, it prints nothing, our signal handlers stay, and it ends with the block."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray
import torch

from pipeline.config import ComputeConfig, ConfigError, ModelConfig
from pipeline.flow import cluster
from pipeline.flow.cluster import (
    check_machine,
    cluster_address,
    has_cluster,
    local_cpus,
    pin_authentication,
    ray_cluster,
)
from pipeline.flow.reaper import holders
from pipeline.storage.errors import StorageError

ROOT = Path(__file__).parents[2]
SCRIPT = """
import os, psutil, signal, subprocess, sys
signal.signal(signal.SIGTERM, lambda *_: print("ours", flush=True))
from pipeline.flow.cluster import ray_cluster
from pipeline.config import ComputeConfig
with ray_cluster(ComputeConfig(decode_actors=3)):
    import ray
    assert ray.cluster_resources()["CPU"] >= 5
    os.kill(os.getpid(), signal.SIGTERM)
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    ports = [one.laddr.ip for process in family for one in process.net_connections("inet") if one.status == "LISTEN"]
    print("loopback" if ports and all(ip.removeprefix("::ffff:") == "127.0.0.1" for ip in ports) else ports, flush=True)
    other = "import ray; ray.init(address=sys.argv[1]); print('inside')"
    code = "import sys; " + other
    command = [sys.executable, "-c", code, ray.get_runtime_context().gcs_address]
    stranger = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    stranger |= {"RAY_AUTH_MODE": "disabled", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    done = subprocess.run(command, env=stranger, capture_output=True, text=True)
    print("refused" if "inside" not in done.stdout and "InvalidAuthToken" in done.stderr else done, flush=True)
    from pipeline.config import ConfigError
    from pipeline.flow.placement import Placement
    Placement(ComputeConfig()).before()
    try:
        Placement(ComputeConfig(gpus_per_replica=64)).before()
    except ConfigError as err:
        print(str(err).split(";")[0], flush=True)
    with ray_cluster(ComputeConfig()):
        pass
    print("still there" if ray.is_initialized() else "gone", flush=True)
print("gone" if not ray.is_initialized() else "still there", flush=True)
os.kill(os.getpid(), signal.SIGTERM)
"""


@pytest.mark.timeout(600)
def test_a_local_cluster_from_start_to_end(tmp_path: Path) -> None:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    long = tmp_path / ("long" * 20)
    long.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=ROOT,
        env=clean | {"HOME": str(tmp_path), "TMPDIR": str(long)},
        capture_output=True,
        text=True,
        check=False,
    )
    lacks = "compute.gpus_per_replica: a run needs 64 GPUs"
    said = ["ours", "loopback", "refused", lacks, "still there", "gone", "ours"]
    assert done.stdout.split("\n")[:-1] == said, done.stderr
    assert [line for line in done.stderr.splitlines() if "did not start" not in line] == []
    assert not (tmp_path / ".ray").exists()
    assert list(long.iterdir()) == []  # too long for the addresses of Ray's sockets


def test_what_a_failed_start_of_ray_has_started_is_ended_before_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    alive: list[int] = []  # at each start

    def init(*, _temp_dir: str, **_: object) -> None:
        """As ray.init on a busy machine: some processes run, which write to the folder, and others are late."""
        alive.append(sum(process.poll() is None for process in started))
        script = f"import time; log = open({_temp_dir + '/log'!r}, 'w'); print(flush=True); time.sleep(600)"
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout
        with process.stdout:
            process.stdout.readline()
        raise TimeoutError("late")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv(cluster.LATE, "set here, so that it is restored")
    monkeypatch.delenv(cluster.LATE)
    monkeypatch.setattr(ray, "init", init)
    said = r"^Ray did not start on this machine, 3 times: late; when it is less busy, the same command goes on$"
    with pytest.raises(StorageError, match=said), ray_cluster(ComputeConfig()):
        pass
    assert alive == [0] * cluster.START_ATTEMPTS
    assert os.environ[cluster.LATE] == "600"
    assert [process.wait(timeout=60) for process in started] == [-signal.SIGKILL] * cluster.START_ATTEMPTS


def test_the_local_cluster_has_a_cpu_for_every_actor() -> None:
    compute = ComputeConfig(decode_actors=40, replicas_max=7, cpus_per_replica=2)
    assert local_cpus(compute) >= 40 + 14
    assert local_cpus(ComputeConfig(replicas_max=50, cpus_per_replica=0)) >= 51


@pytest.mark.parametrize("address", ["", " "])
def test_an_empty_address_is_none(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert not has_cluster()
    assert cluster_address() is None


@pytest.mark.parametrize("address", ["http://head:8265", "HTTPS://user:SECRET@head"])  # pragma: allowlist secret
def test_the_address_of_a_dashboard_is_no_address_of_a_cluster(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ConfigError, match=r"^RAY_ADDRESS: .*: an address to submit jobs to") as caught:
        check_machine(ModelConfig(), ComputeConfig())
    assert "SECRET" not in str(caught.value)


def test_cuda_that_this_machine_lacks_is_one_line_before_ray_starts(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    words = [f"source.uri={tmp_path}/in", f"output.uri={tmp_path}/out", "model.device=cuda"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-m", "jobs.transcribe", *words], capture_output=True, text=True, check=False, env=environment
    )
    assert (done.returncode, done.stdout) == (2, "")
    line = "model.device: cuda: torch finds no CUDA device on this machine; use auto or cpu"
    assert done.stderr.splitlines()[1:] == [line]  # behind what is transcribed to where
    assert list(tmp_path.iterdir()) == []


def test_cuda_of_a_cluster_is_not_looked_for_here(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as head:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{head.getsockname()[1]}")
        check_machine(ModelConfig(device="cuda"), ComputeConfig(gpus_per_replica=1))


@pytest.mark.parametrize("address", ["127.0.0.1:{closed}", "ray://127.0.0.1:{closed}", "no-such-host.invalid:6379"])
def test_a_dead_address_is_one_line(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = server.getsockname()[1]
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.1)
    monkeypatch.setenv("RAY_ADDRESS", address.format(closed=closed))
    with pytest.raises(ConfigError, match=r"^RAY_ADDRESS: [^\n]*: no cluster answers there: [^\n]+$"):
        check_machine(ModelConfig(), ComputeConfig())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_port_where_something_else_answers_is_one_line_within_minutes() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:  # connections open, and nobody answers
        script = "from pipeline.config import ComputeConfig; from pipeline.flow.cluster import ray_cluster\n"
        script += "try:\n    with ray_cluster(ComputeConfig()): pass\nexcept Exception as err: print(err)"
        address = {"RAY_ADDRESS": f"127.0.0.1:{other.getsockname()[1]}"}
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=ROOT,
            env=os.environ | address,
            capture_output=True,
            text=True,
            timeout=240,  # without our limit Ray tries for a quarter of an hour
            check=False,
        )
    assert re.fullmatch(r"RAY_ADDRESS: [^\n]*: no connection to this cluster: [^\n]*\n", done.stdout), done.stderr
    assert done.stderr == ""


@pytest.mark.timeout(600)
def test_a_run_waits_for_an_autoscaler_and_no_process_of_ray_outlives_its_killed_driver_by_30_seconds() -> None:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    clean |= {"TMPDIR": "/tmp", "RAY_NODE_TYPE_NAME": "workers"}  # as an autoscaler names the type of a node
    driver = subprocess.Popen([sys.executable, "-c", KILLED], cwd=ROOT, env=clean, stdout=subprocess.PIPE, text=True)
    assert driver.stdout
    for _ in range(2):
        assert re.fullmatch(r"waiting for 64 GPUs; the cluster has \d+\n", driver.stdout.readline())
    folder = driver.stdout.readline().strip()
    assert len(holders(folder)) >= 4  # the driver, the store of the cluster, the raylet and its agents
    driver.kill()
    driver.wait()
    killed = time.monotonic()
    while holders(folder) and time.monotonic() < killed + 30:
        time.sleep(0.5)
    assert holders(folder) == []


KILLED = """
import logging, sys
from pipeline.config import ComputeConfig
from pipeline.flow.cluster import ray_cluster
from pipeline.flow.placement import Placement
logging.basicConfig(format="%(message)s", stream=sys.stdout)
with ray_cluster(ComputeConfig()):
    import ray, time
    placement = Placement(ComputeConfig(gpus_per_replica=64))
    placement.before()
    placement.during(False)
    from ray._private.worker import _global_node
    ray.get(ray.remote(num_cpus=0)(lambda: 1).remote())
    print(_global_node.get_session_dir_path().rpartition("/")[0], flush=True)
    time.sleep(600)
"""


def test_an_authentication_mode_of_the_user_does_not_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    pin_authentication()
    assert os.environ["RAY_AUTH_MODE"] == "disabled"
    assert "RAY_AUTH_TOKEN" not in os.environ
