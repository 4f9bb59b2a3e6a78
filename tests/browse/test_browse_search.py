"""Search in published tables: what is found, in which order, and that no letter of a search means anything."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.browse import search
from pipeline.browse.query import Query
from pipeline.browse.search import Tables
from pipeline.config import ConfigError
from pipeline.schemas import OLDEST_SCHEMA
from pipeline.storage.base import open_storage
from tests.support.browsed import DAMAGED, DEAD, NASTY, TEXTS, output
from tests.support.small_s3 import SmallS3

DATA = Path(__file__).parents[1] / "data"
EVERY = list(range(len(TEXTS)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browsed")
    output(folder)
    return folder / "out"


@pytest.fixture(scope="module")
def tables(folder: Path) -> Tables:
    return Tables(open_storage(str(folder), create=False))


def numbers(tables: Tables, **asked: Any) -> list[int]:
    """The places in TEXTS of what is found, in its order."""
    found = tables.find(Query(**asked))
    assert found.total == len(found.rows)
    assert found.seconds == pytest.approx(0.9 * found.total)
    return [TEXTS.index(row["text"]) for row in found.rows]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, EVERY),
        ({"text": "GUTEN"}, [0, 1]),
        ({"text": "rgen, lieb"}, [0]),
        ({"text": "größe"}, [0]),
        ({"text": "OÙ EST"}, [2]),
        ({"text": "रोटी"}, [4]),
        ({"text": "茶"}, [5]),
        ({"text": "%"}, [6, 8]),
        ({"text": NASTY}, [6]),
        ({"text": "b*c["}, [9]),
        ({"text": "missing anywhere"}, []),
        ({"text": "liebe  guten", "match": "words"}, [0]),
        ({"text": "gut", "match": "words"}, []),
        ({"text": "ÉTÉ", "match": "words"}, [2]),
        ({"text": "tabs lines", "match": "words"}, [7]),
        ({"text": "茶", "match": "words"}, [5]),
        ({"text": "(really)", "match": "words"}, [8]),
        ({"language": "en"}, [6, 7, 8, 9]),
        ({"language": "unknown"}, [4, 5]),
        ({"recording": "R3"}, [6, 7]),
        ({"low": 0.35, "high": 0.55}, [3, 4, 5]),
        ({"shortest": 0.9, "longest": 0.9}, EVERY),
        ({"shortest": 0.901}, []),
        ({"show": "damaged"}, [8, 9]),
        ({"order": "unsure", "language": "de"}, [0, 1]),
        ({"order": "sure", "language": "de"}, [1, 0]),
    ],
)
def test_a_search_finds_what_it_says(tables: Tables, asked: dict[str, Any], expected: list[int]) -> None:
    assert numbers(tables, **asked) == expected


def test_dead_letters_are_found_by_reason_error_and_recording(tables: Tables) -> None:
    for asked in ({}, {"text": "MODEL_err"}, {"text": "no answer"}, {"recording": "r5"}, {"shortest": 4.0}):
        found = tables.find(Query(show="dead", **asked))
        assert [row["recording_id"] for row in found.rows] == [DEAD]
        assert (found.total, found.seconds) == (1, 4.0)
    assert tables.find(Query(show="dead", text="guten")).rows == []


def test_a_hit_has_what_is_shown_and_where_it_stands(tables: Tables) -> None:
    (row,) = tables.find(Query(text="really")).rows
    assert (row["recording_id"], row["segment_index"], row["problem"]) == (DAMAGED, 0, "truncated_audio")
    assert (row["part"], row["row"]) == ("part-00000.parquet", 8)
    assert [word["text"] for word in row["words"]] == ["100", "%", "sure", "(really)"]
    assert row["words"][0]["confidence"] == pytest.approx(0.85)


def test_pages_have_every_hit_once_and_in_order(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "PAGE", 3)
    pages = [tables.find(Query(page=page, order="sure")) for page in range(1, 6)]
    assert [len(page.rows) for page in pages] == [3, 3, 3, 1, 0]
    assert {page.total for page in pages} == {len(TEXTS)}
    assert [TEXTS.index(row["text"]) for page in pages for row in page.rows] == EVERY[::-1]


def test_languages_are_listed_most_frequent_first(tables: Tables) -> None:
    assert tables.languages() == ["en", "de", "fr", "unknown"]


@given(text=st.text(max_size=30), words=st.booleans())
def test_no_search_text_fails_or_finds_what_does_not_have_it(tables: Tables, text: str, words: bool) -> None:
    found = tables.find(Query(text=text, match="words" if words else "text", recording="r"))
    for row in found.rows:
        assert all(part.lower() in row["text"].lower() for part in (text.split() if words else [text]))


@given(data=st.data())
def test_every_piece_of_a_text_finds_it_whatever_its_case(tables: Tables, data: st.DataObject) -> None:
    text = data.draw(st.sampled_from([text for text in TEXTS if text]))
    start = data.draw(st.integers(0, len(text) - 1))
    piece = text[start : data.draw(st.integers(start + 1, len(text)))]
    upper = "".join(letter.upper() if len(letter.upper()) == 1 else letter for letter in piece)  # ß becomes SS
    for asked in (piece, upper):
        assert text in [row["text"] for row in tables.find(Query(text=asked)).rows]


@given(data=st.data())
def test_every_word_of_a_text_finds_it(tables: Tables, data: st.DataObject) -> None:
    text = data.draw(st.sampled_from([text for text in TEXTS if text]))
    words = data.draw(st.lists(st.sampled_from(text.split()), min_size=1, max_size=4))
    assert text in [row["text"] for row in tables.find(Query(text=" ".join(words), match="words")).rows]


def test_a_store_gives_the_same_as_a_folder(tables: Tables, folder: Path, s3: SmallS3) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            s3.objects[f"out/{path.relative_to(folder)}"] = path.read_bytes()
    stored = Tables(open_storage("s3://b/out", create=False))
    for asked in (Query(), Query(text="guten", order="longest"), Query(show="dead")):
        assert stored.find(asked) == tables.find(asked)


def test_what_is_published_later_is_found(tmp_path: Path) -> None:
    storage = output(tmp_path)
    tables = Tables(storage)
    assert tables.find(Query()).total == len(TEXTS)
    part = tmp_path / "out/transcripts/part-00000.parquet"
    pq.write_table(pq.read_table(part).slice(6), part)
    assert numbers(tables) == [6, 7, 8, 9]
    assert tables.languages() == ["en"]


@pytest.mark.parametrize("older", sorted(DATA.glob("output-*")), ids=lambda path: path.name)
def test_outputs_of_earlier_versions_are_found_also_beside_newer_parts(older: Path, tmp_path: Path) -> None:
    mixed = Path(shutil.copytree(DATA / f"output-{OLDEST_SCHEMA}", tmp_path / "out"))
    shutil.copy(older / "transcripts/part-00000.parquet", mixed / "transcripts/part-00001.parquet")
    found = Tables(open_storage(str(mixed), create=False)).find(Query(text="mailbox", order="unsure"))
    assert [row["recording_id"] for row in found.rows] == ["en-phone.flac"] * 2


def test_an_output_without_transcripts_is_a_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^output\.uri: .*: no published transcripts"):
        Tables(open_storage(str(tmp_path), create=False))


def test_tables_that_are_copied_alone_are_a_line(tmp_path: Path) -> None:
    shutil.copytree(DATA / f"output-{OLDEST_SCHEMA}/transcripts", tmp_path / "transcripts")
    with pytest.raises(ConfigError, match=r"^output\.uri: .*: tables without _run/plan\.parquet: copy the whole"):
        Tables(open_storage(str(tmp_path), create=False))


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"low": "2"}, "low: Input should be less than or equal to 1"),
        ({"high": "nan"}, "high: Input should be"),
        ({"shortest": "x"}, "shortest: Input should be a valid number"),
        ({"order": "random()"}, "order: Input should be 'archive'"),
        ({"page": "0"}, "page: Input should be greater than or equal to 1"),
        ({"text": "x" * 1001}, "text: String should have at most 1000 characters"),
    ],
)
def test_an_impossible_field_is_a_line(parameters: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Query.of(parameters)
    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)


@given(text=st.text(max_size=50), low=st.none() | st.floats(0, 1))
def test_an_address_has_the_whole_query(text: str, low: float | None) -> None:
    asked = Query(text=text, low=low, page=3, match="words")
    assert Query.of(dict(parse_qsl(asked.parameters()))) == asked
