"""Language, reference and metadata out of columns, with bad values told apart."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import LANGUAGES
from pipeline.schemas import BadRecording
from pipeline.sources.access.fields import Fields, describe, from_json, to_seconds


def test_the_usual_columns_are_used_and_the_rest_is_metadata() -> None:
    described = describe(
        {"text": "hallo", "lang": "de", "n": 1, "day": datetime.date(2024, 2, 29), "id": 7}, drop=["id"]
    )
    assert described == Fields("de", "hallo", '{"n": 1, "day": "2024-02-29"}')
    assert describe({}) == Fields(None, None, None)


def test_a_column_with_a_value_is_preferred_to_an_empty_one() -> None:
    described = describe({"language": "", "lang": "fr", "text": None, "sentence": "salut"})
    assert (described.language, described.reference) == ("fr", "salut")


def test_empty_text_is_a_reference_and_null_is_not() -> None:
    assert describe({"text": ""}).reference == ""
    assert describe({"text": None}).reference is None
    assert describe({"text": float("nan")}).reference is None


def test_settings_choose_the_columns() -> None:
    columns = {"text": "a", "caption": "b", "language": "xy", "tongue": "es"}
    described = describe(columns, language="hi", text="caption")
    assert described == Fields("hi", "b", json.dumps({"text": "a", "language": "xy", "tongue": "es"}))
    assert describe(columns, language="column:tongue").language == "es"
    assert describe(columns, language="column:nowhere", text="nowhere") == Fields(None, None, json.dumps(columns))
    with pytest.raises(BadRecording, match="unsupported_language: 'xy'") as bad:
        describe(columns)
    assert bad.value.described == {"reference": "a", "metadata": json.dumps({"caption": "b", "tongue": "es"})}


@pytest.mark.parametrize("value", [True, [], {}, "\ud800"])
def test_a_value_that_is_not_text_is_bad_metadata(value: object) -> None:
    with pytest.raises(BadRecording, match="bad_metadata: text: "):
        describe({"text": value})


@pytest.mark.parametrize(("value", "seconds"), [(1, 1.0), ("2.5", 2.5), (0, 0.0), (None, None), ("", None), (1e8, 1e8)])
def test_seconds_are_numbers_or_their_text(value: object, seconds: float | None) -> None:
    assert to_seconds(value, "duration") == seconds


@pytest.mark.parametrize("value", [-0.1, "x", True, [], float("nan"), float("inf"), 1e10, 10**400])
def test_values_that_are_not_seconds_are_bad_metadata(value: object) -> None:
    with pytest.raises(BadRecording, match="bad_metadata: duration: expected seconds"):
        to_seconds(value, "duration")


def test_infinite_numbers_become_null() -> None:
    assert (
        describe({"x": [float("nan"), {"y": float("-inf")}], "z": 1.5}).metadata
        == '{"x": [null, {"y": null}], "z": 1.5}'
    )


@pytest.mark.parametrize("data", [b"", b"[]", b"1", b'"x"', b"{", b"\xff", b'{"a":' * 100_000, b"9" * 5000])
def test_anything_but_a_json_object_is_bad_metadata(data: bytes) -> None:
    with pytest.raises(BadRecording, match="bad_metadata: here: "):
        from_json(data, "here")


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(["text", "sentence", "language", "lang", "a", "b"]), ANY))
def test_any_columns_give_fields_that_can_be_stored_or_a_known_problem(columns: dict[str, Any]) -> None:
    try:
        described = describe(columns)
    except BadRecording as err:
        reason = err.reason
        described = Fields()
    else:
        reason = None
    assert reason in (None, "bad_metadata", "unsupported_language")
    assert described.language is None or described.language in LANGUAGES
    assert (described.reference or "").encode() is not None
    if described.metadata is not None:
        assert described.metadata.encode()
        assert set(json.loads(described.metadata)) <= set(columns)
