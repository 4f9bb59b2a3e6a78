"""Calibrators: confidences in [0, 1] that rise with the score, and which rows fall back to other curves or stay raw."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import ConfigError
from pipeline.output.calibrator import (
    ALL,
    Calibrator,
    Curve,
    Curves,
    Input,
    calibrated,
    keep,
    of_output,
    parse,
    read_file,
)
from pipeline.schemas import SIGNALS, TRANSCRIPT, WORD_SIGNALS, to_table
from pipeline.storage.base import open_storage

number = st.floats(-50, 50, allow_nan=False)
PROBABILITY = Input(name="token_probability_min", low=-5, high=5, mean=0, scale=1, weight=1)
SCORE = Input(name="ctc_score", low=-4, high=0, mean=-1, scale=1, weight=2)


@st.composite
def curves(draw: st.DrawFn) -> Curve:
    scores = sorted(draw(st.lists(number, min_size=1, max_size=8, unique=True)))
    values = sorted(draw(st.lists(st.floats(0, 1), min_size=len(scores), max_size=len(scores))))
    low, high = sorted((draw(number), draw(number)))
    one = Input(
        name="a",
        low=low,
        high=high,
        mean=draw(number),
        scale=draw(st.floats(0.1, 10)),
        weight=draw(number),
        missing=draw(st.none() | number),
    )
    return Curve(inputs=[one], bias=draw(number), scores=scores, values=values, rows=1)


@given(curves(), st.lists(number | st.just(float("nan")), min_size=1, max_size=20))
def test_a_confidence_is_in_0_to_1_and_never_falls_where_the_score_rises(curve: Curve, values: list[float]) -> None:
    signals = {"a": np.array(values)}
    found, scores = curve.confidence(signals), curve.scored(signals)
    assert np.all((found >= 0) & (found <= 1))
    assert np.all(np.diff(found[np.argsort(scores, kind="stable")]) >= 0)


@given(curves(), curves())
def test_a_file_gives_back_the_calibrator_that_it_was_made_of(word: Curve, segment: Curve) -> None:
    made = Calibrator(model="m@1", fitted={"words": 3}, curves={ALL: Curves(word=word, segment=segment)})
    again = parse(made.to_json(), "file")
    assert again == made
    assert again.id == made.id


def curve(one: Input, value: float) -> Curve:
    """A curve whose confidence is `value` everywhere."""
    return Curve(inputs=[one], bias=0, scores=[0], values=[value], rows=9)


CALIBRATOR = Calibrator(
    model="tiny@1",
    curves={
        ALL: Curves(word=curve(PROBABILITY, 0.25), segment=curve(SCORE, 0.5)),
        "de": Curves(word=curve(PROBABILITY, 0.75), segment=curve(SCORE.model_copy(update={"low": -1}), 1.0)),
    },
)


def row(**changes: Any) -> dict[str, Any]:
    """A transcript of two words, raw."""
    signals: dict[str, float | None] = dict.fromkeys(WORD_SIGNALS.names, 0.5)
    words = [
        {"text": text, "confidence": 0.5, "start_ms": 0, "end_ms": 9, "signals": signals} for text in ("guten", "tag")
    ]
    own = dict.fromkeys(SIGNALS.names) | {"confidence_raw": 0.5, "ctc_score": -0.5} | changes.pop("signals", {})
    plain = dict.fromkeys(TRANSCRIPT.names) | {"text": "guten tag", "confidence": 0.5, "confidence_source": "raw"}
    return plain | {"words": words, "signals": own, "language": "de", "model": "tiny@1"} | changes


def of(**changes: Any) -> tuple[str | None, float | None, list[float]]:
    """What a row becomes: source, confidence, and those of its words."""
    table = calibrated(to_table([row(language="fr"), row(**changes), row()], TRANSCRIPT), CALIBRATOR)
    assert table.schema.equals(TRANSCRIPT)
    (found,) = table.slice(1, 1).to_pylist()
    return found["confidence_source"], found["confidence"], [word["confidence"] for word in found["words"] or []]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ("calibrated:language", 1.0, [0.75, 0.75])),
        ({"language": "fr"}, ("calibrated:all", 0.5, [0.25, 0.25])),
        ({"language": None}, ("calibrated:all", 0.5, [0.25, 0.25])),
        ({"signals": {"ctc_score": -2.0}}, ("calibrated:all", 0.5, [0.25, 0.25])),  # outside of what German had
        ({"signals": {"ctc_score": -9.0}}, ("raw", 0.5, [0.5, 0.5])),
        ({"signals": {"ctc_score": None}}, ("raw", 0.5, [0.5, 0.5])),
        ({"model": "tiny@2"}, ("raw", 0.5, [0.5, 0.5])),
        ({"text": "", "words": []}, ("raw", 0.5, [])),
        ({"text": "", "words": None, "signals": {"confidence_raw": None}, "confidence": None}, (None, None, [])),
    ],
    ids=["own", "other language", "no language", "outside own", "outside all", "null", "model", "empty", "silence"],
)
def test_a_row_has_the_nearest_curves_that_can_judge_it(
    changes: dict[str, Any], expected: tuple[str | None, float | None, list[float]]
) -> None:
    assert of(**changes) == expected


def test_only_the_signals_count_so_a_table_may_be_calibrated_again() -> None:
    once = calibrated(to_table([row(), row(language=None)], TRANSCRIPT), CALIBRATOR)
    assert calibrated(once, CALIBRATOR).equals(once)


def test_words_keep_their_texts_and_times_and_rows_their_number_of_words() -> None:
    rows = [row(), row(text="", words=[]), row(words=None), row()]
    table = to_table(rows, TRANSCRIPT)
    made = calibrated(table, CALIBRATOR)
    before, after = (
        [words and [(word["text"], word["end_ms"]) for word in words] for words in one["words"].to_pylist()]
        for one in (table, made)
    )
    assert after == before
    empty = table.slice(0, 0)
    assert calibrated(empty, CALIBRATOR).equals(empty)
    assert calibrated(table, None) is table


def test_a_table_of_several_chunks_is_one_table() -> None:
    table = to_table([row(), row(language="fr")], TRANSCRIPT)
    chunks = pa.concat_tables([table.slice(1, 1), table.slice(0, 1)])
    assert calibrated(chunks, CALIBRATOR)["confidence"].to_pylist() == [0.5, 1.0]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "no calibrator: "),
        (b'{"model": "m", "curves": {}}', "all is missing"),
        (b'{"format": "fullcanvas-calibrator/2", "model": "m", "curves": {}}', "format: must be 'fullcanvas-calib"),
    ],
)
def test_a_file_that_is_no_calibrator_is_one_line(tmp_path: Path, body: bytes, says: str) -> None:
    path = tmp_path / "c.json"
    path.write_bytes(body)
    with pytest.raises(ConfigError) as caught:
        read_file(path)
    assert str(caught.value).startswith(f"model.calibrator: {path}: ")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="No such file"):
        read_file(tmp_path / "none.json")


@pytest.mark.parametrize("body", [b"", b"{", b"\x9a", b"[]", b"3"])
def test_an_output_whose_calibrator_is_damaged_is_one_line(tmp_path: Path, body: bytes) -> None:
    storage = open_storage(str(tmp_path))
    storage.put("_run/calibrator.json", body)
    with pytest.raises(ConfigError) as caught:
        of_output(storage)
    assert re.match(rf"{tmp_path}/_run/calibrator\.json: \w", str(caught.value))
    assert "\n" not in str(caught.value)
    keep(storage, None)
    assert of_output(storage) is None
