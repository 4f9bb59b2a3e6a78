"""Records out of manifest files: quotes, long lines and endings."""

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
def test_kinds_are_told_by_the_extension(name: str, kind: str | None) -> None:
    assert kind_of(name) == kind


def records(path: Path, data: bytes) -> list[Row]:
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
    found = records(folder / "m.csv", out.getvalue().encode())
    assert [tuple(record.columns.values()) for record in found] == rows


def test_line_numbers_count_the_lines_of_the_file(folder: Path) -> None:
    found = records(folder / "m.csv", b'a,b\n\n1,"x\ny"\n2,3\nbad\n4,5')
    assert [(record.line, record.error is not None) for record in found] == [
        (3, False),
        (5, False),
        (6, True),
        (7, False),
    ]
    found = records(folder / "m.jsonl", b'\xef\xbb\xbf{"a": 1}\r\n \n{"a": 2}')
    assert [(record.line, record.columns) for record in found] == [(1, {"a": 1}), (3, {"a": 2})]


def test_a_quote_in_a_tsv_is_a_character_unless_it_encloses_the_cell(folder: Path) -> None:
    found = records(folder / "m.tsv", b'a\tb\n"open\tclose"\n"say ""hi"""\t5" tape\n')
    assert [tuple(record.columns.values()) for record in found] == [('"open', 'close"'), ('say "hi"', '5" tape')]


def test_a_line_too_long_is_skipped_in_bounded_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fields, "MAX_TEXT_BYTES", 100)
    found = records(folder / "m.jsonl", b'{"a": 1}\n"' + b"x" * 1000 + b'"\n{"a": 2}\n' + b"y" * 100)
    assert [(record.line, record.error is not None) for record in found] == [
        (1, False),
        (2, True),
        (3, False),
        (4, True),
    ]


@pytest.mark.parametrize("data", [b"", b"\n\n", b"a,b\n"])
def test_a_table_without_rows_has_no_records(folder: Path, data: bytes) -> None:
    assert records(folder / "m.csv", data) == []


@pytest.mark.parametrize("data", [b"a,a\n", b"a,\n", b'"a\n', b"\xff\n"])
def test_a_table_without_a_header_is_one_line(folder: Path, data: bytes) -> None:
    with pytest.raises(ConfigError, match=r"^source\.uri: [^\n]+$"):
        records(folder / "m.csv", data)


def rows(path: Path, data: bytes, *names: str) -> list[Row]:
    path.write_bytes(data)
    (file,) = list_files(str(path))
    return list(read_table(file, names))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_tab_and_the_end_of_a_line_are_all_the_syntax_of_a_corpus(folder: Path, end: str) -> None:
    data = end.join(["\ufeffa\tb", '"x"\t"', "", "\t", "one", "1\t2\t3", 'say ""hi""\t\\t'])
    found = rows(folder / "t.tsv", data.encode())
    assert [(record.line, list(record.columns.values())) for record in found if not record.error] == [
        (2, ['"x"', '"']),
        (4, [None, None]),
        (7, ['say ""hi""', "\\t"]),
    ]
    assert [record.line for record in found if record.error] == [5, 6]
    assert "1 cells, but 2 columns" in str(found[2].error)
    named = rows(folder / "t.tsv", b"a\tb\nc\td", "x", "y")
    assert [record.columns for record in named] == [{"x": "a", "y": "b"}, {"x": "c", "y": "d"}]


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\t\r\n"), min_size=1, max_size=8)


@given(st.lists(st.tuples(CELLS, CELLS), max_size=5))
def test_whatever_stands_between_tabs_is_read_back(folder: Path, cells: list[tuple[str, str]]) -> None:
    data = "".join(f"{first}\t{second}\n" for first, second in cells).encode()
    found = rows(folder / "t.tsv", b"first\tsecond\n" + data)
    assert [tuple(record.columns.values()) for record in found] == cells
