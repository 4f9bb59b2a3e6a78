"""Rows of manifests and tables: quotes, long lines and line endings."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import ConfigError
from pipeline.sources.access import fields
from pipeline.sources.access.lines import Row, kind_of, read_manifest, read_table
from pipeline.sources.access.listing import list_files


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.JSONL", "jsonl"),
        ("a.ndjson.gz", "jsonl"),
        ("a.json", "json"),
        ("x/a.csv.gz", "csv"),
        ("a.tsv", "tsv"),
        ("a.gz", None),
    ],
)
def test_the_extension_gives_the_kind(name: str, kind: str | None) -> None:
    assert kind_of(name) == kind


def manifest_rows(path: Path, data: bytes) -> list[Row]:
    path.write_bytes(data)
    (file,) = list_files(str(path))
    return list(read_manifest(file))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lines")


CELL = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), min_size=1, max_size=12)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(CELL, CELL), max_size=5))
def test_whatever_csv_writes_is_read_back(folder: Path, rows: list[tuple[str, str]]) -> None:
    rows = [(first, second) for first, second in rows if (first + second).strip()]
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["a", "b"])
    writer.writerows(rows)
    read = manifest_rows(folder / "m.csv", out.getvalue().encode())
    assert [tuple(row.columns.values()) for row in read] == rows


def test_line_numbers_count_the_lines_of_the_file(folder: Path) -> None:
    read = manifest_rows(folder / "m.csv", b'a,b\n\n1,"x\ny"\n2,3\nbad\n4,5')
    assert [(row.line, row.error is not None) for row in read] == [
        (3, False),
        (5, False),
        (6, True),
        (7, False),
    ]
    read = manifest_rows(folder / "m.jsonl", b'\xef\xbb\xbf{"a": 1}\r\n \n{"a": 2}')
    assert [(row.line, row.columns) for row in read] == [(1, {"a": 1}), (3, {"a": 2})]


def test_a_quote_in_a_tsv_is_a_character_unless_it_encloses_the_cell(folder: Path) -> None:
    read = manifest_rows(folder / "m.tsv", b'a\tb\n"open\tclose"\n"say ""hi"""\t5" tape\n')
    assert [tuple(row.columns.values()) for row in read] == [('"open', 'close"'), ('say "hi"', '5" tape')]


def test_a_line_that_is_too_long_is_skipped_in_bounded_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fields, "MAX_TEXT_BYTES", 100)
    read = manifest_rows(folder / "m.jsonl", b'{"a": 1}\n"' + b"x" * 1000 + b'"\n{"a": 2}\n' + b"y" * 100)
    assert [(row.line, row.error is not None) for row in read] == [
        (1, False),
        (2, True),
        (3, False),
        (4, True),
    ]


@pytest.mark.parametrize("data", [b"", b"\n\n", b"a,b\n"])
def test_a_table_without_rows_gives_no_rows(folder: Path, data: bytes) -> None:
    assert manifest_rows(folder / "m.csv", data) == []


@pytest.mark.parametrize("data", [b"a,a\n", b"a,\n", b'"a\n', b"\xff\n"])
def test_a_table_without_a_header_is_an_error_in_one_line(folder: Path, data: bytes) -> None:
    with pytest.raises(ConfigError, match=r"^source\.uri: [^\n]+$"):
        manifest_rows(folder / "m.csv", data)


def table_rows(path: Path, data: bytes, *names: str) -> list[Row]:
    path.write_bytes(data)
    (file,) = list_files(str(path))
    return list(read_table(file, names))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_tabs_and_line_ends_are_the_only_syntax_of_a_corpus(folder: Path, end: str) -> None:
    data = end.join(["\ufeffa\tb", '"x"\t"', "", "\t", "one", "1\t2\t3", 'say ""hi""\t\\t'])
    read = table_rows(folder / "t.tsv", data.encode())
    assert [(row.line, list(row.columns.values())) for row in read if not row.error] == [
        (2, ['"x"', '"']),
        (4, [None, None]),
        (7, ['say ""hi""', "\\t"]),
    ]
    assert [row.line for row in read if row.error] == [5, 6]
    assert "1 cells, but 2 columns" in str(read[2].error)
    named = table_rows(folder / "t.tsv", b"a\tb\nc\td", "x", "y")
    assert [row.columns for row in named] == [{"x": "a", "y": "b"}, {"x": "c", "y": "d"}]


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\t\r\n"), min_size=1, max_size=8)


@given(st.lists(st.tuples(CELLS, CELLS), max_size=5))
def test_all_text_between_tabs_is_read_back(folder: Path, cells: list[tuple[str, str]]) -> None:
    data = "".join(f"{first}\t{second}\n" for first, second in cells).encode()
    read = table_rows(folder / "t.tsv", b"first\tsecond\n" + data)
    assert [tuple(row.columns.values()) for row in read] == cells
