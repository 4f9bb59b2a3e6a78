"""Azurite, Microsoft's emulator of Azure's blob storage, on loopback for tests."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import hmac
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest

from tests.support import debian

VERSION = "3.35.0"  # of npm's package azurite: the last one that runs on Node 20
HOME = Path(tempfile.gettempdir()) / f"fullcanvas-azurite-{VERSION}"
ACCOUNT = "devstoreaccount1"
# pragma: allowlist nextline secret
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="  # Azurite's, public
START_SECONDS = 120


def _program() -> str:
    """Return the path of azurite-blob. With FULLCANVAS_TEST_APT=1 npm installs it below the temporary folder."""
    if installed := shutil.which("azurite-blob"):
        return installed
    program = HOME / "node_modules" / ".bin" / "azurite-blob"
    with HOME.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            debian.skip_unless_allowed(f"azurite@{VERSION} of npm")
            if not shutil.which("npm"):
                pytest.skip(f"needs npm to install azurite@{VERSION}")
            command = ["npm", "install", "--prefix", str(HOME), "--no-audit", "--no-fund", f"azurite@{VERSION}"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.fail(f"{' '.join(command)} failed: {done.stderr[-500:]}")
    return str(program)


@pytest.fixture(scope="session")
def azurite() -> Iterator[str]:
    """The endpoint of a running emulator. Its objects are in memory."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry", "--silent"]
    process = subprocess.Popen(
        [_program(), "--blobHost", "127.0.0.1", "--blobPort", str(port), *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    endpoint = f"http://127.0.0.1:{port}/{ACCOUNT}"
    try:
        _wait_for(endpoint)
        yield endpoint
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def container(azurite: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI `az://<new container>/out`. The environment has what a client needs."""
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", KEY)
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", azurite)
    name = f"c-{uuid.uuid4().hex[:12]}"
    date = formatdate(usegmt=True)
    resource = f"/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
    signed = "PUT" + 12 * "\n" + f"x-ms-date:{date}\nx-ms-version:2021-08-06\n{resource}"
    digest = hmac.new(base64.b64decode(KEY), signed.encode(), hashlib.sha256).digest()
    headers = {
        "x-ms-date": date,
        "x-ms-version": "2021-08-06",
        "Authorization": f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}",
    }
    request = urllib.request.Request(f"{azurite}/{name}?restype=container", method="PUT", headers=headers)
    urllib.request.urlopen(request, timeout=10).close()
    return f"az://{name}/out"


def _wait_for(endpoint: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            urllib.request.urlopen(endpoint, timeout=5).close()
        except urllib.error.HTTPError:
            return  # it answers
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return
