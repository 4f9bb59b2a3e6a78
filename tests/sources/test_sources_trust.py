"""What manifests and tables of others may name: files below the source and the web, with limits; not this machine."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import ConfigError, SourceConfig
from pipeline.schemas import BadRecording, RecordingRef
from pipeline.sources.access import web
from pipeline.sources.access.trust import check, is_own_network
from pipeline.sources.formats import list_recordings, read_recording

SECRET = b"what only this machine may know"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """The folder of a manifest, with good.wav in it, and elsewhere a folder with a secret."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/key").write_bytes(SECRET)
    (tmp_path / "secret/key.wav").write_bytes(SECRET)
    folder = tmp_path / "archive/in"
    folder.mkdir(parents=True)
    (folder / "good.wav").write_bytes(b"good")
    return folder


def listed(folder: Path, *paths: str, name: str = "m.jsonl", **keys: Any) -> list[RecordingRef]:
    (folder / name).write_text("".join(json.dumps({"audio_filepath": path}) + "\n" for path in paths))
    return list(list_recordings(SourceConfig(uri=str(folder / name), format="manifest", **keys)))


@pytest.mark.parametrize(
    "path",
    [
        "/etc/hostname",
        "../../secret/key.wav",
        "../key.wav",
        "./x/../../../secret/key.wav",
        "..\\..\\secret\\key.wav",
        "%2e%2e/%2e%2e/secret/key.wav",
        "file:///etc/hostname",
        "FILE:///etc/hostname",
        "file://localhost/etc/hostname",
        "local:///etc/hostname",
        "s3://bucket/key.wav",
        "memory://key.wav",
        "simplecache::file:///etc/hostname",
        "filecache::http://example.org/a.wav",
        "http://127.0.0.1/a.wav",
        "http://127.1/a.wav",
        "http://2130706433/a.wav",
        "http://0x7f.0.0.1/a.wav",
        "http://localhost:8265/a.wav",
        "http://x.localhost/a.wav",
        "http://169.254.169.254/latest/meta-data",
        "http://[::1]/a.wav",
        "http://[::ffff:127.0.0.1]/a.wav",
        "http://[fe80::1]/a.wav",
        "http://[fd00:ec2::254]/latest",
        "http://0.0.0.0/a.wav",
    ],
)
def test_a_line_that_leads_out_of_the_source_is_refused_and_the_others_are_read(archive: Path, path: str) -> None:
    good, bad = listed(archive, "good.wav", path)
    assert read_recording(good).audio == b"good"
    assert bad.problem == "unsafe_name"
    assert "source.trust=true allows it" in (bad.problem_detail or "")
    with pytest.raises(BadRecording, match="unsafe_name"):
        read_recording(bad)


def test_a_manifest_that_begins_outside_is_one_line_that_says_what_allows_it(archive: Path) -> None:
    with pytest.raises(ConfigError, match=r"^source\.root: .*m\.jsonl:1: /etc/hostname: outside .*/in: ") as caught:
        listed(archive, "/etc/hostname", "good.wav")
    assert "source.root=FOLDER or source.trust=true allows it" in str(caught.value)


@pytest.mark.parametrize("path", ["{root}/secret/key.wav", "../../secret/key.wav"])
@pytest.mark.parametrize("allows", ["root", "trust", "uri"])
def test_what_the_user_trusts_is_read(archive: Path, path: str, allows: str) -> None:
    root = archive.parents[1]
    keys: dict[str, dict[str, Any]] = {"root": {"root": str(root)}, "trust": {"trust": True}, "uri": {}}
    refs = listed(archive, "good.wav", path.format(root=root), **keys["trust"])
    if allows == "uri":  # a folder that the user names, with the manifest in it
        refs = list(list_recordings(SourceConfig(uri=str(root), format="manifest")))
    else:
        refs = listed(archive, "good.wav", path.format(root=root), **keys[allows])
    assert [ref.problem for ref in refs] == [None, None]
    assert read_recording(refs[1]).audio == SECRET


def test_a_file_address_is_read_if_the_user_trusts_the_source(archive: Path) -> None:
    (ref,) = listed(archive, f"file://{archive.parents[1]}/secret/key.wav", trust=True)
    assert read_recording(ref).audio == SECRET


def test_a_folder_whose_name_begins_like_that_of_the_source_is_outside(archive: Path) -> None:
    elsewhere = archive.parents[1] / "archive2/in"
    elsewhere.mkdir(parents=True)
    (elsewhere / "a.wav").write_bytes(SECRET)
    _, bad = listed(archive, "good.wav", f"{elsewhere}/a.wav")
    assert bad.problem == "unsafe_name"


def test_a_folder_beside_that_of_the_manifest_is_read(archive: Path) -> None:
    """As people keep them: manifests/ beside wavs/. In a folder below the root of a disk, nothing is beside."""
    (archive.parent / "wavs").mkdir()
    (archive.parent / "wavs/a.wav").write_bytes(b"beside")
    _, ref = listed(archive, "good.wav", "../wavs/a.wav")
    assert ref.problem is None
    assert read_recording(ref).audio == b"beside"
    source = SourceConfig(uri="/m/m.jsonl")
    with pytest.raises(BadRecording, match="unsafe_name"):
        check("/etc/hostname", "/m/m.jsonl", source)
    bucket = SourceConfig(uri="s3://one/m.jsonl")
    with pytest.raises(BadRecording, match="unsafe_name"):
        check("s3://two/wavs/a.wav", "s3://one/m.jsonl", bucket)
    check("s3://one/wavs/a.wav", "s3://one/m/m.jsonl", SourceConfig(uri="s3://one/m/m.jsonl"))


