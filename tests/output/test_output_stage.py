"""The commit stage: results become transcripts and dead letters, and the sums of their samples close."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.audio.stage import recording_row
from pipeline.output.accounting import Tally
from pipeline.output.commit import read_commit, read_unit
from pipeline.output.stage import RECEIPT, CommitStage, chars_per_second, covered, milliseconds
from pipeline.planning.pack import PlannedUnit
from pipeline.planning.plan import BASE, write_plan
from pipeline.schemas import (
    DEAD_LETTER,
    PIECE_RECOGNISED,
    START,
    TRANSCRIPT,
    About,
    DecodedRecording,
    Place,
    Problem,
    RecordingRef,
    WorkUnit,
    piece_row,
    to_table,
)
from pipeline.storage.base import open_storage
from tests.support.archives import settings
from tests.support.outputs import ref

MARK = "f" * 16
UNIT = WorkUnit("ab" * 8, (ref(0), ref(1), ref(2), ref(3)))
PLACE = Place("plan", 0, 0, 4)


def answer(recording: int, segment: int, start: int, end: int, text: str | None, **changes: Any) -> dict[str, Any]:
    blank = {
        "recording_index": recording,
        "segment_index": segment,
        "channel": None,
        "start_sample": start,
        "end_sample": end,
        "overlaps_previous": False,
        "text": text,
        "error": None if text is not None else "logits are not finite",
        "language": None,
        "confidence": 0.5,
        "words": [{"text": word, "confidence": 0.5} for word in (text or "").split()],
        "signals": None,
        "steps": 4,
        "canvas_length": 16,
        "canvas_fill": 0.25,
        "overflow": False,
    }
    return blank | changes


def finish(
    output: Path,
    recordings: list[DecodedRecording],
    results: list[dict[str, Any]],
    *,
    suspect: bool = False,
    refs: tuple[RecordingRef, ...] = UNIT.refs,
) -> dict[str, Any]:
    storage = open_storage(str(output))
    write_plan(storage, BASE, [PlannedUnit(WorkUnit(UNIT.unit_id, refs))])
    row = piece_row(UNIT.unit_id, PLACE, 0, START, None) | {
        "samples": sum(recording.samples or 0 for recording in recordings),
        "recordings": [recording_row(index, item) for index, item in enumerate(recordings)],
        "damages": [
            {"recording_index": index, **asdict(item.damage), "lost_samples": item.lost_samples}
            for index, item in enumerate(recordings)
            if item.damage
        ],
        "suspect": suspect,
        "results": results,
    }
    del row["segments"], row["pcm"], row["opening"]
    stage = CommitStage(settings(output, output, Path("unused")), About(1.0, ("de",), "tiny@1", MARK))
    table = stage(to_table([row], PIECE_RECOGNISED))
    assert table.schema.equals(RECEIPT)
    return dict(table.to_pylist()[0])


def committed(output: Path) -> tuple[pa.Table, pa.Table, dict[str, int]]:
    storage = open_storage(str(output))
    commit = read_commit(storage, UNIT.unit_id)
    tables = read_unit(storage, commit)
    return tables["transcripts"], tables["dead_letters"], commit["samples"]


RECORDINGS = [
    DecodedRecording(samples=48_000, language="de", reference="so", metadata="{}"),
    DecodedRecording(samples=16_000, language="en"),  # silence
    DecodedRecording(language="de", problem=Problem("not_audio", "decode", "text")),
    DecodedRecording(samples=32_000),  # the model gives no answer
]
RESULTS = [
    answer(3, 1, 16_000, 32_000, None),
    answer(0, 1, 20_000, 40_000, "drei vier"),
    answer(0, 0, 1_600, 17_600, "eins zwei"),
    answer(3, 0, 0, 16_000, None),
]


def test_every_recording_is_a_transcript_or_a_dead_letter(tmp_path: Path) -> None:
    receipt = finish(tmp_path / "out", RECORDINGS, RESULTS)
    transcripts, letters, samples = committed(tmp_path / "out")
    assert transcripts.schema.equals(TRANSCRIPT)
    assert letters.schema.equals(DEAD_LETTER)
    rows = transcripts.select(["recording_id", "segment_index", "start_ms", "end_ms", "text", "language"]).to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        ("r0", 0, 100, 1100, "eins zwei", "de"),
        ("r0", 1, 1250, 2500, "drei vier", "de"),
        ("r1", 0, 0, 1000, "", "en"),
    ]
    dead = letters.select(["recording_id", "reason", "stage", "seconds"]).to_pylist()
    assert [tuple(row.values()) for row in dead] == [
        ("r2", "not_audio", "decode", None),
        ("r3", "model_error", "model", 2.0),
    ]
    assert samples == {"in": 96_000, "transcribed": 36_000, "silence": 28_000, "lost": 0, "dead": 32_000}
    assert (receipt["won"], receipt["recordings"], receipt["segments"], receipt["dead"]) == (True, 4, 3, 2)


def test_the_language_is_what_the_source_says_else_what_the_model_detects(tmp_path: Path) -> None:
    recordings = [
        RECORDINGS[0],
        replace(RECORDINGS[0], language=None),
        replace(RECORDINGS[0], language=None),
        RECORDINGS[2],
    ]
    results = [answer(n, 0, 0, 16_000, "eins", language=code) for n, code in enumerate(("fr", "it", None))]
    finish(tmp_path / "out", recordings, results)
    assert committed(tmp_path / "out")[0]["language"].to_pylist() == ["de", "it", None]


def test_a_damaged_recording_is_transcribed_with_its_problem_and_its_lost_seconds(tmp_path: Path) -> None:
    damage = Problem("corrupt_audio", "decode", "x: 0.5 s are damaged")
    damaged = [replace(RECORDINGS[0], damage=damage, lost_samples=8_000), *RECORDINGS[1:]]
    finish(tmp_path / "out", damaged, RESULTS)
    transcripts, _, samples = committed(tmp_path / "out")
    rows = {(row["recording_id"], row["problem"]) for row in transcripts.to_pylist()}
    assert sorted(problem or "" for _, problem in rows) == ["", "corrupt_audio"]
    assert samples == {"in": 96_000, "transcribed": 36_000, "silence": 20_000, "lost": 8_000, "dead": 32_000}


def test_a_window_without_an_answer_is_lost_and_the_others_are_kept(tmp_path: Path) -> None:
    results = [*RESULTS[:-1], answer(3, 0, 0, 16_000, "fünf"), answer(3, 2, 40_000, 60_000, "sechs")]
    finish(tmp_path / "out", [*RECORDINGS[:3], DecodedRecording(samples=64_000)], results)
    transcripts, letters, samples = committed(tmp_path / "out")
    rows = [row for row in transcripts.to_pylist() if row["recording_id"] == "r3"]
    assert [(row["segment_index"], row["text"], row["problem"]) for row in rows] == [
        (0, "fünf", "model_error"),
        (2, "sechs", "model_error"),
    ]
    assert letters["recording_id"].to_pylist() == ["r2"]
    assert samples == {"in": 128_000, "transcribed": 72_000, "silence": 40_000, "lost": 16_000, "dead": 0}


def test_damage_without_anything_recognised_is_a_dead_letter(tmp_path: Path) -> None:
    damage = Problem("truncated_audio", "decode", "x: 1 s not heard")
    quiet = replace(RECORDINGS[1], damage=damage, lost_samples=8_000)
    finish(tmp_path / "out", [RECORDINGS[0], quiet, *RECORDINGS[2:]], RESULTS)
    transcripts, letters, samples = committed(tmp_path / "out")
    assert set(transcripts["recording_id"].to_pylist()) == {"r0"}
    assert letters["reason"].to_pylist() == ["truncated_audio", "not_audio", "model_error"]
    assert samples["dead"] == 48_000


def test_what_was_not_heard_of_transcribed_recordings_is_in_the_commit_and_the_books(tmp_path: Path) -> None:
    recordings = [replace(recording, tracks_left_out=1, bytes_left_out=10) for recording in RECORDINGS]
    finish(tmp_path / "out", recordings, RESULTS)
    commit = read_commit(open_storage(str(tmp_path / "out")), UNIT.unit_id)
    assert commit["left_out"] == {"audio_tracks": 2, "bytes": 20}  # two of the four are dead letters
    books = Tally(units_planned=1, recordings_planned=4)
    books.add(commit)
    assert books.report()["left_out"] == {"audio_tracks": 2, "bytes": 20}


def test_a_row_of_silence_has_no_confidence_and_no_model_figures(tmp_path: Path) -> None:
    finish(tmp_path / "out", RECORDINGS, RESULTS)
    row = committed(tmp_path / "out")[0].to_pylist()[2]
    empty = {"confidence", "confidence_source", "words", "signals", "steps", "canvas_length", "canvas_fill", "overflow"}
    assert {name for name in TRANSCRIPT.names if row[name] is None} >= empty
    assert row["text"] == ""


def test_what_the_source_declares_is_passed_on(tmp_path: Path) -> None:
    finish(tmp_path / "out", RECORDINGS, RESULTS)
    row = committed(tmp_path / "out")[0].to_pylist()[0]
    assert (row["reference"], row["metadata"], row["source_member"]) == ("so", "{}", "0.flac")
    assert (row["model"], row["fingerprint"], row["unit_id"]) == ("tiny@1", MARK, UNIT.unit_id)
    assert row["confidence_source"] == "raw"
    assert row["chars_per_second"] == pytest.approx(8.0)  # "eins zwei": 8 letters in 1 s


def test_times_of_a_range_are_those_of_the_original_recording(tmp_path: Path) -> None:
    ranges = (ref(0, start_ms=6000, end_ms=9000), ref(1, start_ms=2500), ref(2), ref(3))
    finish(tmp_path / "out", RECORDINGS, RESULTS, refs=ranges)
    rows = committed(tmp_path / "out")[0].select(["recording_id", "start_ms", "end_ms", "text"]).to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        ("r0", 6100, 7100, "eins zwei"),
        ("r0", 7250, 8500, "drei vier"),
        ("r1", 2500, 3500, ""),
    ]


def test_a_second_attempt_changes_nothing(tmp_path: Path) -> None:
    finish(tmp_path / "out", RECORDINGS, RESULTS)
    before = committed(tmp_path / "out")
    receipt = finish(tmp_path / "out", RECORDINGS, [answer(0, 0, 0, 100, "anders"), answer(3, 0, 0, 5, "anders")])
    assert not receipt["won"]
    assert receipt["done"]
    assert committed(tmp_path / "out") == before


def test_a_suspect_is_not_committed(tmp_path: Path) -> None:
    receipt = finish(tmp_path / "out", [], [], suspect=True)
    assert receipt["suspect"]
    assert (receipt["unit_id"], receipt["place"]) == (UNIT.unit_id, asdict(PLACE))
    with pytest.raises(FileNotFoundError):
        committed(tmp_path / "out")


@pytest.mark.parametrize(
    ("spans", "samples"),
    [([], 0), ([(0, 5)], 5), ([(0, 5), (5, 9)], 9), ([(0, 5), (3, 9)], 9), ([(0, 9), (2, 4), (6, 12)], 12)],
)
def test_overlaps_are_covered_once(spans: list[tuple[int, int]], samples: int) -> None:
    one = [{"channel": 0, "start_sample": start, "end_sample": end} for start, end in spans]
    assert covered(one) == samples
    assert covered(one + [span | {"channel": 1} for span in one]) == 2 * samples


@pytest.mark.parametrize(
    ("text", "end_ms", "rate"), [("ab c", 1500, 2.0), ("", 1000, 0.0), ("你好", 500, 4.0), ("a", 0, None)]
)
def test_chars_per_second_counts_no_spaces(text: str, end_ms: int, rate: float | None) -> None:
    assert chars_per_second(text, 0, end_ms) == rate


@pytest.mark.parametrize(("samples", "expected"), [(0, 0), (15, 0), (16, 1), (16_000, 1000), (10**12, 62_500_000_000)])
def test_milliseconds_are_whole_and_rounded_down(samples: int, expected: int) -> None:
    assert milliseconds(samples) == expected


def test_the_signature_of_an_address_is_in_no_row(tmp_path: Path) -> None:
    signed, shown = "https://host/a.wav?take=2&X-Amz-Signature=SECRET", "https://host/a.wav?take=2"
    refs = tuple(replace(one, source_uri=signed) for one in UNIT.refs)
    dead = DecodedRecording(problem=Problem("crashed", "decode", f"{signed}: the process died"))
    finish(tmp_path / "out", [*RECORDINGS[:2], dead, RECORDINGS[3]], RESULTS, refs=refs)
    transcripts, letters, _ = committed(tmp_path / "out")
    assert set(transcripts["source_uri"].to_pylist()) == set(letters["source_uri"].to_pylist()) == {shown}
    assert f"{shown}: the process died" in letters["error"].to_pylist()
