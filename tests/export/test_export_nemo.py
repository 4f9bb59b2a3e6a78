"""NeMo's manifests, against their documented form; NeMo itself is not installed for the tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from jobs.export import main
from pipeline.audio import decode
from pipeline.audio.channels import wanted_channels
from pipeline.config import SourceConfig
from pipeline.schemas import SAMPLE_RATE
from pipeline.sources.formats import list_recordings, read_recording
from tests.support.labelled import archive, sound, transcribed


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def export(tmp_path: Path, *words: str) -> int:
    return main(["export.format=nemo", f"input.uri={tmp_path / 'out'}", f"output.uri={tmp_path / 'set'}", *words])


def silent_at(start_ms: int, row: dict[str, Any]) -> dict[str, Any]:
    return row | ({"text": "", "words": []} if row["start_ms"] == start_ms else {})


def test_a_manifest_by_reference_points_into_the_files(tmp_path: Path) -> None:
    transcribed(str(archive(tmp_path / "in", 3)), str(tmp_path / "out"))
    assert export(tmp_path, "export.audio=reference", "export.shard_rows=2") == 0
    rows = rows_of(tmp_path / "set/train/manifest.json")
    first = {key: rows[1][key] for key in ("audio_filepath", "offset", "duration", "text", "lang", "speaker")}
    assert first == {
        "audio_filepath": str(tmp_path / "in/r0.wav"),
        "offset": 1.0,
        "duration": 0.9,
        "text": "good morning my friend",
        "lang": "en",
        "speaker": "s0",
    }
    assert [row["recording_id"] for row in rows] == ["r0.wav", "r0.wav", "r1.wav", "r1.wav", "r2.wav", "r2.wav"]
    assert len({row["id"] for row in rows}) == 6


def test_dropped_rows_are_left_out_or_marked_with_their_reason(tmp_path: Path) -> None:
    transcribed(str(archive(tmp_path / "in", 2)), str(tmp_path / "out"), change=lambda row: silent_at(1000, row))
    assert export(tmp_path, "export.audio=reference") == 0
    assert [row["offset"] for row in rows_of(tmp_path / "set/train/manifest.json")] == [0, 0]
    assert export(tmp_path, "export.audio=reference", "export.all_rows=true", f"output.uri={tmp_path / 'all'}") == 0
    rows = rows_of(tmp_path / "all/train/manifest.json")
    assert [row.get("_skipme") for row in rows] == [None, "no_text", None, "no_text"]
    cards = [(tmp_path / name / "DATA_CARD.md").read_text() for name in ("set", "all")]
    assert [card.splitlines()[0] for card in cards] == ["# nemo: 2 rows, 0.001 hours"] * 2
    assert all("| no_text | 2 | 0.001 |" in card for card in cards)


def test_rows_without_audio_are_a_share_of_all_rows_the_dropped_ones_too(tmp_path: Path) -> None:
    def change(row: dict[str, Any]) -> dict[str, Any]:
        return row if row["recording_id"] == "r0.wav" else row | {"text": "", "words": []}

    transcribed(str(archive(tmp_path / "in", 10)), str(tmp_path / "out"), change=change)
    (tmp_path / "in/r1.wav").unlink()  # its two rows are dropped ones: 2 of 20 are lost, and 18 written
    settings = ["export.tasks=1", "export.all_rows=true"]
    assert export(tmp_path, *settings, "export.max_lost_fraction=0.1") == 0
    assert len(rows_of(tmp_path / "set/train/manifest.json")) == 18
    assert export(tmp_path, *settings, "export.max_lost_fraction=0.09") == 1


def test_a_recording_in_an_archive_cannot_be_pointed_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import tarfile

    archive(tmp_path / "files", 1)
    (tmp_path / "in").mkdir()
    with tarfile.open(tmp_path / "in/a.tar", "w") as tar:
        tar.add(tmp_path / "files/r0.wav", "r0.wav")
    transcribed(str(tmp_path / "in"), str(tmp_path / "out"))
    assert export(tmp_path, "export.audio=reference") == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("export.audio: a/r0 is in ")
    assert export(tmp_path, "export.format=txt") == 0, "nothing was written, so other settings may follow"


@pytest.mark.parametrize(("track", "column"), [(1, {}), ("default", {"channel": 1})])
def test_a_row_of_one_track_or_channel_cannot_point_to_the_whole_file(
    track: Any, column: dict[str, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    soundfile.write(tmp_path / "call.wav", np.stack([sound(0), sound(1)], axis=1), SAMPLE_RATE, subtype="PCM_16")
    (tmp_path / "in.jsonl").write_text(json.dumps({"audio_filepath": str(tmp_path / "call.wav"), **column}))
    source = SourceConfig(uri=str(tmp_path / "in.jsonl"), language="en", track=track)
    (ref,) = list_recordings(source)
    (wanted,) = wanted_channels(ref, decode.contents(read_recording(ref).audio, name="call"), source)
    words = [source.uri, str(tmp_path / "out"), f"source.track={track}"]
    transcribed(*words, change=lambda row: row | {"channel": wanted.label})
    assert export(tmp_path, "export.audio=reference") == 2
    assert "the row is of one channel or track" in capsys.readouterr().err


def test_a_signed_address_is_in_no_file_of_an_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    address = "https://example.org/r0.wav"
    line = {"audio_filepath": f"{address}?X-Amz-Signature=secret", "id": "r0"}
    (tmp_path / "in.jsonl").write_text(json.dumps(line))
    transcribed(str(tmp_path / "in.jsonl"), str(tmp_path / "out"))
    assert export(tmp_path, "export.audio=reference") == 2
    assert f"export.audio: r0: {address} is signed" in capsys.readouterr().err
    assert export(tmp_path, "export.format=txt", f"output.uri={tmp_path / 'texts'}") == 0
    (row,) = {row["source_uri"] for row in rows_of(tmp_path / "texts/train/provenance.jsonl")}
    assert row == address
