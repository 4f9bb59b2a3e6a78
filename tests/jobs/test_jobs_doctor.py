"""python -m jobs.doctor as a process: exit codes, the table, no hang, no secret, no Ray where none is asked for."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import doctor
from pipeline.config import RunConfig
from pipeline.config_file import keys
from pipeline.doctor.settings import DoctorConfig
from tests.support.archives import archive, arguments

ROOT = Path(__file__).parents[2]
SECRET = "wJalrXUtnFEMIK7MDENG"  # pragma: allowlist secret


def test_a_sound_machine_passes_and_the_rows_are_written(
    tmp_path: Path, small_model_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    words = arguments(archive(tmp_path / "in", 2), tmp_path / "out", small_model_dir)
    assert doctor.main([*words, "--json", str(tmp_path / "rows.json")]) == 0
    shown = capsys.readouterr().out
    assert "nothing fails" in shown.splitlines()[-1]
    rows = json.loads((tmp_path / "rows.json").read_text())
    names = {row["check"] for row in rows}
    assert names >= {
        "packages",
        "torch",
        "gpu",
        "memory",
        "open files",
        "disk",
        "decoders",
        "model",
        "model memory",
        "hub",
    }
    assert names >= {"source", "output", "output race", "ray", "placement"}
    assert {row["state"] for row in rows} <= {"ok", "warn"}


def test_a_store_that_never_answers_hides_nothing_and_the_process_ends(tmp_path: Path) -> None:
    """A socket that takes connections and is silent; everything else is still checked, and too few GPUs too."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "RAY_"))}
        environment |= {"AWS_ACCESS_KEY_ID": "AKIAKEY0", "AWS_SECRET_ACCESS_KEY": SECRET, "HF_HUB_OFFLINE": "1"}
        words = ["output.uri=s3://b/out", f"storage.endpoint=http://127.0.0.1:{silent.getsockname()[1]}"]
        words += ["compute.gpus_per_replica=1", "compute.replicas_min=99", "compute.replicas_max=99"]
        command = [sys.executable, "-X", "importtime", "-m", "jobs.doctor", *words, "--limit", "10"]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr[-2000:]
    assert "no answer within 10 s" in done.stdout
    failed = set(done.stdout.splitlines()[-1].removeprefix("FAIL: ").partition(";")[0].split(", "))
    assert failed >= {"gpu", "output", "placement"}
    assert "decoders" in done.stdout
    assert SECRET not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert not [line for line in done.stderr.splitlines() if line.endswith("| ray")]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--config", "none.yaml"], "none.yaml: No such file or directory"),
        (["source.urk=x"], "source.urk: no such key; did you mean source.uri?"),
        (["compute.replicas_min=0"], "compute.replicas_min"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(words) == 2
    assert says in capsys.readouterr().err


def test_it_takes_the_settings_of_a_run() -> None:
    assert [key for key, _ in keys(DoctorConfig)] == [key for key, _ in keys(RunConfig)]
