"""Every command of the documentation is run by a test, or says in one word what it needs that our machine lacks."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

from jobs import bench, cli
from tests.support.pages import MARKS, Command, blocks, commands, named, pages

ROOT = Path(__file__).parents[2]
EVERY = [command for page in pages() for command in commands(page)]
PAGES, OF_EVALUATION, CI = "tests/jobs/test_pages.py", "tests/house/test_docs_evaluation.py", ".ci/run"
RUN_BY = {  # what a command of a page has in it, and the file that runs it
    "make demo": "tests/jobs/test_demo.py",
    "make setup": CI,
    "make test": CI,
    "make check": CI,
    "configs/evaluate-self.yaml": "tests/evaluation/test_evaluate_self.py",
    "jobs.calibrate": PAGES,
    "jobs.transcribe": PAGES,
    "jobs.status": PAGES,
    "jobs.browse": PAGES,
    "jobs.select_labels": PAGES,
    "export export.format": PAGES,
    "jobs.export": PAGES,
    "import duckdb": PAGES,
    "jobs.evaluate --config nightly.yaml": OF_EVALUATION,
    "hypotheses": OF_EVALUATION,
}


class TakenError(Exception):
    """The settings of a job are right; it would start now."""


def runner(command: Command) -> str:
    """The file that runs a command that has no mark."""
    return next((file for part, file in RUN_BY.items() if part in command.text), "nothing")


@pytest.mark.parametrize("command", [one for one in EVERY if not one.mark], ids=lambda one: f"{one.page}: {one.text}")
def test_a_command_without_a_mark_is_run_by_a_test(command: Command) -> None:
    file = runner(command)
    assert file != "nothing", f"{command}: run it in a test, or mark it: {', '.join(MARKS)}"
    text = (ROOT / file).read_text(encoding="utf-8")
    assert command.page in text or file not in (PAGES, OF_EVALUATION)
    assert command.text in text or file != CI


def test_every_mark_and_every_test_of_a_command_is_used() -> None:
    assert {command.mark for command in EVERY if command.mark} == MARKS.keys()
    used = [command.text for command in EVERY if not command.mark]
    assert not [part for part in RUN_BY if not any(part in text for text in used)]


@pytest.mark.parametrize(
    "command", [one for one in EVERY if one.mark and one.job], ids=lambda one: f"{one.page}: {one.text}"
)
def test_a_command_that_no_test_runs_has_right_settings(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Up to the device, which this machine need not have."""
    monkeypatch.chdir(ROOT)
    name, *words = command.job or []
    if name == "bench":
        torch = pytest.importorskip("torch", reason="needs torch")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert bench.main(words) == 2
        assert capsys.readouterr().err == "--device cuda: torch finds no CUDA device\n"
        return
    job = importlib.import_module(f"jobs.{name}")
    place: Any = job if hasattr(job, "load") else cli
    load = place.load

    def taken(*given: Any) -> None:
        load(*given)
        raise TakenError

    monkeypatch.setattr(place, "load", taken)
    with pytest.raises(TakenError):
        job.main(words)


@pytest.mark.parametrize("page", pages())
def test_what_the_text_of_a_page_calls_is_there(page: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for text in [*named(page), *(command.text for command in commands(page) if command.words[0] == "make")]:
        words = text.split()
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), text
        else:
            path = ROOT / words[2].replace(".", "/")
            assert path.with_suffix(".py").exists() or path.is_dir() or words[2] in ("pytest", "build"), text


def test_no_command_hides_in_a_block_of_another_kind() -> None:
    call = re.compile(r"-m jobs\.|^make [\w-]+|^fullcanvas \w+ \w+\.", re.MULTILINE)
    for page in pages():
        calls = [line for language, text in blocks(page) if not language for line in call.findall(text)]
        seen = [command for command in commands(page) if call.search(command.text)]
        assert len(calls) == len(seen), page
