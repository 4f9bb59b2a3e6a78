"""Parquet: one recording per row, audio read in one pass per row group, everything else as metadata."""

from __future__ import annotations

import datetime
import io
import json
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from pipeline.config import ConfigError, SourceConfig
from pipeline.schemas import BadRecording, RecordingRef
from pipeline.sources import parquet
from pipeline.sources.parquet import list_recordings, read_recording

AUDIO = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def table(count: int, **more: Any) -> pa.Table:
    audio = [{"bytes": f"audio {row}".encode(), "path": None} for row in range(count)]
    return pa.table({"audio": pa.array(audio, AUDIO), "transcription": [f"text {row}" for row in range(count)], **more})


def write(path: Path, data: pa.Table, rows: int = 10) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(data, path, row_group_size=rows)
    return path


def listed(uri: Path | str, **keys: str) -> list[RecordingRef]:
    return list(list_recordings(SourceConfig(uri=str(uri), format="parquet", **keys)))


def test_every_row_is_a_recording_of_its_row_group(tmp_path: Path) -> None:
    write(tmp_path / "train/a.parquet", table(25), rows=10)
    refs = listed(tmp_path)
    assert [ref.recording_id for ref in refs] == [f"train/a/{row}" for row in range(25)]
    assert [refs[row].source_member for row in (0, 9, 10, 24)] == [
        "rg0:0:audio",
        "rg0:9:audio",
        "rg1:0:audio",
        "rg2:4:audio",
    ]
    assert [read_recording(ref).audio.decode() for ref in refs] == [f"audio {row}" for row in range(25)]
    assert refs[3].reference == read_recording(refs[3]).reference == "text 3"
    assert all(0 < ref.size < 1000 and ref.version for ref in refs)


def test_rows_can_be_read_in_any_order_and_across_files(tmp_path: Path) -> None:
    for name in "ab":
        write(tmp_path / f"{name}.parquet", table(30), rows=15)
    refs = listed(tmp_path)
    for ref in [*reversed(refs), *refs[::7], *refs[1::13]]:
        assert read_recording(ref).audio.decode() == f"audio {ref.recording_id[2:]}"


def test_a_row_group_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refs = listed(write(tmp_path / "a.parquet", table(200), rows=100))
    passes = []

    class Counted(pq.ParquetFile):  # type: ignore[misc]
        def iter_batches(self, *args: Any, **keys: Any) -> Any:
            passes.append(keys["row_groups"])
            return super().iter_batches(*args, **keys)

    monkeypatch.setattr(parquet.pq, "ParquetFile", Counted)
    for ref in refs:
        read_recording(ref)
    assert passes == [[0], [1]]


def test_columns_become_id_reference_language_and_metadata(tmp_path: Path) -> None:
    data = table(
        2,
        key=["x", "y"],
        said=["eins", None],
        tongue=pa.array(["German", "de_de"]).dictionary_encode(),
        day=[datetime.date(2024, 2, 29)] * 2,
        vector=[[1.0, 2.0]] * 2,
        picture=[b"png"] * 2,
        level=[float("nan"), 1.5],
    )
    keys = {"id_column": "key", "text_column": "said", "language": "column:tongue"}
    one, two = listed(write(tmp_path / "a.parquet", data), audio_column="audio", **keys)
    assert (one.recording_id, one.reference, one.language) == ("x", "eins", "de")
    assert json.loads(one.metadata or "") == {"transcription": "text 0", "day": "2024-02-29", "level": None}
    assert (two.recording_id, two.reference, two.language) == ("y", None, "de")
    assert json.loads(two.metadata or "") == {"transcription": "text 1", "day": "2024-02-29", "level": 1.5}


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        ("audio", pa.binary()),
        ("sound", pa.large_binary()),
        ("flac", pa.struct([("path", pa.string()), ("bytes", pa.large_binary())])),
    ],
)
def test_any_column_of_encoded_bytes_can_be_the_audio(tmp_path: Path, column: str, kind: pa.DataType) -> None:
    cells = [{"bytes": b"A"} if pa.types.is_struct(kind) else b"A"]
    (ref,) = listed(write(tmp_path / "a.parquet", pa.table({"n": [1], column: pa.array(cells, kind)})))
    assert read_recording(ref).audio == b"A"
    assert ref.metadata == '{"n": 1}'


