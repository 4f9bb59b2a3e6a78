"""A real Ray cluster for tests: a head and a second node, as processes of this machine, with a token of its own."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
RAY = Path(sys.executable).parent / "ray"
MARK = "FULLCANVAS_TEST_CLUSTER"  # in the environment of every process of a cluster; its value names the cluster
START_SECONDS = 300


class RayCluster:
    """Two nodes with `cpus` CPUs and one logical GPU each. Jobs are submitted to `address`.

    The cluster has its own home folder, temporary folder, ports and token: it shares nothing with another Ray.
    """

    def __init__(self, *, cpus: int, object_store_bytes: int) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="fc-", dir="/tmp"))  # a short path: Ray puts sockets below it
        self.gcs_port, self.dashboard_port, *self.ports = free_ports(14)
        self.address = f"http://127.0.0.1:{self.dashboard_port}"
        self.cpus, self.object_store_bytes = cpus, object_store_bytes
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.environment = inherited | {
            "REPORTER_UPDATE_INTERVAL_MS": "60000",  # otherwise each agent of Ray takes a tenth of a core
            "PATH": f"{RAY.parent}:{os.environ['PATH']}",  # the `python` of a job is that of the tests
            "HOME": str(self.root),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
            MARK: self.root.name,
        }

    def start(self) -> None:
        """Start both nodes. Raises RuntimeError with the output of `ray start` if a node does not start."""
        head = ["--head", f"--port={self.gcs_port}", f"--dashboard-port={self.dashboard_port}"]
        self._node("head", *head, "--dashboard-host=127.0.0.1", "--include-dashboard=true")
        self._until_nodes(1)
        self._node("worker", f"--address=127.0.0.1:{self.gcs_port}")
        self._until_nodes(2)

    def stop(self) -> None:
        """Kill all processes of the cluster, also those whose parent has ended; then delete its folder."""
        deadline = time.monotonic() + 30
        while (left := self.processes()) and time.monotonic() < deadline:
            for process in left:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(left, timeout=1)
        shutil.rmtree(self.root, ignore_errors=True)

    def processes(self) -> list[psutil.Process]:
        """All living processes of the cluster."""
        living = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == self.root.name:
                    living.append(process)
        return living

    def command(self, *words: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run `ray <words>` in the folder of this repository, and wait for its end."""
        return subprocess.run(
            [str(RAY), *words],
            cwd=ROOT,
            env=environment or self.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def submit(self, *words: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        """Run the command of the README: `ray job submit --address ... --working-dir . -- <words>`."""
        return self.command("job", "submit", "--address", self.address, "--working-dir", ".", *options, "--", *words)

    def _node(self, name: str, *options: str) -> None:
        names = ("object-manager", "node-manager", "dashboard-agent-listen", "dashboard-agent-grpc", "metrics-export")
        names += ("ray-client-server",)
        ports = [f"--{kind}-port={self.ports.pop()}" for kind in names]
        command = [str(RAY), "start", *options, *ports, "--node-ip-address=127.0.0.1", "--block", "--num-gpus=1"]
        command += [f"--num-cpus={self.cpus}", f"--object-store-memory={self.object_store_bytes}"]
        # Each node has its own folder, as on two machines. In one folder both would unpack the code of a job.
        command += [f"--temp-dir={self.root / name}", "--disable-usage-stats"]
        with (self.root / f"{name}.out").open("ab") as log:
            self.started = subprocess.Popen(
                command, env=self.environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )

    def _until_nodes(self, wanted: int) -> None:
        deadline = time.monotonic() + START_SECONDS
        while self.nodes() < wanted:
            if time.monotonic() > deadline or self.started.poll() is not None:
                output = [path.read_text()[-2000:] for path in sorted(self.root.glob("*.out"))]
                raise RuntimeError("a node did not start:\n" + "\n".join(output))
            time.sleep(0.3)

    def nodes(self) -> int:
        """How many nodes live, as the dashboard says."""
        return self.get("/nodes?view=summary").count('"state": "ALIVE"')

    def get(self, path: str) -> str:
        """The answer of the dashboard; empty text if it does not answer."""
        request = urllib.request.Request(self.address + path)
        request.add_header("Authorization", f"Bearer {self.environment['RAY_AUTH_TOKEN']}")
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return str(answer.read().decode())
        except (urllib.error.URLError, OSError):
            return ""


def free_ports(count: int) -> list[int]:
    """Free ports, above those of Ray's workers and below those that the kernel assigns by itself."""
    free: list[int] = []
    while len(free) < count:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            free.append(port)
    return free


@contextlib.contextmanager
def ray_nodes(*, cpus: int = 8, object_store_bytes: int = 100 * 2**20) -> Iterator[RayCluster]:
    """A cluster that runs during the block and is stopped afterwards, also after an error."""
    cluster = RayCluster(cpus=cpus, object_store_bytes=object_store_bytes)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
