"""A real Ceph gateway on loopback for tests: a monitor, an OSD in memory, and radosgw."""

from __future__ import annotations

import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import botocore.session
import pytest

from tests.support import debian

PACKAGES = ("ceph-mon", "ceph-osd", "radosgw", "ceph-common")
PROGRAMS = ("ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "ceph")
ACCESS_KEY, SECRET_KEY = "fullcanvas-test", "fullcanvas-test-secret-0123456789"  # pragma: allowlist secret
START_SECONDS = 300

CONFIG = """
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{mon_port}]
mon initial members = a
run dir = {root}
admin socket = {root}/$name.asok
log file = {root}/$name.log
pid file = {root}/$name.pid
keyring = {root}/keyring
auth cluster required = none
auth service required = none
auth client required = none
public network = 127.0.0.0/8
cluster network = 127.0.0.0/8
ms bind ipv4 = true
ms bind msgr1 = false
ms mon client mode = crc
mon allow pool size one = true
mon pg warn min per osd = 0
mon data avail crit = 1
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd crush chooseleaf type = 0
osd objectstore = memstore
memstore device bytes = 4294967296
paxos propose interval = 0.1
objecter tick interval = 0.5
osd client watch timeout = 3
[mon.a]
mon data = {root}/mon
[osd.0]
osd data = {root}/osd
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:{port}
rgw thread pool size = 64
"""


class Ceph:
    """A gateway. A test can take it away for a while with `kill_gateway` and `start_gateway`.

    The timeouts in CONFIG are short: by default a new bucket waits 30 s for a gateway that was killed.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.port, mon_port = _free_port(), _free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.config = root / "ceph.conf"
        self.fsid = str(uuid.uuid4())
        self.config.write_text(CONFIG.format(root=root, fsid=self.fsid, port=self.port, mon_port=mon_port))
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._mon_address = f"[v2:127.0.0.1:{mon_port}]"

    def start(self) -> None:
        """Start the daemons and add the test user. Raises RuntimeError with the log of a daemon that does not start."""
        (self.root / "keyring").touch()
        for directory in ("mon", "osd"):
            (self.root / directory).mkdir()
        monmap = str(self.root / "monmap")
        self._tool("monmaptool", "--create", "--addv", "a", self._mon_address, "--fsid", self.fsid, monmap)
        self._tool("ceph-mon", "-i", "a", "--mkfs", "--monmap", monmap)
        self._daemon("mon.a", "ceph-mon", "-f", "-i", "a")
        self._retry("ceph", "-s", "--connect-timeout", "5")
        osd = str(uuid.uuid4())
        self._tool("ceph", "osd", "new", osd)
        self._tool("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        self._daemon("osd.0", "ceph-osd", "-f", "-i", "0")
        self._until(lambda: "1 up" in self._tool("ceph", "osd", "stat"), "osd.0", again=("ceph-osd", "-f", "-i", "0"))
        self.start_gateway()
        user = ("--uid=test", "--display-name=test", f"--access-key={ACCESS_KEY}", f"--secret-key={SECRET_KEY}")
        self._tool("radosgw-admin", "user", "create", *user)

    def start_gateway(self) -> None:
        self._daemon("client.rgw", "radosgw", "-f", "-n", "client.rgw")
        self._until(self._answers, "client.rgw")

    def kill_gateway(self) -> None:
        """Kill the gateway with SIGKILL, whatever it is doing."""
        self._processes["client.rgw"].kill()
        self._processes.pop("client.rgw").wait()

    def revoke_key(self) -> None:
        """Take the key of the test user away, as somebody who replaces keys does. `give_key` gives it back."""
        self._tool("radosgw-admin", "key", "rm", "--uid=test", f"--access-key={ACCESS_KEY}")

    def give_key(self) -> None:
        keys = (f"--access-key={ACCESS_KEY}", f"--secret-key={SECRET_KEY}")
        self._tool("radosgw-admin", "key", "create", "--uid=test", "--key-type=s3", *keys)

    def stop(self) -> None:
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait()

    def environment(self) -> dict[str, str]:
        """Return the environment variables that a client needs."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        }

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.endpoint, timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _tool(self, program: str, *arguments: str) -> str:
        command = [program, "-c", str(self.config), *arguments] if program != "monmaptool" else [program, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=START_SECONDS, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
        return done.stdout

    def _retry(self, *command: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self._tool(*command)
                return
            except RuntimeError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.3)

    def _daemon(self, name: str, program: str, *arguments: str) -> None:
        command = [program, "-c", str(self.config), *arguments]
        with (self.root / f"{name}.out").open("ab") as log:
            self._processes[name] = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def _until(self, ready: object, name: str, again: tuple[str, ...] = ()) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not ready():  # type: ignore[operator]
            if self._processes[name].poll() is not None and again:
                self._daemon(name, *again)  # an OSD that starts before the monitor knows it gets EPERM
            elif self._processes[name].poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{name} did not start: {(self.root / f'{name}.out').read_text()[-2000:]}")
            time.sleep(0.3)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ceph]:
    """The gateway of the whole session."""
    debian.install(PACKAGES, PROGRAMS)
    cluster = Ceph(tmp_path_factory.mktemp("ceph"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def bucket(ceph: Ceph, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI `s3://<new bucket>/out`. The environment has what a client needs."""
    for name, value in ceph.environment().items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    name = f"b-{uuid.uuid4().hex[:12]}"
    botocore.session.get_session().create_client("s3").create_bucket(Bucket=name)
    return f"s3://{name}/out"