def test_a_table_names_no_file_outside_its_folder(archive: Path) -> None:
    paths = ["good.wav", str(archive.parents[1] / "secret/key"), "../../secret/key", "http://169.254.169.254/"]
    cells = pa.array(
        [{"bytes": None, "path": path} for path in paths], pa.struct({"bytes": pa.binary(), "path": "string"})
    )
    pq.write_table(pa.table({"audio": cells}), archive / "t.parquet")
    good, *bad = list_recordings(SourceConfig(uri=str(archive / "t.parquet")))
    assert read_recording(good).audio == b"good"
    for ref in bad:
        with pytest.raises(BadRecording, match="unsafe_name"):
            read_recording(ref)
    trusted = list(list_recordings(SourceConfig(uri=str(archive / "t.parquet"), trust=True)))
    assert read_recording(trusted[1]).audio == SECRET


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.8.9.1", "::1", "[::1]", "169.254.1.1", "fe80::1%eth0", "LOCALHOST."]
)
def test_hosts_of_this_machine_and_its_network_are_known_in_every_form(host: str) -> None:
    assert is_own_network(host)


@pytest.mark.parametrize("host", ["example.org", "93.184.216.34", "10.0.0.7", "2606:2800::1", "localhost.example.org"])
def test_other_hosts_are_not_of_this_machine(host: str) -> None:
    assert not is_own_network(host)


class Handler(BaseHTTPRequestHandler):
    """/redirect leads to 127.0.0.1; /endless never ends; /late says nothing; anything else is "web"."""

    asked: list[str] = []  # noqa: RUF012 tests empty it
    late = threading.Event()

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path == "/redirect.wav":
            self.send_response(302)
            self.send_header("Location", f"http://127.0.0.1:{self.server.server_address[1]}/secret.wav")
            self.end_headers()
        elif self.path == "/endless.wav":
            self.send_response(200)
            self.end_headers()
            try:
                while self.command == "GET":
                    self.wfile.write(b"x" * 65536)
            except OSError:
                return
        else:
            if self.path == "/late.wav":
                self.late.wait(600)
            self.send_response(200)
            self.send_header("Content-Length", "3")
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(b"web" if self.command == "GET" else b"")

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    """The port of a web server on all addresses of this machine."""
    Handler.asked.clear()
    Handler.late.clear()
    with ThreadingHTTPServer(("0.0.0.0", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        Handler.late.set()
        server.shutdown()


@pytest.fixture
def public(port: int) -> str:
    """The address of that server by which it is no part of this machine's own network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            host = probe.getsockname()[0]
        except OSError:
            host = "127.0.0.1"
    if is_own_network(host):
        pytest.skip("this machine has only a loopback address")
    return f"http://{host}:{port}"


def test_a_redirect_to_this_machine_is_not_followed(archive: Path, public: str) -> None:
    good, bad = listed(archive, f"{public}/a.wav", f"{public}/redirect.wav")
    assert read_recording(good).audio == b"web"
    with pytest.raises(BadRecording, match=r"unsafe_name: .*redirect\.wav: .*source\.trust=true allows it"):
        read_recording(bad)
    assert "/secret.wav" not in Handler.asked


def test_a_name_that_leads_to_this_machine_is_not_asked(
    archive: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.getaddrinfo
    named = {"a.example": "127.0.0.1"}
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **more: real(named.get(host, host), *rest, **more))
    (ref,) = listed(archive, f"http://a.example:{port}/secret.wav")
    with pytest.raises(BadRecording, match="unsafe_name"):
        read_recording(ref)
    assert Handler.asked == []
    (ref,) = listed(archive, f"http://a.example:{port}/secret.wav", trust=True)
    assert read_recording(ref).audio == b"web"


def test_a_source_on_this_machine_that_the_user_names_is_read(port: int) -> None:
    ref = RecordingRef("a", "files", f"http://127.0.0.1:{port}/a.wav", size=3)
    list(list_recordings(SourceConfig(uri=f"http://127.0.0.1:{port}/a.wav", format="files")))
    assert read_recording(ref).audio == b"web"


def test_an_answer_of_the_web_has_a_limit_of_bytes(archive: Path, public: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web.LimitedWeb, "most_bytes", 1 << 20)
    (ref,) = listed(archive, f"{public}/endless.wav")
    with pytest.raises(BadRecording, match=r"too_large: .*endless\.wav: more than 1,048,576 bytes"):
        read_recording(ref)


def test_an_answer_of_the_web_has_a_limit_of_time(archive: Path, public: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "SILENT_SECONDS", 0.5)
    web.file_system.cache_clear()
    (ref,) = listed(archive, f"{public}/late.wav")
    with pytest.raises(BadRecording, match=r"missing_file: .*late\.wav: no answer, or one that is too slow"):
        read_recording(ref)
    web.file_system.cache_clear()
