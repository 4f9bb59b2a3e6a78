"""Tests of the gate's settings: the defaults are those of the README; a wrong value is refused with its key."""

from __future__ import annotations

import pydantic
import pytest

from pipeline.config import ConfigError, Section, load
from pipeline.evaluation.settings import GateConfig


class Job(Section):
    gate: GateConfig = GateConfig()


def test_the_defaults() -> None:
    gate = load(Job, None, []).gate
    assert (gate.alpha, gate.resamples, gate.seed, gate.margin, gate.min_coverage) == (0.05, 1000, 0, 0.003, 0.99)
    assert gate.ceilings == {}


def test_ceilings_by_language_from_the_command_line() -> None:
    assert load(Job, None, ["gate.ceilings={en: 0.05, zh: 0.08}"]).gate.ceilings == {"en": 0.05, "zh": 0.08}


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("gate.ceilings={eng: 0.05}", "gate.ceilings: eng is no language"),
        ("gate.ceilings={en: -1}", "gate.ceilings: en: a rate is 0 or more"),
        ("gate.ceilings={en: .nan}", "gate.ceilings: en: a rate is 0 or more"),
        ("gate.alpha=0", "gate.alpha: "),
        ("gate.alpha=0.9", "gate.alpha: "),
        ("gate.resamples=10", "gate.resamples: "),
        ("gate.min_coverage=99", "gate.min_coverage: "),
        ("gate.margin=-0.1", "gate.margin: "),
        ("gate.cieling=1", "gate.cieling: no such key"),
    ],
)
def test_a_wrong_value_is_refused_with_its_key(override: str, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(Job, None, [override])
    assert str(caught.value).startswith(line)


def test_the_gate_cannot_be_changed_once_it_is_set() -> None:
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        GateConfig().alpha = 0.5  # type: ignore[misc]
