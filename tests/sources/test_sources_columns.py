"""Columns of typed tables: which is the audio, which are metadata, and what a cell holds."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.config import ConfigError, SourceConfig
from pipeline.schemas import BadRecording, RecordingRef
from pipeline.sources.access import remote
from pipeline.sources.access.columns import Rows, audio_bytes, audio_column, plain_columns

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
SOURCE = SourceConfig(uri="x")


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"id": pa.int32(), "clip": STRUCT}, "clip"),
        ({"thumbnail": pa.binary(), "audio": pa.binary()}, "audio"),
        ({"picture": STRUCT, "speech": pa.large_binary(), "wav": pa.string()}, "speech"),
        ({"audio": pa.string(), "data": pa.binary()}, "data"),
    ],
)
def test_the_audio_column_is_chosen_by_type_then_by_name(columns: dict[str, pa.DataType], expected: str) -> None:
    assert audio_column(pa.schema(list(columns.items())), SOURCE, "f") == expected


@pytest.mark.parametrize("columns", [{"a": pa.binary(), "b": pa.binary()}, {"audio": pa.string()}, {}])
def test_an_ambiguous_audio_column_is_an_error(columns: dict[str, pa.DataType]) -> None:
    with pytest.raises(ConfigError, match=r"^source\.audio_column: which column of f is the audio\?"):
        audio_column(pa.schema(list(columns.items())), SOURCE, "f")


def test_small_columns_are_metadata() -> None:
    columns = {"a": STRUCT, "b": pa.binary(), "c": pa.list_(pa.float32()), "d": pa.string(), "e": pa.float64()}
    columns |= {"f": pa.dictionary(pa.int8(), pa.string()), "g": pa.timestamp("us"), "h": pa.bool_(), "i": pa.null()}
    assert plain_columns(pa.schema(list(columns.items())), SOURCE) == ["d", "e", "f", "g", "h", "i"]


def test_a_cell_is_bytes_or_the_path_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.wav").write_bytes(b"file")
    where = str(tmp_path / "t.parquet")
    assert audio_bytes(b"x", where) == audio_bytes({"bytes": b"x", "path": "a.wav"}, where) == b"x"
    assert audio_bytes({"bytes": None, "path": "a.wav"}, where) == b"file"
    for nothing in (None, {}, {"bytes": None, "path": ""}):
        with pytest.raises(BadRecording, match="missing_file"):
            audio_bytes(nothing, where)
    monkeypatch.setattr(remote, "MAX_RECORDING_BYTES", 3)
    with pytest.raises(BadRecording, match="too_large"):
        audio_bytes(b"four", where)


def test_a_row_gives_its_id_or_its_problem() -> None:
    source = SourceConfig(uri="x", id_column="key")
    ref = RecordingRef("default", "parquet", "f")
    rows = Rows(source)
    assert rows.ref(ref, {"key": 7, "text": "t"}).recording_id == "7"
    assert rows.ref(ref, {"key": None}).problem == "bad_metadata"
    bad = rows.ref(ref, {"key": "k", "language": "nl", "text": "hallo", "n": 1})
    assert (bad.reference, bad.metadata) == ("hallo", '{"n": 1}')
    assert (bad.recording_id, bad.problem, bad.problem_detail) == (
        "k",
        "unsupported_language",
        "f: 'nl' is not one of en, de, fr, es, hi, zh",
    )
    assert rows.ref(ref, BadRecording("corrupt_archive", "why")).problem_detail == "f: why"
