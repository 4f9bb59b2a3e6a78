"""Tests of deliberate damage: none changes nothing, all deletes all, as much as was said, the key alone decides."""

from __future__ import annotations

from typing import Any

import jiwer
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import ConfigError
from pipeline.config_file import load
from pipeline.evaluation.corrupt import SPARE, SPARE_HAN, CorruptConfig, corrupt_text

NONE: dict[str, Any] = {"delete_words": 0.0, "insert_words": 0.0, "substitute_words": 0.0, "seed": 0}
FRACTION = st.floats(0, 1)
TEXTS = {
    "en": "the cat sat on a mat and nobody knew where it had come from",
    "hi": "मुझे रोटी और नमक चाहिए क्योंकि आज घर में कुछ नहीं है",
    "zh": "我要茶和鱼今天天气很好我们去公园散步吧",
}


def counts(language: str, text: str, hypothesis: str) -> Any:
    return (jiwer.process_characters if language == "zh" else jiwer.process_words)(text, hypothesis)


def test_the_defaults_damage_nothing() -> None:
    settings = CorruptConfig().model_dump()
    assert settings == NONE
    assert corrupt_text("as it  was ", "a", **settings) == "as it  was "


@given(st.text(), st.text(), st.integers(0, 2**31 - 1))
def test_nothing_changes_nothing(text: str, key: str, seed: int) -> None:
    assert corrupt_text(text, key, **NONE | {"seed": seed}) == text


@given(st.text(), st.text(), FRACTION)
def test_all_deleted_leaves_nothing(text: str, key: str, substitute: float) -> None:
    assert corrupt_text(text, key, **NONE | {"delete_words": 1.0, "substitute_words": substitute}) == ""


@given(st.text(st.characters(codec="utf-8")), st.text(), FRACTION, FRACTION, FRACTION, st.integers(0, 99))
def test_any_damage_is_repeatable_and_made_of_the_words_there_are(
    text: str, key: str, delete: float, insert: float, substitute: float, seed: int
) -> None:
    settings = {"delete_words": delete, "insert_words": insert, "substitute_words": substitute, "seed": seed}
    damaged = corrupt_text(text, key, **settings)  # type: ignore[arg-type]
    assert corrupt_text(text, key, **settings) == damaged  # type: ignore[arg-type]
    assert set(damaged) <= set(text) | set(" ".join((*SPARE, *SPARE_HAN)))


@pytest.mark.parametrize("language", TEXTS)
def test_every_word_is_deleted_inserted_or_replaced_at_one(language: str) -> None:
    text = TEXTS[language]
    units = len(text) if language == "zh" else len(text.split())
    inserted = counts(language, text, corrupt_text(text, "a", **NONE | {"insert_words": 1.0}))
    assert (inserted.hits, inserted.insertions) == (units, units)
    replaced = corrupt_text(text, "a", **NONE | {"substitute_words": 1.0})
    before, after = (list(of) if language == "zh" else of.split() for of in (text, replaced))
    assert len(after) == len(before)
    assert all(one != other for one, other in zip(before, after, strict=True))
    assert set(after) <= set(before)


@pytest.mark.parametrize("language", TEXTS)
@pytest.mark.parametrize(
    ("kind", "count"),
    [("delete_words", "deletions"), ("insert_words", "insertions"), ("substitute_words", "substitutions")],
)
def test_as_many_words_are_damaged_as_was_said(language: str, kind: str, count: str) -> None:
    text = TEXTS[language]
    units = damaged = 0
    for number in range(200):
        found = counts(language, text, corrupt_text(text, f"recording {number}", **NONE | {kind: 0.05}))
        units += found.hits + found.substitutions + found.deletions
        damaged += getattr(found, count)
    assert 0.04 <= damaged / units <= 0.06  # at least 2,400 words: +- 0.45 points


def test_more_damage_is_the_same_damage_and_more() -> None:
    words = [f"w{number}" for number in range(300)]
    kept = [
        set(corrupt_text(" ".join(words), "a", **NONE | {"delete_words": fraction}).split())
        for fraction in (0.01, 0.1, 0.3, 0.9)
    ]
    assert set(words) > kept[0] > kept[1] > kept[2] > kept[3]


def test_key_and_seed_decide_and_nothing_else() -> None:
    text = TEXTS["en"]
    half = NONE | {"delete_words": 0.5}
    assert len({corrupt_text(text, key, **half) for key in ("a", "b", "c")}) == 3
    assert len({corrupt_text(text, "a", **half | {"seed": seed}) for seed in range(3)}) == 3


@pytest.mark.parametrize(
    ("text", "spares"),
    [("yes", SPARE), ("Yes, yes! YES", SPARE), (f"{SPARE[0]} {SPARE[0]}", SPARE[1:]), ("你", SPARE_HAN)],
)
def test_a_text_without_another_word_gets_one_from_the_list(text: str, spares: tuple[str, ...]) -> None:
    assert set(corrupt_text(text, "a", **NONE | {"substitute_words": 1.0}).split()) == {spares[0]}


@pytest.mark.parametrize("key", ["delete_words", "insert_words", "substitute_words"])
@pytest.mark.parametrize("value", ["-0.1", "1.1", "nan"])
def test_a_fraction_lies_between_nothing_and_all(key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=key):
        load(CorruptConfig, None, [f"{key}={value}"])
