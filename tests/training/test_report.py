"""What a person reads of an adapter's training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.training import report
from tests.support.adapter_case import config

STEP: dict[str, Any] = {"step": 40, "of": 200, "loss": 3.14159, "diffusion": 2.0, "ar": 0.5, "seconds_per_step": 0.256}


def evaluation(rate: float, *, step: int = 0, grounded: bool = True, best: bool = True) -> dict[str, Any]:
    one = {"rate": rate, "errors": 5, "units": 20, "languages": {"de": rate, "zh": rate / 2}}
    sets = {"new": one, "old": one | {"rate": 0.1}}
    verdict = {"grounded": grounded, "best": best}
    return {"evaluation": True, "step": step, "rate": rate, "shuffled": 0.99, "sets": sets} | verdict


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (STEP, "step 40/200: loss 3.142 (diffusion 2.000, ar 0.500), 0.26 s a step"),
        (STEP | {"infeasible": 3.0}, "(diffusion 2.000, ar 0.500), 3 infeasible for CTC, 0.26 s a step"),
        (evaluation(0.25), "step 0: error rate new 25.0%, old 10.0%; audio shuffled 99.0%; the best so far"),
        (evaluation(0.25, step=80, best=False), "step 80: error rate new 25.0%, old 10.0%; audio shuffled 99.0%"),
        (evaluation(0.25, grounded=False, best=False), "99.0%: NOT GROUNDED, the text does not follow from the audio"),
    ],
)
def test_a_line_of_the_log_in_words(line: dict[str, Any], says: str) -> None:
    assert report.line_of(line).endswith(says)


def test_decoded_texts_stand_beside_their_references() -> None:
    line = evaluation(0.25)
    line["sets"]["new"] = line["sets"]["new"] | {"texts": [["de", "ein Hund", "ein Hut"], ["zh", "我要茶", ""]]}
    assert report.line_of(line).splitlines()[1:] == ["  new de: 'ein Hut' for 'ein Hund'", "  new zh: '' for '我要茶'"]


def test_the_table_has_before_and_after_by_set_and_language() -> None:
    table = report.table({"before": evaluation(0.5), "best": evaluation(0.25, step=80)}).splitlines()
    assert table[2:] == [
        "| new | all (20 units) | 50.0% | 25.0% |",
        "| | de | 50.0% | 25.0% |",
        "| | zh | 25.0% | 12.5% |",
        "| old | all (20 units) | 10.0% | 10.0% |",
        "| | de | 50.0% | 25.0% |",
        "| | zh | 25.0% | 12.5% |",
        "| all, audio shuffled | | 99.0% | 99.0% |",
    ]


@pytest.mark.parametrize("grounded", [True, False])
def test_the_card_says_what_was_trained_on_what_and_whether_it_listens(tmp_path: Path, grounded: bool) -> None:
    class Data:
        def __init__(self) -> None:
            self.left_out = {"no_reference": 2}

        def __len__(self) -> int:
            return 8

    data: Any = Data()
    result = {"before": evaluation(0.5), "best": evaluation(0.25, step=80, grounded=grounded)}
    sets = {"new": {"uri": "new"}, "old": {"uri": "old"}}
    settings = config(tmp_path, evaluation=sets)
    card = report.card(settings, result, data, [], "python -m jobs.train x=y")
    assert "8 recordings of" in card
    assert "(left out: no_reference 2)" in card
    assert "After: step 80 of 6" in card
    assert "\n    python -m jobs.train x=y\n" in card
    assert ("Not grounded" in card) != grounded


def test_names_of_sets_cannot_break_the_table() -> None:
    one = evaluation(0.25)
    before = one | {"sets": {"a|b\n<script>": one["sets"]["new"]}}
    rows = report.table({"before": before, "best": before}).splitlines()
    assert rows[2].startswith("| a\\|b &lt;script&gt; | all (20 units) | 25.0% | 25.0% |")
    assert len(rows) == 6
