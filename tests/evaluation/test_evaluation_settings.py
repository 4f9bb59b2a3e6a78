"""Tests of the gate's settings: the defaults are those of the README; a wrong value is refused with its key."""

from __future__ import annotations

import pydantic
import pytest

from pipeline.config import ConfigError, Section
from pipeline.config_file import load
from pipeline.evaluation.settings import EvaluateConfig, GateConfig


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
        ("gate.ceilings={en: -1}", "gate.ceilings.en: must be 0 or more"),
        ("gate.ceilings={en: .nan}", "gate.ceilings.en: must be a finite number"),
        ("gate.ceilings={en: 5}", "gate.ceilings.en: a rate above 1 needs a percent sign: 5% or 0.05, else 500%"),
        ("gate.ceilings={en: '5'}", "gate.ceilings.en: a rate above 1 needs a percent sign"),
        ("gate.ceilings={en: 20000%}", "gate.ceilings.en: must be 100 or less"),
        ("gate.ceilings={en: low}", "gate.ceilings.en: must be a number"),
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


def test_a_ceiling_may_be_in_percent_and_above_100() -> None:
    assert load(Job, None, ["gate.ceilings={en: 5%, zh: 8 %, de: 120%}"]).gate.ceilings == {
        "en": 0.05,
        "zh": 0.08,
        "de": 1.2,
    }


def evaluate_settings(*overrides: str) -> str:
    """The line with which these settings of jobs.evaluate are refused."""
    with pytest.raises(ConfigError) as caught:
        load(EvaluateConfig, None, ["sets.dev.output=/finished", "output.uri=/evaluated", *overrides])
    (line,) = str(caught.value).splitlines()
    return line


@pytest.mark.parametrize("address", ["/evaluated", "/evaluated/", "file:///evaluated", "/other/../evaluated"])
def test_a_baseline_is_not_kept_over_the_evaluations_of_its_own_output(address: str) -> None:
    assert evaluate_settings(f"keep_as={address}").startswith(f"keep_as: {address}: is the output itself")


def test_a_baseline_is_not_kept_under_the_name_of_the_last_evaluation() -> None:
    assert evaluate_settings("keep_as=previous").startswith("keep_as: previous: as a baseline this is the last")


def test_a_baseline_is_not_kept_over_its_own_output_in_a_store() -> None:
    line = evaluate_settings("output.uri=s3://bucket/nights", "keep_as=s3://bucket/nights/")
    assert line.startswith("keep_as: s3://bucket/nights/: is the output itself")
    other = ["sets.dev.output=/finished", "output.uri=s3://bucket/nights", "keep_as=s3://bucket/golden"]
    assert load(EvaluateConfig, None, other).keep_as == "s3://bucket/golden"


@pytest.mark.parametrize("key", ["sets.dev.output", "baseline", "keep_as"])
# pragma: allowlist nextline secret
@pytest.mark.parametrize("address", ["s3://KEY:SECRET@bucket/x", "https://host/x?a=1&X-Amz-Signature=SECRET"])
def test_an_address_with_keys_is_refused_without_repeating_them(key: str, address: str) -> None:
    line = evaluate_settings(f"{key}={address}")
    assert line.startswith(f"{key}: an address must not contain a password")
    assert "SECRET" not in line


def test_settings_that_do_not_fit_name_their_key_and_not_the_whole_config() -> None:
    both = evaluate_settings("sets.dev.source.uri=/in")
    assert both == "sets.dev: needs one of source, output and hypotheses, not several"
    damaged = evaluate_settings("keep_as=golden", "corrupt.delete_words=0.5")
    assert damaged == "keep_as: golden: damaged on purpose (corrupt: delete_words 0.5), so it is no baseline"
    assert evaluate_settings("sweep={denoise.max_steps: [4]}").startswith("sweep: dev is a finished output")


def test_the_gate_cannot_be_changed_once_it_is_set() -> None:
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        GateConfig().alpha = 0.5  # type: ignore[misc]
