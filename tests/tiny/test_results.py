"""The page of results: every table of both evaluations, with commands that exist."""

from __future__ import annotations

import shlex

from infra.results import CHAPTERS, page
from pipeline.config_file import load
from pipeline.evaluation.settings import EvaluateConfig
from tests.support.evaluated import made_up_side_by_side

FOUND = made_up_side_by_side("tiny", "whisper-base")


def test_the_page_has_the_tables_of_both_without_the_clock() -> None:
    text = page({"human": FOUND, "self": FOUND})
    assert text.startswith("# Results")
    assert text.count("| whisper-base | tiny | de | -4.00 |") == 2
    assert text.count("| de | WER | tiny |") == 2
    models = [line for line in text.splitlines() if line.startswith(("| model | error rate", "| tiny | "))]
    assert [line.count("|") for line in models] == [7] * 4
    assert "pipeline_rtfx" not in "".join(models)
    assert max(len(line) for line in text.splitlines() if not line.startswith(("|", "python"))) <= 140


def test_its_commands_load_and_compare_both_models() -> None:
    for chapter in CHAPTERS.values():
        words = shlex.split(chapter.commands[-1])
        assert words[:4] == ["python", "-m", "jobs.evaluate", "--config"]
        config = load(EvaluateConfig, words[4], words[5:])
        assert list(config.sides()) == ["tiny", "whisper-base"]
