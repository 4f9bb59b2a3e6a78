"""What `make audit`, the secret scan of `make check` and `make sbom` promise, on small files and an OSV of our own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from infra import audit

ROOT = Path(__file__).parents[2]
KNOWN = {  # as OSV answers
    "id": "PYSEC-2099-1",
    "summary": "reads what it must not",
    "affected": [
        {
            "package": {"name": "leaky", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.1"}]}],
        }
    ],
}


class Osv(BaseHTTPRequestHandler):
    """Knows one vulnerability: of leaky 1.0."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        known = (asked["package"]["name"], asked["version"]) == ("leaky", "1.0")
        body = json.dumps({"vulns": [KNOWN]} if known else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        return


@pytest.fixture
def osv(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Osv)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("OSV_URL", f"http://127.0.0.1:{server.server_address[1]}/v1/query")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("osv")
@pytest.mark.parametrize(("pins", "code", "says"), [("leaky==1.1\ntight==2.0\n", 0, ""), ("leaky==1.0\n", 1, "1.1")])
def test_a_pin_with_a_known_vulnerability_fails_the_audit(
    pins: str, code: int, says: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lock = tmp_path / "small.lock"
    lock.write_text(pins)
    assert audit.main([str(lock)]) == code
    shown = capfd.readouterr().out
    assert says in shown
    assert (KNOWN["id"] in shown) == bool(code)


def test_an_audit_that_cannot_ask_says_so_and_is_no_success(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OSV_URL", "http://127.0.0.1:9/v1/query")
    assert audit.main([]) == 3
    assert capsys.readouterr().err == (
        "http://127.0.0.1:9/v1/query: ConnectionError; the locks are not audited (OSV_URL names a mirror)\n"
    )
    assert audit.main(["--if-reachable"]) == 0
    assert "not audited" in capsys.readouterr().err


def make(target: str, *words: str) -> str:
    """What a target of the Makefile runs, without running it."""
    line = ["make", "-n", "-C", str(ROOT), "setup=", target, *words]
    return subprocess.run(line, capture_output=True, text=True, check=True).stdout


def test_the_scan_for_secrets_fails_at_a_key_in_a_tracked_file_and_where_git_lists_none(tmp_path: Path) -> None:
    commands = make("check", f"BIN={Path(sys.executable).parent}").splitlines()
    scan = next(line for line in commands if "detect-secrets-hook" in line)

    def code() -> int:
        return subprocess.run(["sh", "-c", scan], cwd=tmp_path, capture_output=True, check=False).returncode

    assert code() not in (0, 1)
    key = 'key = "AKIA' + "QWERTYUIOPASDFGH" + '"\n'
    (tmp_path / "tests/data").mkdir(parents=True)
    (tmp_path / "tests/data/plan.txt").write_text(key)
    (tmp_path / "good.py").write_text('name = "fullcanvas"\n')
    subprocess.run("git init -q && git add .", shell=True, cwd=tmp_path, check=True)
    assert code() == 0
    (tmp_path / "bad.py").write_text(key)
    subprocess.run(["git", "add", "bad.py"], cwd=tmp_path, check=True)
    assert code() == 1


def test_the_bill_of_materials_has_every_package_of_the_image(tmp_path: Path) -> None:
    line = next(line for line in make("sbom", f"SBOM={tmp_path}/sbom.json").splitlines() if "cyclonedx-py" in line)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    words = line.split("cyclonedx-py")[1].split()
    subprocess.run(["cyclonedx-py", *words], cwd=ROOT, env=environment, check=True, capture_output=True)
    bill = json.loads((tmp_path / "sbom.json").read_text())
    assert bill["metadata"]["component"]["name"] == "fullcanvas"
    pins = [row for row in (ROOT / "requirements.lock").read_text().splitlines() if not row.startswith("#")]
    assert sorted(f"{one['name']}=={one['version']}" for one in bill["components"]) == sorted(pins)
