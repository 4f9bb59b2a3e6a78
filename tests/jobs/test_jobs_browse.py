"""The job that serves the page: its address, its end, and one line for each mistake."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from jobs.browse import main
from tests.support.browsed import output

ROOT = Path(__file__).parents[2]


def test_it_prints_one_address_and_a_stop_is_its_end(tmp_path: Path) -> None:
    output(tmp_path)
    command = [sys.executable, "-m", "jobs.browse", str(tmp_path / "out"), "server.port=0"]
    job = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert job.stdout
        address = job.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=[\w-]{32}", address)
        with urllib.request.urlopen(f"{address}&text=morgen") as answer:
            assert b"1 segment," in answer.read()
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(address[:-1])
        job.send_signal(signal.SIGINT)
        said, complaint = job.communicate(timeout=60)
    finally:
        job.kill()
    assert (job.returncode, said, complaint) == (0, "", "\nstopped\n")


def test_an_output_without_transcripts_and_a_port_in_use_are_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "empty")]) == 2
    assert capsys.readouterr().err.startswith(f"output.uri: {tmp_path}/empty: no published transcripts")
    assert main([str(tmp_path / "not there")]) == 2
    assert capsys.readouterr().err.startswith(f"output.uri: {tmp_path}/not there: ")
    output(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert main([str(tmp_path / "out"), f"server.port={port}"]) == 2
    assert capsys.readouterr().err == (
        f"server.port: 127.0.0.1:{port}: Address already in use; server.port=0 takes a free one\n"
    )
