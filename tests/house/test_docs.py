"""The commands of the documentation exist: jobs, settings, files, make targets, links."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from jobs import bench
from pipeline.config import RunConfig
from pipeline.config_file import load
from pipeline.doctor.settings import DoctorConfig
from pipeline.evaluation.settings import EvaluateConfig

ROOT = Path(__file__).parents[2]
SCHEMAS: dict[str, Any] = {
    "doctor": DoctorConfig,
    "evaluate": EvaluateConfig,
    "plan": RunConfig,
    "transcribe": RunConfig,
}
PAGE = (ROOT / "docs/first-gpu-run.md").read_text()


def commands() -> list[str]:
    """Lines of the fenced blocks of the page, those that go on in the next one joined."""
    blocks = re.findall(r"^```\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]


JOBS = [line for line in commands() if "-m jobs." in line and "-m jobs.bench " not in line]
BENCHMARKS = [line for line in commands() if "-m jobs.bench " in line]


@pytest.mark.parametrize("line", JOBS)
def test_every_job_takes_its_settings(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    words = shlex.split(line)
    words = words[words.index("-m") + 1 :]
    assert importlib.import_module(words[0])
    assert words[1] == "--config"
    load(SCHEMAS[words[0].removeprefix("jobs.")], words[2], words[3:])


@pytest.mark.parametrize("line", BENCHMARKS)
def test_the_benchmark_takes_its_options(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Up to the device, which this machine need not have."""
    torch = pytest.importorskip("torch", reason="needs torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bench.main(shlex.split(line.split("-m jobs.bench ")[1])) == 2
    assert capsys.readouterr().err == "--device cuda: torch finds no CUDA device\n"


def test_the_page_has_the_whole_way_and_its_make_targets_and_links_exist() -> None:
    assert {line.split("jobs.")[1].split()[0] for line in JOBS} == SCHEMAS.keys()
    assert len(BENCHMARKS) == 2
    targets = re.findall(r"^make ([\w-]+)", "\n".join(commands()), re.MULTILINE)
    assert set(targets) == {"setup", "demo", "bench-gpu"}
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
    for page in ("README.md", "infra/README.md"):
        for link in re.findall(r"\]\(([\w./-]+)\)", (ROOT / page).read_text()):
            assert (ROOT / page).parent.joinpath(link).exists(), link


def test_keys_named_in_the_text_are_settings() -> None:
    named = {text.split("=")[0] for text in re.findall(r"`((?:model|compute|plan)\.[a-z_]+=[^`]+)`", PAGE)}
    assert len(named) > 4
    for key in named:
        section, name = key.split(".")
        assert name in RunConfig.model_fields[section].annotation.model_fields  # type: ignore[union-attr]


def test_the_picture_is_the_one_that_the_code_draws() -> None:
    pytest.importorskip("torch", reason="needs torch")
    from infra.dataflow import PICTURE, draw

    assert PICTURE.read_text(encoding="utf-8") == draw(), "python -m infra.dataflow"


@pytest.mark.parametrize("page", sorted(path.name for path in (ROOT / "docs").glob("*.md")))
def test_the_links_of_a_page_lead_somewhere(page: str) -> None:
    path = ROOT / "docs" / page
    for link in re.findall(r"\]\(((?!https?:)[\w./-]+)", path.read_text(encoding="utf-8")):
        assert path.parent.joinpath(link).exists(), link
