"""Words that stay Arrow arrays are the words of the results, with the times of the recording."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipeline.output.words import column, listed, results_of
from pipeline.schemas import PIECE_RECOGNISED, RESULT, WORD, WORD_SIGNALS

MS = st.none() | st.integers(0, 10**9)
SIGNALS = st.none() | st.sampled_from([0.0, 0.5]).map(lambda value: dict.fromkeys(WORD_SIGNALS.names, value))
WORDS = st.fixed_dictionaries(
    {"text": st.text(max_size=5), "confidence": st.none() | st.just(0.25), "start_ms": MS, "end_ms": MS}
    | {"signals": SIGNALS}
)
LISTS = st.none() | st.lists(WORDS, max_size=4)
UNITS = st.lists(st.lists(LISTS, max_size=4), min_size=1, max_size=4)


def pieces(units: list[list[Any]]) -> pa.Table:
    """Rows of PIECE_RECOGNISED with nothing but results, of each the words."""
    blank = dict.fromkeys(RESULT.names)
    rows = [[blank | {"text": "a", "words": one} for one in unit] for unit in units]
    columns = [
        pa.array(rows, field.type) if field.name == "results" else pa.nulls(len(rows), field.type)
        for field in PIECE_RECOGNISED
    ]
    return pa.table(columns, schema=PIECE_RECOGNISED)


@given(UNITS, st.data())
def test_results_are_those_of_the_table_whichever_rows_it_is_cut_to(
    units: list[list[Any]], data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(units) - 1))
    table = pieces(units).slice(start, data.draw(st.integers(1, len(units) - start)))
    expected = [result for row in table["results"].to_pylist() for result in row]
    found = results_of(table)
    assert [one | {"words": listed(one["words"])} for one in found] == [
        one | {"words": one["words"] or []} for one in expected
    ]
    assert [one["words"] is None for one in found] == [one["words"] is None for one in expected]


@given(st.lists(st.tuples(LISTS, st.integers(0, 10**9), st.booleans()), max_size=5))
def test_the_column_has_all_words_later_by_the_start_of_their_segment(rows: list[Any]) -> None:
    """Whether they are dicts, as stitching leaves them, or Arrow arrays."""
    given_words = [pa.array(words, WORD) if words is not None and arrow else words for words, _, arrow in rows]
    found = column(given_words, [start for _, start, _ in rows]).to_pylist()
    later = [
        words
        if words is None
        else [
            word | {name: None if word[name] is None else word[name] + start for name in ("start_ms", "end_ms")}
            for word in words
        ]
        for words, start, _ in rows
    ]
    assert found == later
