"""The archive of the soak: every line another recording; what is lost or doubled is found by its copies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.benchmark import soak_archive
from pipeline.config import SourceConfig
from pipeline.sources.formats import list_recordings

IDS = [f"{number:08d}/{('a.wav', 'b.wav', 'empty.wav')[number % 3]}" for number in range(12)]


def test_every_line_is_another_recording_that_can_be_read(tmp_path: Path) -> None:
    manifest = soak_archive.write(tmp_path / "archive", 100)
    refs = list(list_recordings(SourceConfig(uri=str(manifest), format="manifest")))
    assert len({ref.recording_id for ref in refs}) == len(refs) == 100
    assert {ref.problem for ref in refs} == {None}
    assert {ref.language for ref in refs} == {"en", "de", "fr", "es", "hi", "zh"}
    files = {Path(ref.source_uri) for ref in refs}
    assert {path.suffix for path in files} == {".wav", ".flac", ".mp3", ".ogg", ".m4a", ".opus"}
    assert [path.name for path in files if not path.stat().st_size] == [soak_archive.EMPTY]


def results() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """One segment of each a.wav, two of each b.wav, a dead letter of each empty.wav."""
    rows = [
        {"recording_id": name, "segment_index": index, "start_ms": 900 * index, "end_ms": 900 * index + 800}
        for name in IDS
        for index in range({"a": 1, "b": 2, "e": 0}[name[9]])
    ]
    return rows, [{"recording_id": name, "reason": "empty_file"} for name in IDS if "empty" in name]


def test_whole_results_are_as_expected() -> None:
    assert soak_archive.count(IDS, *results()) == {
        **{"recordings": 12, "rows": 12, "rows_expected": 12},
        **{"dead_letters": 4, "dead_letters_expected": 4, "differing": []},
    }


@pytest.mark.parametrize("change", ["lost", "doubled", "moved", "unknown", "other reason", "letter lost"])
def test_what_is_lost_doubled_or_unknown_is_named(change: str) -> None:
    rows, letters = results()
    named = IDS[1]
    if change == "lost":
        rows.remove(rows[1])
    elif change == "doubled":
        rows.append(rows[1])
    elif change == "moved":
        rows[1] = rows[1] | {"start_ms": 5}
    elif change == "unknown":
        named = "00000012/a.wav"
        rows.append(rows[0] | {"recording_id": named})
    elif change == "other reason":
        named = IDS[2]
        letters[0] = letters[0] | {"reason": "crashed"}
    else:
        named = IDS[2]
        letters.remove(letters[0])
    found = soak_archive.count(IDS, rows, letters)
    assert found["differing"] == [named]
    assert (found["rows"] - found["rows_expected"]) == {"lost": -1, "doubled": 1, "unknown": 1}.get(change, 0)
    assert (found["dead_letters"] - found["dead_letters_expected"]) == {"letter lost": -1}.get(change, 0)


def test_the_lines_of_a_manifest_name_the_files_beside_it(tmp_path: Path) -> None:
    manifest = soak_archive.write(tmp_path, 3)
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    assert [line["id"] for line in lines] == [
        f"{number:08d}/{line['audio_filepath']}" for number, line in enumerate(lines)
    ]
    assert all((tmp_path / line["audio_filepath"]).is_file() for line in lines)
