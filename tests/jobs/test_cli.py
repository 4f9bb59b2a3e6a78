"""The jobs' command line: help that lists every key, one line per mistake, exit codes."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import cli
from jobs.__main__ import JOBS, main
from pipeline.config import ConfigError, RunConfig
from pipeline.config_file import keys
from pipeline.evaluation.settings import EvaluateConfig
from pipeline.storage.base import OutputError
from pipeline.storage.errors import StorageError
from pipeline.training.adapter_config import AdapterConfig
from tests.support.drivers import STOPPED

ROOT = Path(__file__).parents[2]
NEEDED = ["source.uri=/in", "output.uri=/out"]


def run_with(outcome: int | BaseException, words: list[str]) -> int:
    def job(config: RunConfig) -> int:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    return cli.main("plan", RunConfig, job, "A job", words)


@pytest.mark.parametrize("code", [0, 1])
def test_the_exit_code_is_the_jobs(code: int) -> None:
    assert run_with(code, NEEDED) == code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("source.uri: nothing there"), 2),
        (OutputError("out/x: damaged"), 3),
        (StorageError("s3://b/x: ExpiredToken: it has expired; give valid keys, then the same command goes on"), 3),
    ],
)
def test_an_error_that_is_no_bug_is_its_line_and_the_code_of_its_kind(
    error: Exception, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_with(error, NEEDED) == code
    assert capsys.readouterr().err == f"{error}\n"


def test_a_typo_is_answered_with_what_was_meant(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_with(0, [*NEEDED, "denoise.max_stpes=3", "modle.name=x"]) == 2
    lines = sorted(capsys.readouterr().err.splitlines())
    assert lines == [
        "denoise.max_stpes: no such key; did you mean denoise.max_steps?",
        "modle: no such key; did you mean model?",
    ]


@pytest.mark.parametrize(
    "error", [ZeroDivisionError(), FileNotFoundError(errno.ENOENT, "gone", "x"), PermissionError("of no file")]
)
def test_a_programs_error_is_not_hidden(error: Exception) -> None:
    with pytest.raises(type(error)):
        run_with(error, NEEDED)


def test_a_disk_that_is_full_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_with(OSError(errno.ENOSPC, "No space left on device", "/out/data/x"), NEEDED) == 3
    line = "/out/data/x: No space left on device; make room or raise the quota, then the same command goes on\n"
    assert capsys.readouterr().err == line


def test_a_log_for_programs_has_the_error_as_an_object_too(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "jobs.status", "--log", "json", str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    (entry,) = map(json.loads, done.stderr.splitlines())
    assert (done.returncode, entry["level"]) == (2, "ERROR")
    assert entry["message"] == f"output.uri: {tmp_path}: no run has planned anything here"


def test_a_config_that_names_no_file_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run_with(0, [*NEEDED, "--config", ""])
    assert capsys.readouterr().err.startswith("--config: names no file ")


def test_a_file_of_somebody_else_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_with(PermissionError(errno.EACCES, "Permission denied", "/out/_run/x"), NEEDED) == 3
    line = "/out/_run/x: Permission denied; with the right to it the same command goes on\n"
    assert capsys.readouterr().err == line


def test_the_file_and_the_overrides_are_read_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("denoise: {max_steps: 3}\n")
    seen: list[RunConfig] = []

    def job(config: RunConfig) -> int:
        seen.append(config)
        return 0

    for words in (["--config", str(path), *NEEDED], [*NEEDED, "--config", str(path)]):
        cli.main("plan", RunConfig, job, "A job", words)
    assert [config.denoise.max_steps for config in seen] == [3, 3]


def test_help_lists_every_key_with_its_default() -> None:
    text = cli.parser("plan", RunConfig, "A job").format_help()
    lines = {line.split()[0]: line for line in text.splitlines() if line.startswith("  ")}
    for key, field in keys(RunConfig):
        assert key in lines
        assert field.description is None or field.description.split("`")[0] in lines[key]
    assert "(required)" in lines["source.uri"]
    assert lines["denoise.max_steps"].split()[:5] == ["denoise.max_steps", "16", "1", "to", "256;"]
    assert "Undefined" not in text


def test_help_shows_choices_bounds_and_groups() -> None:
    lines = cli.parser("evaluate", EvaluateConfig, "A job").format_help().splitlines()
    line = {words[0]: " ".join(words[1:]) for words in map(str.split, lines) if words}
    assert line["gate.ceilings"].startswith("{} 0 to 100; {en: 0.05")
    assert line["denoise.entropy_bound"].startswith("0.1 above 0, to 1,000; ")
    assert line["denoise.canvas_length"].startswith("null auto; 8 to 1,024; ")
    assert line["denoise.seed"].startswith("0 0 to below 2,147,483,648; ")
    assert line["model.device"].startswith("auto auto|cpu|cuda; ")
    place = lines.index("gate: When the gate closes (alpha, ceilings, min_coverage) and when it warns (margin).")
    assert lines[place - 1] == ""
    assert lines[place + 1].startswith("  gate.alpha ")


def test_help_shows_the_choices_of_a_list() -> None:
    (line,) = (
        line for line in cli.parser("train", AdapterConfig, "A job").format_help().splitlines() if "lora.t" in line
    )
    assert "q_proj|k_proj|v_proj|o_proj; " in line


def test_a_config_that_is_given_twice_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_with(0, ["--config", "a.yaml", *NEEDED, "--config", "b.yaml"])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("--config twice: a.yaml and b.yaml; one file, and overrides")


@pytest.mark.parametrize("job", ["transcribe", "plan", "train", "import_model"])
def test_help_of_a_job_needs_no_model_and_no_ray(job: str) -> None:
    code = f"import sys; sys.argv = ['x', '--help']; import runpy; runpy.run_module('jobs.{job}', run_name='__main__')"
    check = (
        f"import atexit, sys; atexit.register(lambda: print([m for m in ('ray', 'torch') if m in sys.modules])); {code}"
    )
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "  --config FILE" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("job", JOBS)
def test_every_job_stands_behind_the_one_command(job: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([job, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: python -m jobs.{job.replace('-', '_')} ")


@pytest.mark.parametrize(
    ("words", "code", "says"), [(["--version"], 0, "fullcanvas "), (["plam"], 2, "plam"), ([], 2, "JOB")]
)
def test_without_a_job_there_is_a_version_or_a_line(
    words: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == code
    shown = capsys.readouterr()
    (line,) = (shown.out + shown.err).splitlines()
    assert says in line


@pytest.mark.parametrize(
    ("argv0", "job", "says"),
    [
        ("/venv/bin/fullcanvas", "import_model", "fullcanvas import-model 'output.uri=a b'"),
        ("/repo/jobs/import_model.py", "import_model", "python -m jobs.import_model 'output.uri=a b'"),
        ("/repo/infra/tiny/train.py", "infra.tiny.train", "python -m infra.tiny.train 'output.uri=a b'"),
    ],
)
def test_a_job_repeats_the_command_that_started_it(
    argv0: str, job: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [argv0])
    assert cli.command(job, ["output.uri=a b"]) == says


SLEEPER = """
import sys, time
from jobs import cli
from pipeline.config import RunConfig

