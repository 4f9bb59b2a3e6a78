"""Hugging Face datasets: rows of every split with undecoded audio, from disk or from the cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest

from pipeline.config import ConfigError, SourceConfig
from pipeline.schemas import BadRecording, RecordingRef
from pipeline.sources.formats import list_recordings, read_recording


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def dataset(count: int, mark: str = "", **more: Any) -> Any:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    audio = pa.array([{"bytes": f"{mark}{row}".encode(), "path": f"{row}.wav"} for row in range(count)], kind)
    data = pa.table({"audio": audio, "text": [f"text {row}" for row in range(count)], **more})
    return datasets.Dataset(data).cast_column("audio", datasets.Audio(sampling_rate=16_000))


def listed(uri: Path | str, **keys: str) -> list[RecordingRef]:
    return list(list_recordings(SourceConfig(uri=str(uri), **keys)))


def test_a_saved_dataset_is_detected_and_read(tmp_path: Path) -> None:
    languages = datasets.ClassLabel(names=["german", "hindi"])
    saved = dataset(3, lang=[1, 0, -1], key=["a", "b", "c"]).cast_column("lang", languages)
    saved.save_to_disk(tmp_path / "set")
    refs = listed(tmp_path / "set")  # detected by `format: auto`
    assert [ref.recording_id for ref in refs] == ["a", "b", "c"]
    assert [ref.language for ref in refs] == ["hi", "de", None]
    assert [ref.source_member for ref in refs] == [":0:audio", ":1:audio", ":2:audio"]
    assert refs[2].metadata == '{"path": "2.wav"}'
    assert [read_recording(ref).audio for ref in reversed(refs)] == [b"2", b"1", b"0"]
    named = listed(tmp_path / "set", id_column="key", text_column="key", language="column:lang")
    assert [(ref.recording_id, ref.reference) for ref in named] == [("a", "a"), ("b", "b"), ("c", "c")]


def test_splits_are_all_read(tmp_path: Path) -> None:
    splits = datasets.DatasetDict({"train": dataset(2, "t"), "test": dataset(1, "e")})
    splits.save_to_disk(tmp_path / "set")
    audio = {ref.recording_id: read_recording(ref).audio for ref in listed(tmp_path / "set", language="fr")}
    assert audio == {"train/0": b"t0", "train/1": b"t1", "test/0": b"e0"}


def test_one_split_can_be_chosen(tmp_path: Path) -> None:
    datasets.DatasetDict({"train": dataset(2, "t"), "test": dataset(1, "e")}).save_to_disk(tmp_path / "set")
    assert [ref.recording_id for ref in listed(tmp_path / "set", split="test")] == ["test/0"]
    with pytest.raises(ConfigError, match=r"^source\.split: .*set has no 'dev' \(it has train, test\)$"):
        listed(tmp_path / "set", split="dev")
    dataset(1).save_to_disk(tmp_path / "one")
    with pytest.raises(ConfigError, match=r"^source\.split: .*one has no 'dev' \(it has no splits\)$"):
        listed(tmp_path / "one", split="dev")


def test_selected_rows_are_the_rows_that_are_read(tmp_path: Path) -> None:
    dataset(10).select([7, 3]).save_to_disk(tmp_path / "set")
    assert [read_recording(ref).audio for ref in listed(tmp_path / "set")] == [b"7", b"3"]


def test_the_arrow_files_of_a_cache_are_read(tmp_path: Path) -> None:
    dataset(2, "x").save_to_disk(tmp_path / "set")
    cache = tmp_path / "cache"
    cache.mkdir()
    (tmp_path / "set/data-00000-of-00001.arrow").rename(cache / "name-train.arrow")
    assert [ref.recording_id for ref in listed(cache)] == ["name-train/0", "name-train/1"]
    (one, two) = listed(cache / "name-train.arrow")
    assert (read_recording(one).audio, read_recording(two).audio) == (b"x0", b"x1")


def test_audio_may_be_in_files(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"A")
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = [{"path": str(tmp_path / "a.wav")}, {"path": str(tmp_path / "gone.wav")}, {}]
    datasets.Dataset(pa.table({"audio": pa.array(cells, kind)})).save_to_disk(tmp_path / "set")
    there, gone, nothing = listed(tmp_path / "set", root=str(tmp_path))
    assert read_recording(there).audio == b"A"
    for ref in (gone, nothing):
        with pytest.raises(BadRecording, match="missing_file"):
            read_recording(ref)


@pytest.mark.parametrize("uri", ["nobody/no-such-set", "nobody/no-such-set:default:train", "/nowhere/set", "nowhere"])
def test_a_missing_dataset_is_an_error_in_one_line(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"^source\.uri: [^\n]+$"):
        listed(uri, format="huggingface")


def test_missing_columns_are_an_error_in_one_line(tmp_path: Path) -> None:
    dataset(1).save_to_disk(tmp_path / "set")
    with pytest.raises(ConfigError, match=r"^source\.id_column: no column 'id' in .*\(it has audio, text\)$"):
        listed(tmp_path / "set", id_column="id")


def test_a_row_that_no_longer_exists_is_a_problem(tmp_path: Path) -> None:
    dataset(1).save_to_disk(tmp_path / "set")
    for member in (":5:audio", "train:0:audio", ":0:sound"):
        with pytest.raises(BadRecording, match="source_changed"):
            read_recording(RecordingRef("x", "huggingface", str(tmp_path / "set"), member))


def test_ids_and_paths_of_a_dataset_reach_its_rows(tmp_path: Path) -> None:
    dataset(4, id=["x", "y", "x", "z"]).select([0, 1, 2]).save_to_disk(tmp_path / "set")
    refs = listed(tmp_path / "set")
    assert [ref.recording_id for ref in refs] == ["x", "y", "2"]
    assert [ref.metadata for ref in refs] == ['{"path": "0.wav"}', '{"path": "1.wav"}', '{"id": "x", "path": "2.wav"}']
    assert [read_recording(ref).audio for ref in refs] == [b"0", b"1", b"2"]
