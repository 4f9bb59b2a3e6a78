"""Tests of comparison and verdict: pairs, blocks, any order of rows, a damaged language closes the gate."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipeline.config import ConfigError
from pipeline.evaluation.bootstrap import language_seed, paired
from pipeline.evaluation.compare import compare_rows, unpaired, verdict
from pipeline.evaluation.corrupt import corrupt_text
from pipeline.evaluation.rates import language_rates as real_rates
from pipeline.evaluation.result import Comparison, Rates
from pipeline.evaluation.settings import GateConfig
from pipeline.evaluation.significance import detectable, holm, mapsswe
from tests.support.evaluated import comparison, evaluated_table, made_up_rows, rates_of, row

Rows = list[dict[str, Any]]
COVERED = GateConfig(min_coverage=0.9)


@pytest.fixture(scope="module")
def rows() -> Rows:
    return made_up_rows()


def compared(new: Rows, old: Rows, **options: Any) -> dict[str, Comparison]:
    return {one.language: one for one in compare_rows(evaluated_table(new), evaluated_table(old), **options)}


def language_rates(rows: Rows) -> list[Rates]:
    return [
        rates_of(group, key, [one for one in rows if of(one) == key])
        for group, of in (("language", lambda one: one["language"]), ("set", lambda one: one["set"]))
        for key in sorted({of(one) for one in rows})
    ]


def set_rates(rows: Rows) -> list[Rates]:
    return real_rates(rows, resamples=100, seed=0)


def damaged(rows: Rows, language: str, **fractions: float) -> Rows:
    """The same evaluation with worse hypotheses in one language, counted anew."""
    settings = {"delete_words": 0.0, "insert_words": 0.0, "substitute_words": 0.0, "seed": 1} | fractions
    worse = []
    for one in rows:
        if one["language"] != language or one["status"] != "transcribed":
            worse.append(one)
            continue
        text = corrupt_text(one["hypothesis"], one["recording_id"], **settings)  # type: ignore[arg-type]
        fresh = row(language, one["reference"], text)
        worse.append(one | {name: fresh[name] for name in fresh if name.startswith(("word_", "char_", "hyp"))})
    return worse


def test_equal_evaluations_do_not_differ_and_the_gate_is_open(rows: Rows) -> None:
    found = compared(rows, rows)
    assert list(found) == ["all", "de", "en", "hi", "zh"]
    assert {one.metric for one in found.values() if one.language != "zh"} == {"WER"}
    assert found["zh"].metric == "CER"
    for one in found.values():
        alone = one.language != "all"
        assert (one.recordings, one.left_out) == (60 if alone else 240, 0)
        assert not alone or one.blocks == 7
        assert one.rate == one.baseline_rate > 0
        assert (one.difference, one.low, one.high, one.p, one.p_mapsswe) == (0, 0, 0, 1, None)
        assert one.detectable > 0
    judged = verdict(list(found.values()), language_rates(rows), COVERED)
    assert (judged.passed, judged.failures, judged.warnings) == (True, (), ())


@pytest.mark.parametrize("was", ["en", "unknown"])
def test_recordings_whose_language_is_detected_differently_stay_pairs_of_the_language_they_had(
    rows: Rows, was: str
) -> None:
    old = [one | {"language": was} if one["language"] == "en" else one for one in rows]
    first = next(one for one in rows if one["language"] == "en")
    wrong = row("fr", first["reference"], "rien de tout cela") | {name: first[name] for name in ("set", "recording_id")}
    found = compared([wrong if one is first else one for one in rows], old)
    assert list(found) == ["all", "de", "en", "hi", "zh"]
    lost = 1 if was == "unknown" else 0  # where no language is known, the wrong one is all that there is
    assert (found["en"].recordings, found["en"].left_out, found["all"].left_out) == (60 - lost, 0, 0)
    assert found["all"].difference > 0


@pytest.mark.parametrize("language", ["de", "zh"])
@pytest.mark.parametrize("kind", ["delete_words", "insert_words", "substitute_words"])
def test_one_damaged_language_closes_the_gate_and_no_other_is_blamed(rows: Rows, language: str, kind: str) -> None:
    found = compared(damaged(rows, language, **{kind: 0.1}), rows)
    assert {one.language for one in found.values() if one.regressed} - {"all"} == {language}
    assert 0.04 < found[language].difference < 0.12
    judged = verdict(list(found.values()), language_rates(rows), COVERED)
    assert not judged.passed
    (blamed,) = [failure for failure in judged.failures if not failure.startswith("all: ")]
    assert blamed.startswith(f"{language}: {'CER' if language == 'zh' else 'WER'} rose from ")


def test_a_small_loss_in_every_language_shows_in_all_of_them_together(rows: Rows) -> None:
    worse = rows
    for language in ("de", "en", "hi", "zh"):
        worse = damaged(worse, language, delete_words=0.003)
    found = compared(worse, rows)
    assert [one.language for one in found.values() if one.regressed] == ["all"]
    units = {"de": "word", "en": "word", "hi": "word", "zh": "char"}
    kinds = ("substitutions", "deletions", "insertions")
    errors = sum(one[f"{units[one['language']]}_{kind}"] for one in worse for kind in kinds)
    given = sum(one[f"{units[one['language']]}_{kind}"] for one in worse for kind in ("hits", *kinds[:2]))
    assert found["all"].rate == pytest.approx(errors / given)


def test_one_language_of_four_needs_more_than_chance_in_one_of_four(rows: Rows) -> None:
    found = [
        compared(damaged(rows, "de", delete_words=0.001 * number), rows, resamples=200)["de"] for number in range(1, 15)
    ]
    assert [one.regressed for one in found] == [one.p_holm < 0.05 for one in found]
    assert any(one.regressed for one in found)
    assert any(one.p < 0.05 and one.low > 0 and not one.regressed for one in found)


def test_a_language_that_improves_does_not_close_the_gate(rows: Rows) -> None:
    found = compared(rows, damaged(rows, "en", delete_words=0.1))
    assert found["en"].high < 0
    assert found["en"].p > 0.95
    assert found["en"].p_mapsswe is not None
    assert found["en"].p_mapsswe < 0.01
    assert verdict(list(found.values()), language_rates(rows), COVERED).passed


def test_the_figures_are_those_of_the_statistics_on_the_same_rows(rows: Rows) -> None:
    new = damaged(rows, "de", delete_words=0.02)
    found = compared(new, rows, resamples=400, alpha=0.1, seed=5)
    mine = sorted((one for one in new if one["language"] == "de"), key=lambda one: one["recording_id"])
    theirs = sorted((one for one in rows if one["language"] == "de"), key=lambda one: one["recording_id"])

    def errors(of: Rows) -> np.ndarray:
        return np.array([one["word_substitutions"] + one["word_deletions"] + one["word_insertions"] for one in of])

    units = np.array([len(one["reference"].split()) for one in mine])
    blocks = [f"{one['set']}\0speaker {one['speaker']}" for one in mine]
    data = (errors(mine), errors(theirs), units, blocks)
    expected = paired(*data, resamples=400, seed=language_seed(5, "de"), level=0.9)
    one = found["de"]
    assert one.rate == pytest.approx(errors(mine).sum() / units.sum())
    assert one.baseline_rate == pytest.approx(errors(theirs).sum() / units.sum())
    assert (one.difference, one.low, one.high, one.p) == (
        expected.difference,
        expected.low,
        expected.high,
        expected.p,
    )
    assert one.p_mapsswe == mapsswe(errors(mine), errors(theirs))
    assert one.detectable == detectable(*data, alpha=0.1 / 5)
    assert [each.p_holm for each in found.values()] == holm([each.p for each in found.values()])


def test_order_of_rows_and_other_languages_change_no_draw(rows: Rows) -> None:
    new = damaged(rows, "de", delete_words=0.02)
    first = compared(new, rows, resamples=200)
    shuffled = random.Random(1).sample(new, len(new))
    assert compared(shuffled, list(reversed(rows)), resamples=200) == first
    alone = compared(*([one for one in of if one["language"] == "de"] for of in (new, rows)), resamples=200)["de"]
    assert (alone.low, alone.high, alone.p) == (first["de"].low, first["de"].high, first["de"].p)
    assert compared(new, rows, resamples=200, seed=1)["de"].low != first["de"].low


def changed(rows: Rows, change: Callable[[dict[str, Any]], dict[str, Any] | None], number: int) -> Rows:
    """`change` made to the first rows of German; None takes one away."""
    german = [one["recording_id"] for one in rows if one["language"] == "de"][:number]
    new = ((change(one) if one["recording_id"] in german else one) for one in rows)
    return [one for one in new if one is not None]


@pytest.mark.parametrize(
    ("change", "left_out"),
    [
        (lambda one: None, 5),
        (lambda one: one | {"recording_id": one["recording_id"] + "x"}, 10),  # 5 here, 5 there
        (lambda one: one | {"set": "other"}, 10),
        (lambda one: one | {"reference_normal": "etwas anderes"}, 5),
        (lambda one: one | {"reference_normal": ""}, 5),
        (lambda one: one | {"reference_normal": None}, 5),
    ],
)
def test_what_has_no_partner_is_left_out_counted_and_reported(rows: Rows, change: Any, left_out: int) -> None:
    for new, old in ((changed(rows, change, 5), rows), (rows, changed(rows, change, 5))):
        found = compared(new, old)
        assert (found["de"].recordings, found["de"].left_out) == (55, left_out)
        assert (found["en"].recordings, found["en"].left_out) == (60, 0)
        warnings = verdict(list(found.values()), language_rates(rows), COVERED).warnings
        assert len(warnings) == 1
        assert warnings[0].startswith("left out of the comparison")
        assert warnings[0].endswith(f": de {left_out} of {left_out + 55}")


def test_recordings_without_a_reference_anywhere_are_not_missed(rows: Rows) -> None:
    silent = changed(rows, lambda one: one | {"reference_normal": ""}, 5)
    assert (compared(silent, silent)["de"].recordings, compared(silent, silent)["de"].left_out) == (55, 0)


def test_speakers_are_blocks_within_their_set_and_recordings_where_unknown(rows: Rows) -> None:
    def blocks(change: Callable[[int, dict[str, Any]], dict[str, Any]]) -> int:
        german = [one for one in rows if one["language"] == "de"]
        new = [one | change(place, one) for place, one in enumerate(german)]
        return compared(new, new)["de"].blocks

    assert blocks(lambda place, one: {"speaker": None}) == 60
    assert blocks(lambda place, one: {"set": ("a", "b")[place < 30]}) == 14
    assert blocks(lambda place, one: {"speaker": None if place < 10 else "x"}) == 11
    assert blocks(lambda place, one: {"speaker": "x"}) == 60  # a single speaker


def test_a_language_of_one_recording_is_reported_and_not_compared(rows: Rows) -> None:
    lonely = [*rows, row("fr", "la maison", "la raison")]
    found = compared(lonely, lonely)
    assert "fr" not in found
    warnings = verdict(list(found.values()), language_rates(lonely), COVERED).warnings
    assert warnings == ("not compared, for fewer than two recordings have the same reference in the baseline: fr",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda rows: [one | {"normaliser": "english/0"} if one["language"] == "en" else one for one in rows],
            r"baseline: 60 of 240 recordings have another normaliser there \(english/0, here english/1\)",
        ),
        (
            lambda rows: [one | {"set": "other"} for one in rows],
            "240 recordings with a reference here, 240 there, 0 of them with the same set and recording_id",
        ),
        (
            lambda rows: [one | {"reference_normal": "x"} for one in rows],
            "240 of them with the same set and recording_id, none with the same reference",
        ),
        (lambda rows: [], "240 recordings with a reference here, 0 there"),
        (lambda rows: [*rows, *rows[:3]], "baseline: 3 rows repeat a set and recording_id"),
    ],
)
def test_what_cannot_be_compared_is_one_line_with_counts(rows: Rows, change: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        compared(rows, change(rows))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("resamples", "alpha", "enough"), [(99, 0.05, 100), (499, 0.01, 500), (100, 0.001, 5_000)])
def test_resamples_too_few_to_ever_close_the_gate_are_refused(
    rows: Rows, resamples: int, alpha: float, enough: int
) -> None:
    worse = [one | {"word_deletions": 9, "char_deletions": 9} for one in rows]
    with pytest.raises(
        ConfigError, match=rf"^gate.resamples: {resamples} are .* 5 comparisons .*: {enough:,} or more$"
    ):
        compared(worse, rows, resamples=resamples, alpha=alpha)
    assert any(one.regressed for one in compared(worse, rows, resamples=enough, alpha=alpha).values())


def test_two_evaluations_in_one_table_are_refused_by_name(rows: Rows) -> None:
    with pytest.raises(ConfigError, match="this evaluation: 240 rows repeat"):
        compared([*rows, *rows], rows)


LOSS = Comparison("en", "WER", 2_620, 40, 0.0445, 0.0410, 0.0035, 0.0012, 0.0058, 0.004, 0.012, 0.02, 0.003, True)


def test_a_regression_is_one_sentence_with_all_figures() -> None:
    sets = [rates_of("set", "a", [row("en", "one two", "one two")])]
    judged = verdict([LOSS], sets, GateConfig())
    assert judged.warnings == ()  # the failure already says it
    assert judged.failures == (
        "en: WER rose from 4.10 % to 4.45 % on 2,620 recordings, by +0.35 points [+0.12, +0.58], p 0.012 after Holm",
    )


@pytest.mark.parametrize(("high", "warned"), [(0.0029, False), (0.003, False), (0.0031, True)])
def test_losses_that_cannot_be_excluded_are_one_warning(high: float, warned: bool) -> None:
    sets = [rates_of("set", "a", [row("en", "one two", "one two")])]
    small = replace(LOSS, regressed=False, low=-0.001, high=high)
    judged = verdict([small, replace(small, language="de", blocks=3)], sets, GateConfig())
    assert judged.passed
    assert bool(judged.warnings) == warned
    if warned:
        assert judged.warnings == (
            "cannot exclude a loss above the margin of 0.30 points; it may be up to: en 0.31 (40 blocks), "
            "de 0.31 (3 blocks)",
        )


@pytest.mark.parametrize(
    ("ceilings", "failure"),
    [
        ({"en": 0.5}, None),
        ({"en": 0.25}, "en: WER 50.00 % is above the ceiling of 25.00 %"),
        ({"zh": 0.3}, "zh: CER 33.33 % is above the ceiling of 30.00 %"),
        ({"hi": 0.3}, "hi: no rate to compare with its ceiling of 30.00 %"),
    ],
)
def test_a_rate_above_its_ceiling_or_not_there_closes_the_gate(ceilings: dict[str, float], failure: str | None) -> None:
    found = language_rates([row("en", "one two", "one"), row("zh", "你好吗", "你好")])
    judged = verdict([], found, GateConfig(ceilings=ceilings))
    assert judged.failures == ((failure,) if failure else ())
    assert judged.warnings == ()


def test_a_set_that_is_not_covered_closes_the_gate() -> None:
    dead = [row("en", "one two", "", recording_id=f"{place}", status="dead_letter") for place in range(2)]
    transcribed = [row("en", "one two", "one two", recording_id=f"{place}") for place in range(2, 100)]
    assert verdict([], language_rates([*dead, *transcribed]), GateConfig(min_coverage=0.98)).passed
    assert verdict([], language_rates([*dead, *transcribed]), GateConfig()).failures == (
        "test-clean: 98 of 100 recordings transcribed (98.00 %: 2 dead letters, 0 missing), less than 99.00 %",
    )


def test_lost_recordings_whose_reference_nobody_could_read_close_the_gate() -> None:
    """Sidecars are in the archive: a lost recording loses its text too, and often its language."""
    transcribed = [row("en", "one two", "one two", recording_id=f"{place}") for place in range(98)]
    for language, status, message in (
        ("en", "dead_letter", "test-clean en: 98 of 100 recordings transcribed (98.00 %: 2 dead letters, 0 missing)"),
        ("en", "missing", "test-clean en: 98 of 100 recordings transcribed (98.00 %: 0 dead letters, 2 missing)"),
        ("unknown", "missing", "test-clean: 98 of 100 recordings transcribed (98.00 %: 0 dead letters, 2 missing)"),
    ):
        lost = [row(language, None, "", recording_id=f"-{n}", status=status, set="test-clean") for n in range(2)]
        found = set_rates([*transcribed, *lost])
        assert verdict([], found, GateConfig(min_coverage=0.98)).passed
        assert verdict([], found, GateConfig()).failures == (f"{message}, less than 99.00 %",)


def test_what_was_transcribed_needs_no_reference() -> None:
    transcribed = [row("en", "one two", "one two"), row("en", None, "more", recording_id="2")]
    assert verdict([], set_rates(transcribed), GateConfig(min_coverage=1.0)).passed


def test_of_a_set_that_few_references_are_of_all_recordings_are_covered() -> None:
    """Most of the lost recordings had no reference either: 990 of 1,000 are transcribed, not 50 of 60."""
    rows = [row("en", "one two" if n < 50 else None, "one two", recording_id=f"{n}") for n in range(990)]
    lost = [row("en", None, "", recording_id=f"-{n}", status="dead_letter") for n in range(10)]
    assert verdict([], set_rates([*rows, *lost]), GateConfig()).passed
    message = (
        "test-clean en: 989 of 1,000 recordings transcribed (98.90 %: 11 dead letters, 0 missing), less than 99.00 %"
    )
    lost.append(rows[0] | {"status": "dead_letter", "recording_id": "-x"})
    assert verdict([], set_rates([*rows[1:], *lost]), GateConfig()).failures == (message,)


@pytest.mark.parametrize("status", ["transcribed", "missing"])
def test_a_set_without_any_reference_closes_the_gate(status: str) -> None:
    """Its text column was renamed, or its archives are damaged. A set of silence has empty references."""
    good = row("en", "one two", "one two")
    bare = [row("de", None, "eins", recording_id=f"{n}", set="fleurs", status=status) for n in range(3)]
    message = ("fleurs: no recording with a reference: nothing was evaluated",)
    assert verdict([], set_rates([good, *bare]), GateConfig()).failures == message
    silence = row("de", "", "", set="silence")
    assert verdict([], set_rates([good, silence]), GateConfig()).passed


@pytest.mark.parametrize("how", ["gone", "without text"])
def test_a_language_of_the_baseline_that_is_not_there_closes_the_gate(rows: Rows, how: str) -> None:
    new = [one for one in rows if one["language"] != "de"]
    if how == "without text":
        new = [one | {"reference": None, "reference_normal": ""} if one["language"] == "de" else one for one in rows]
    lost = unpaired(evaluated_table(new), evaluated_table(rows))
    count = sum(one["language"] == "de" and bool(one["reference_normal"]) for one in rows)
    assert lost == {"de": count}
    found = compare_rows(evaluated_table(new), evaluated_table(rows))
    judged = verdict(found, set_rates(new), COVERED, lost=lost)
    message = f"de: the baseline has {count:,} recordings, this evaluation has none with the same reference"
    assert judged.failures == (message,)
    assert verdict(found, set_rates(new), COVERED, lost={}).passed


def test_another_choice_of_sets_is_no_loss(rows: Rows) -> None:
    new = [one for one in rows if one["set"] == "test-clean"]
    assert unpaired(evaluated_table(new), evaluated_table(rows)) == {}
    assert unpaired(evaluated_table(rows), evaluated_table(rows)) == {}
    one = row("fr", "un deux", "un deux", set="fleurs")
    assert unpaired(evaluated_table(rows), evaluated_table([*rows, one])) == {}


def test_nothing_at_all_closes_the_gate() -> None:
    assert verdict([], [], GateConfig()).failures == ("no recording with a reference: nothing was evaluated",)


def test_every_regressed_language_has_its_sentence() -> None:
    sets = [rates_of("set", "a", [row("en", "one two", "one two")])]
    judged = verdict([comparison("de", regressed=True), comparison("zh", regressed=True)], sets, GateConfig())
    assert [failure[:8] for failure in judged.failures] == ["de: WER ", "zh: CER "]