def test_audio_may_be_in_files_or_missing(tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_bytes(b"X")
    cells = [{"path": "x.wav"}, {"path": "gone.wav"}, {"bytes": None, "path": None}, None, {"bytes": b""}]
    beside, gone, nothing, null, empty = listed(
        write(tmp_path / "a.parquet", pa.table({"audio": pa.array(cells, AUDIO)}))
    )
    assert read_recording(beside).audio == b"X"
    assert read_recording(empty).audio == b""
    for ref in (gone, nothing, null):
        with pytest.raises(BadRecording, match="missing_file"):
            read_recording(ref)


@pytest.mark.parametrize(
    ("columns", "keys", "message"),
    [
        (["text"], {}, r"^source\.audio_column: which column of .*a\.parquet is the audio\? \(it has text\)$"),
        (["audio"], {"audio_column": "sound"}, r"^source\.audio_column: no column 'sound' in .*\(it has audio\)$"),
        (["audio", "text"], {"audio_column": "text"}, r"^source\.audio_column: 'text' .*is string, not encoded audio$"),
        (["audio"], {"id_column": "id"}, r"^source\.id_column: no column 'id'"),
        (["audio"], {"language": "column:lang"}, r"^source\.language: no column 'lang'"),
    ],
)
def test_missing_columns_are_an_error_in_one_line(
    tmp_path: Path, columns: list[str], keys: dict[str, str], message: str
) -> None:
    cells = {"audio": pa.array([b"A"], pa.binary()), "text": pa.array(["a"])}
    path = write(tmp_path / "a.parquet", pa.table({name: cells[name] for name in columns}))
    with pytest.raises(ConfigError, match=message):
        listed(path, **keys)


def test_a_bad_row_does_not_affect_others(tmp_path: Path) -> None:
    data = table(4, id=["a", "", None, "d"], language=["en", "en", "en", "nl"])
    refs = listed(write(tmp_path / "a.parquet", data), id_column="id")
    assert [(ref.recording_id, ref.problem) for ref in refs] == [
        ("a", None),
        ("a/1", "bad_metadata"),
        ("a/2", "bad_metadata"),
        ("d", "unsupported_language"),
    ]


@pytest.mark.parametrize("keep", [0, 3, 2000, -1])
def test_a_file_that_is_cut_is_one_problem(tmp_path: Path, keep: int) -> None:
    bad = write(tmp_path / "bad.parquet", table(500))
    bad.write_bytes(bad.read_bytes()[:keep])
    write(tmp_path / "good.parquet", table(1))
    first, second = listed(tmp_path)
    assert (first.recording_id, first.problem) == ("bad!archive", "corrupt_archive")
    assert first.size == bad.stat().st_size  # what is lost with it
    assert read_recording(second).audio == b"audio 0"


def test_a_bad_value_is_the_problem_of_its_row(tmp_path: Path) -> None:
    """Text of a Latin-1 writer, a year beyond Python's: their neighbours are read."""
    latin = pa.Array.from_buffers(pa.string(), 3, pa.array([b"a", b"caf\xe9", b"c"], pa.binary()).buffers())
    dates = pa.array([0, 1, 2**62], pa.timestamp("us"))
    refs = listed(write(tmp_path / "a.parquet", table(3, note=latin, when=dates)))
    assert [ref.problem for ref in refs] == [None, "bad_metadata", "bad_metadata"]
    assert [ref.reference for ref in refs] == ["text 0", None, None]
    assert "a.parquet: note: " in str(refs[1].problem_detail)
    assert "a.parquet: when: " in str(refs[2].problem_detail)


def test_columns_of_bytes_that_the_settings_name_are_text(tmp_path: Path) -> None:
    """As writers without UTF8 annotation leave them; bytes that nobody asked for are left alone."""
    raw = {name: pa.array(values, pa.binary()) for name, values in (
        ("name", [b"x", b"y", b"z"]), ("words", [b"eins", "zw\u00f6lf".encode(), b"\xff"]), ("code", [b"de"] * 3),
        ("other", [b"\xff"] * 3))}  # fmt: skip
    file = write(tmp_path / "a.parquet", table(3, **raw))
    refs = listed(file, id_column="name", text_column="words", language="column:code", audio_column="audio")
    assert [(ref.recording_id, ref.language, ref.reference) for ref in refs[:2]] == [
        ("x", "de", "eins"),
        ("y", "de", "zw\u00f6lf"),
    ]
    assert (refs[2].problem, "words: not UTF-8" in str(refs[2].problem_detail)) == ("bad_metadata", True)
    assert "other" not in str(refs[0].metadata)


@pytest.mark.parametrize("keys", [{"id_column": "ids"}, {"text_column": "ids"}, {"language": "column:ids"}])
def test_columns_that_cannot_be_text_are_an_error_in_one_line(tmp_path: Path, keys: dict[str, str]) -> None:
    file = write(tmp_path / "a.parquet", table(2, ids=[["a"], ["b"]]))
    with pytest.raises(ConfigError, match=rf"^source.{next(iter(keys))}: 'ids' of .*a.parquet is list<.*>, not text$"):
        listed(file, **keys)


def test_damaged_pages_are_a_problem_of_their_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", table(20), rows=10)
    data = bytearray(path.read_bytes())
    info = pq.read_metadata(path).row_group(0)
    for index in range(info.num_columns):
        chunk = info.column(index)
        start = chunk.dictionary_page_offset or chunk.data_page_offset
        if chunk.path_in_schema in ("audio.bytes", "transcription"):
            data[start : start + 20] = b"\xff" * 20
    path.write_bytes(data)
    refs = listed(path)
    assert [ref.problem for ref in refs] == ["corrupt_archive"] * 10 + [None] * 10
    assert len({ref.recording_id for ref in refs}) == 20
    with pytest.raises(BadRecording, match="corrupt_archive"):
        read_recording(RecordingRef("x", "parquet", str(path), "rg0:3:audio"))
    assert read_recording(refs[10]).audio == b"audio 10"
    path.unlink()
    (tmp_path / "other").touch()  # an empty folder would be a mount that is gone
    with pytest.raises(BadRecording, match="missing_file"):
        read_recording(RecordingRef("x", "parquet", str(path), "rg1:3:audio", version="other"))


def test_remote_files_are_read_like_local_ones(tmp_path: Path) -> None:
    data = write(tmp_path / "a.parquet", table(30)).read_bytes()
    fsspec.filesystem("memory").pipe_file("/pq/x/a.parquet", data)
    refs = listed("memory://pq/**.parquet")
    assert [read_recording(ref).audio.decode() for ref in refs] == [f"audio {row}" for row in range(30)]
    assert refs[0].source_uri == "memory:///pq/x/a.parquet"


def test_the_hub_form_of_corpora_has_names_for_its_labels(tmp_path: Path) -> None:
    labels = {"gender": ["male", "female", "other"], "lang_id": ["de_de", "en_us"], "language": ["de", "en"]}
    features = {name: {"names": names, "_type": "ClassLabel"} for name, names in labels.items()}
    data = table(
        3,
        raw_transcription=["Text 0.", "Text 1.", "Text 2."],
        id=[7, 7, 8],
        path=["a.wav", "b.wav", "c.wav"],
        gender=[1, 0, -1],
        lang_id=[1, 0, 1],
        language=["English", "German", None],
    )
    hub = json.dumps({"info": {"features": features}})
    write(tmp_path / "fleurs.parquet", data.replace_schema_metadata({"huggingface": hub}))
    refs = listed(tmp_path / "fleurs.parquet")
    assert [ref.recording_id for ref in refs] == ["fleurs/0", "fleurs/1", "fleurs/2"]  # `id` is that of a sentence
    assert [(ref.language, ref.reference) for ref in refs] == [("en", "text 0"), ("de", "text 1"), (None, "text 2")]
    rows = [json.loads(ref.metadata or "") for ref in refs]
    assert [(row["gender"], row["lang_id"], row["raw_transcription"]) for row in rows] == [
        ("female", "en_us", "Text 0."),
        ("male", "de_de", "Text 1."),
        (None, "en_us", "Text 2."),
    ]
    voxpopuli = table(2, language=[1, 0], speaker_id=["28229", "None"]).replace_schema_metadata({"huggingface": hub})
    assert [ref.language for ref in listed(write(tmp_path / "voxpopuli.parquet", voxpopuli))] == ["en", "de"]


@pytest.mark.parametrize(
    "hub", ["{", "[]", '{"info": {"features": {"gender": {"_type": "ClassLabel"}}}}', '{"info": 1}']
)
def test_labels_that_cannot_be_read_stay_numbers(tmp_path: Path, hub: str) -> None:
    path = write(tmp_path / "a.parquet", table(1, gender=[1]).replace_schema_metadata({"huggingface": hub}))
    assert [ref.metadata for ref in listed(path)] == ['{"gender": 1}']


@pytest.mark.parametrize("name", ["id", "utt_id", "utterance_id", "key", "segment_id"])
def test_a_column_that_is_called_so_gives_the_ids(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "a.parquet", table(2, **{name: ["x", "y"]}))
    assert [(ref.recording_id, ref.metadata) for ref in listed(path)] == [("x", None), ("y", None)]


def test_ids_that_are_numbers_or_repeated_lose_no_row(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "a.parquet", table(3, id=[7, 7, 8]))  # the sentence, not the recording, as in FLEURS
    write(tmp_path / "b.parquet", table(3, id=["x", "x", "y"]))
    write(tmp_path / "c.parquet", table(2, id=["y", None]))
    refs = listed(tmp_path)
    assert [ref.recording_id for ref in refs] == ["a/0", "a/1", "a/2", "x", "b/1", "y", "c/0", "c/1"]
    assert [ref.metadata for ref in refs[3:]] == [None, '{"id": "x"}', None, '{"id": "y"}', '{"id": null}']
    assert "2 rows have the same id as an earlier row" in caplog.text
    assert not any(ref.problem for ref in refs)


def test_the_path_in_a_cell_of_audio_is_metadata(tmp_path: Path) -> None:
    audio = pa.array([{"bytes": b"A", "path": "call-17.wav"}, {"bytes": b"B", "path": None}], AUDIO)
    refs = listed(write(tmp_path / "a.parquet", pa.table({"audio": audio, "text": ["a", "b"]})))
    assert [ref.metadata for ref in refs] == ['{"path": "call-17.wav"}', None]
    refs = listed(write(tmp_path / "a.parquet", pa.table({"audio": audio, "path": ["own", "column"]})))
    assert [ref.metadata for ref in refs] == ['{"path": "own"}', '{"path": "column"}']


TONE = np.sin(np.arange(1600) / 5) * 0.5


@pytest.mark.parametrize(
    "columns",
    [
        {"audio": [{"array": TONE.tolist(), "path": "a.wav", "sampling_rate": 8000}]},
        {"audio": [TONE.astype(np.float32).tolist()], "sampling_rate": [8000]},
        {"array": [(TONE * 32767).astype(np.int16).tolist()], "sample_rate": ["8000"]},
        {"audio": [{"array": [TONE.tolist(), TONE.tolist()], "sampling_rate": 8000}]},
    ],
    ids=["struct", "list", "integers", "two channels"],
)
def test_decoded_samples_are_read(tmp_path: Path, columns: dict[str, Any]) -> None:
    (ref,) = listed(write(tmp_path / "a.parquet", pa.table(columns | {"text": ["hallo"]})))
    audio = read_recording(ref).audio
    samples, rate = soundfile.read(io.BytesIO(audio), always_2d=True)
    assert (rate, ref.reference) == (8000, "hallo")
    assert np.allclose(samples, TONE[:, np.newaxis], atol=1e-4)


def test_decoded_samples_without_a_rate_or_beyond_16_bits_are_a_problem(tmp_path: Path) -> None:
    (ref,) = listed(write(tmp_path / "a.parquet", pa.table({"audio": [TONE.tolist()]})))
    with pytest.raises(BadRecording, match=r"bad_metadata: .*decoded samples without a sampling_rate"):
        read_recording(ref)
    (ref,) = listed(write(tmp_path / "a.parquet", pa.table({"audio": [[1 << 20]], "sampling_rate": [8000]})))
    with pytest.raises(BadRecording, match=r"bad_metadata: .*integers of 16 bits"):
        read_recording(ref)