def job(config):
    print("ready", flush=True)
    while True:
        try:
            time.sleep(60)
        except {caught}:
            pass

sys.exit(cli.main("plan", RunConfig, job, "A job"))
"""


@pytest.mark.parametrize(("number", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
@pytest.mark.parametrize(
    "caught", ["Exception", "BaseException"]
)  # a library that swallows everything does not hold it
def test_a_signal_ends_the_job_within_three_seconds(number: str, code: int, caught: str) -> None:
    import signal
    import time

    command = [sys.executable, "-c", SLEEPER.format(caught=caught), *NEEDED]
    job = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert job.stdout
    assert job.stdout.readline() == "ready\n"
    sent = time.monotonic()
    job.send_signal(getattr(signal, number))
    _, err = job.communicate(timeout=100)
    assert time.monotonic() - sent < STOPPED
    assert job.returncode == code
    assert "run the same command again" in err
    assert "source.uri=/in output.uri=/out" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("words", [["--confg", "x"], ["--config"]])
def test_a_mistyped_option_is_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_with(0, words)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words[0] in line
    assert "--help" in line


SCRIPT = """
from jobs import stopping

if __name__ == "__main__":
    stopping.listen()

import multiprocessing, os, signal, sys, threading, time
from concurrent.futures import ProcessPoolExecutor
from jobs import cli
from pipeline.config import RunConfig

%s

if __name__ == "__main__":
    sys.exit(cli.main("plan", RunConfig, job, "A job"))
"""


def started(folder: Path, job: str) -> subprocess.Popen[str]:
    """A process of its own that runs `job` as the jobs of the command line run theirs."""
    script = folder / "script.py"
    script.write_text(SCRIPT % job.strip())
    environment, pipe = os.environ | {"PYTHONPATH": str(ROOT)}, subprocess.PIPE
    return subprocess.Popen([sys.executable, script, *NEEDED], stdout=pipe, stderr=pipe, text=True, env=environment)


POOL = """
def job(config):
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        work = pool.submit(time.sleep, 600)
        while not work.running():
            time.sleep(0.05)
        print("ready", flush=True)
        work.result()
"""


def test_a_stopped_job_leaves_no_process_of_its_pools(tmp_path: Path) -> None:
    import signal

    import psutil

    job = started(tmp_path, POOL)
    assert job.stdout
    assert job.stdout.readline() == "ready\n"
    below = psutil.Process(job.pid).children(recursive=True)
    assert len(below) >= 1
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=100) == 143
    assert psutil.wait_procs(below, timeout=100)[1] == []


UNHEARD = """
inside = threading.Event()

def signal_itself():
    inside.wait()
    time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)

def job(config):
    threading.Thread(target=signal_itself, daemon=True).start()
    lock = threading.Lock()
    lock.acquire()
    try:
        inside.set()
        lock.acquire()
    finally:
        print("left through the stack", flush=True)
"""


def test_a_stop_reaches_a_job_that_waits_for_a_lock(tmp_path: Path) -> None:
    """The wait does not end by itself."""
    job = started(tmp_path, UNHEARD)
    out, err = job.communicate(timeout=100)
    assert job.returncode == 143
    assert out == "left through the stack\n"
    assert err.count("stopped; everything committed stays") == 1


FORKS = """
def job(config):
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    child.start()
    time.sleep(0.5)
    child.terminate()
    child.join()
    time.sleep(4)
    return 0
"""


def test_the_end_of_a_forked_child_is_not_the_end_of_the_job(tmp_path: Path) -> None:
    job = started(tmp_path, FORKS)
    out, err = job.communicate(timeout=100)
    assert (job.returncode, out) == (0, ""), err
