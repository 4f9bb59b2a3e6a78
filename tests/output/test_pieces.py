"""Units of several pieces: a piece is the same wherever decoding begins; pieces are saved, and committed together."""

from __future__ import annotations

import struct
import subprocess
import sys
import textwrap
from dataclasses import asdict
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.audio.segment import OVERLAP_SAMPLES, Window, piece_end
from pipeline.audio.stage import DecodeStage
from pipeline.config import RunConfig, SegmentConfig, SourceConfig
from pipeline.flow.bundles import as_block, rows_of
from pipeline.flow.guard import GuardedDecoder
from pipeline.output.accounting import close_books
from pipeline.output.commit import read_commit, read_unit
from pipeline.output.pieces import PREFIX, PieceJoiner, forget_committed, save_piece, saved_pieces
from pipeline.output.stage import CommitStage
from pipeline.planning.left import units_left
from pipeline.planning.pack import PlannedUnit
from pipeline.planning.plan import BASE, write_plan
from pipeline.schemas import (
    AUDIO_COLUMNS,
    PIECE_RECOGNISED,
    SAMPLE_RATE,
    START,
    About,
    Place,
    Position,
    WorkUnit,
    pcm_of,
    piece_row,
    to_table,
)
from pipeline.sources.formats import list_recordings
from pipeline.storage.base import OutputError, Storage, open_storage
from tests.support.archives import settings, wav
from tests.support.audio_files import ffmpeg
from tests.support.speech import spoken

ABOUT = About(5.12, ("en",), "tiny", "f" * 16)
PIECE_SECONDS = 60  # the smallest value that is allowed
UNIT_ID = "ab" * 8


def speech(seconds: int) -> np.ndarray:
    """Sentences with pauses of different lengths, the same in every run: float32 [samples] at 16 kHz."""
    sentence = spoken("en-us", "the house is big and the garden is green")
    dice = np.random.default_rng(1)
    pieces: list[np.ndarray] = []
    while sum(map(len, pieces)) < seconds * SAMPLE_RATE:
        pieces += [sentence, np.zeros(int(dice.uniform(0.05, 1.5) * SAMPLE_RATE), np.float32)]
    return np.concatenate(pieces)[: seconds * SAMPLE_RATE]


def long_speech(path: Path, seconds: int, rate: int = SAMPLE_RATE) -> int:
    """Write `speech` as a wav file that declares `rate`. Returns the number of samples."""
    samples = speech(seconds)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, subtype="PCM_16")
    return len(samples)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five files: short, long (200 s of speech), bad, short, stereo."""
    root = tmp_path_factory.mktemp("pieces") / "in"
    wav(root / "a.wav", 4.0, seed=1)
    long_speech(root / "b.wav", 200)
    (root / "c.wav").write_bytes(b"")
    wav(root / "d.wav", 3.0, seed=2)
    both = np.random.default_rng(3).integers(-8000, 8000, (70 * SAMPLE_RATE, 2), dtype=np.int16)
    soundfile.write(root / "e.wav", both, SAMPLE_RATE, subtype="PCM_16")
    return root


def config(source: Path, output: Path, *overrides: str) -> RunConfig:
    return settings(
        source, output, Path("unused"), f"segment.piece_seconds={PIECE_SECONDS}", "segment.vad=true", *overrides
    )


def unit_of(source: Path) -> WorkUnit:
    refs = list_recordings(SourceConfig(uri=str(source), format="files", language="en"))
    return WorkUnit(UNIT_ID, tuple(refs))


def pieces_of(run: RunConfig, unit: WorkUnit) -> list[dict[str, Any]]:
    """The rows of PIECE_DECODED of a unit. The plan is written if there is none."""
    write_plan(open_storage(run.output.uri), BASE, [PlannedUnit(unit)])
    return list(DecodeStage(run, ABOUT).pieces(unit.unit_id, place_of(unit)))


def place_of(unit: WorkUnit) -> Place:
    return Place(BASE, 0, 0, len(unit.refs))


def samples_of(row: dict[str, Any], segment: dict[str, Any]) -> np.ndarray:
    return np.frombuffer(pcm_of(memoryview(row["pcm"]), segment), "<i2")


def recordings_by_index(rows: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    return {recording["recording_index"]: recording for row in rows for recording in row["recordings"]}


def answered(row: dict[str, Any], text: str = "ja") -> dict[str, Any]:
    """The row as the model returns it."""
    blank = {"text": text, "error": None, "language": None, "confidence": 0.5, "words": [], "signals": None, "steps": 1}
    blank |= {"canvas_length": 16, "canvas_fill": 0.1, "overflow": False}
    left_out = ("key", "language", "pcm_offset")
    results = [{k: v for k, v in s.items() if k not in left_out} | blank for s in row["segments"]]
    return {k: v for k, v in row.items() if k not in AUDIO_COLUMNS} | {"results": results}


def test_pieces_follow_each_other_and_are_bounded(source: Path, tmp_path: Path) -> None:
    rows = pieces_of(config(source, tmp_path), unit_of(source))
    assert len(rows) >= 5
    assert [row["piece"] for row in rows] == list(range(len(rows)))
    assert rows[0]["start"] == asdict(START)
    assert [row["next"] for row in rows[:-1]] == [row["start"] for row in rows[1:]]
    assert rows[-1]["next"] is None
    assert all(row["samples"] < 2 * PIECE_SECONDS * SAMPLE_RATE for row in rows)
    recordings = recordings_by_index(rows)
    assert [recordings[index]["samples"] for index in range(5)] == [64_000, 3_200_000, None, 48_000, 1_120_000]
    assert sum(row["samples"] for row in rows) == 64_000 + 3_200_000 + 48_000 + 1_120_000
    for index in (0, 1, 3, 4):
        segments = [s for row in rows for s in row["segments"] if s["recording_index"] == index]
        assert [s["segment_index"] for s in segments] == list(range(len(segments)))
        assert all(a["end_sample"] <= b["start_sample"] or b["overlaps_previous"] for a, b in pairwise(segments))


def test_all_speech_is_in_some_segment_and_comes_bit_for_bit(source: Path, tmp_path: Path) -> None:
    """Pieces end at pauses: nothing loud is lost between two pieces."""
    rows = pieces_of(config(source, tmp_path), unit_of(source))
    whole, _ = soundfile.read(source / "b.wav", dtype="int16")
    covered = np.zeros(len(whole), bool)
    for row in rows:
        for segment in row["segments"]:
            if segment["recording_index"] == 1:
                start, end = segment["start_sample"], segment["end_sample"]
                np.testing.assert_array_equal(samples_of(row, segment), whole[start:end])
                covered[start:end] = True
    loud = np.abs(whole.astype(np.int32)) > 2000
    assert loud.any()
    assert covered[loud].mean() > 0.999


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_a_piece_that_is_decoded_alone_is_the_piece_of_the_uninterrupted_run(tmp_path: Path, rate: int) -> None:
    long_speech(tmp_path / "in/b.wav", 150 * rate // SAMPLE_RATE, rate)
    check_pieces_alone(tmp_path / "in", difference=0 if rate == SAMPLE_RATE else 1)


@pytest.mark.parametrize(
    ("kind", "container", "codec", "rate"),
    [("mp3", "mp3", "libmp3lame", 44_100), ("m4a", "ipod", "aac", 44_100), ("opus", "ogg", "libopus", 48_000)],
)
def test_a_piece_of_a_compressed_recording_is_the_same_bit_for_bit_when_decoded_alone(
    tmp_path: Path, kind: str, container: str, codec: str, rate: int
) -> None:
    samples = soxr.resample(speech(90), SAMPLE_RATE, rate)[:, None].repeat(2, axis=1)
    (tmp_path / "in").mkdir()
    (tmp_path / f"in/b.{kind}").write_bytes(ffmpeg(samples, rate, container, codec, {}))
    check_pieces_alone(tmp_path / "in", difference=0)


def check_pieces_alone(source: Path, *, difference: int) -> None:
    """Decode every piece of the only unit by itself: nothing differs, but for samples by at most `difference`."""
    unit = unit_of(source)
    run = config(source, source.parent / "out")
    rows = pieces_of(run, unit)
    assert len(rows) >= 2
    assert any(row["segments"] for row in rows[1:])
    stage = DecodeStage(run, ABOUT)
    for number, row in enumerate(rows):
        again = next(stage.pieces(unit.unit_id, place_of(unit), Position(**row["start"]), number))
        assert {k: v for k, v in again.items() if k != "pcm"} == {k: v for k, v in row.items() if k != "pcm"}
        for segment in row["segments"]:
            apart = samples_of(again, segment).astype(int) - samples_of(row, segment)
            assert np.abs(apart).max() <= difference


LONG_SECONDS = 7200  # of a telephone call: 231 MB on disk, 461 MB for one channel when decoded


def test_a_recording_of_hours_takes_the_memory_of_a_piece(tmp_path: Path) -> None:
    """It runs in a process of its own. The file has holes, so that it is written at once."""
    (tmp_path / "in").mkdir()
    size = LONG_SECONDS * 8000 * 4
    with (tmp_path / "in/call.wav").open("wb") as file:
        form = struct.pack("<HHIIHH", 1, 2, 8000, 32_000, 4, 16)
        file.write(struct.pack("<4sI4s4sI16s4sI", b"RIFF", 36 + size, b"WAVE", b"fmt ", 16, form, b"data", size))
        file.truncate(44 + size)
    script = """
        import sys
        from pathlib import Path
        from pipeline.audio.stage import Decoder
        from pipeline.schemas import About, WorkUnit
        from pipeline.sources.formats import list_recordings
        from tests.support.archives import settings, wav
        from tests.support.memory import peak_kilobytes
        root = Path(sys.argv[1])
        wav(root / "small/a.wav", 1.0)
        for name, channels in (("small", "mix"), ("in", "mix"), ("in", "split")):
            config = settings(root / name, root / "out", Path("unused"), f"source.channels={channels}")
            decoder = Decoder(config, About(5.12, ("en",), "m", "f"))
            unit = WorkUnit("0" * 16, tuple(list_recordings(config.source)))
            print(*(piece.samples for piece in decoder.pieces(unit)), peak_kilobytes())
    """
    command = [sys.executable, "-c", textwrap.dedent(script), tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    small, mixed, split = ([int(word) for word in line.split()] for line in done.stdout.splitlines())
    assert sum(mixed[:-1]) == LONG_SECONDS * SAMPLE_RATE
    assert sum(split[:-1]) == 2 * LONG_SECONDS * SAMPLE_RATE
    assert max(mixed[:-1] + split[:-1]) < 2 * 900 * SAMPLE_RATE
    assert (split[-1] - small[-1]) / 1024 < 300


def test_quietest_cuts_take_every_sample_once_over_the_borders_of_pieces(tmp_path: Path) -> None:
    length = long_speech(tmp_path / "in/b.wav", 150)
    words = ("segment.method=quietest", "segment.vad=false", "segment.target_seconds=3", "segment.search_seconds=1")
    run, unit = config(tmp_path / "in", tmp_path / "out", *words), unit_of(tmp_path / "in")
    rows = pieces_of(run, unit)
    assert len(rows) >= 3
    spans = [(s["start_sample"], s["end_sample"]) for row in rows for s in row["segments"]]
    assert [spans[0][0], *(end for _, end in spans)] == [0, *(start for start, _ in spans[1:]), length]
    assert max(end - start for start, end in spans) <= 3.5 * SAMPLE_RATE
    stage = DecodeStage(run, ABOUT)
    for number, row in enumerate(rows):
        again = next(stage.pieces(unit.unit_id, place_of(unit), Position(**row["start"]), number))
        assert again == row


def test_split_channels_are_recognised_one_after_the_other(source: Path, tmp_path: Path) -> None:
    rows = pieces_of(config(source, tmp_path, "source.channels=split", "segment.vad=false"), unit_of(source))
    segments = [s | {"pcm": samples_of(row, s)} for row in rows for s in row["segments"] if s["recording_index"] == 4]
    whole, _ = soundfile.read(source / "e.wav", dtype="int16")
    assert [s["channel"] for s in segments] == sorted(s["channel"] for s in segments)
    assert {s["channel"] for s in segments} == {0, 1}
    assert len({s["key"] for s in segments}) == len(segments)
    for s in segments:
        np.testing.assert_array_equal(s["pcm"], whole[s["start_sample"] : s["end_sample"], s["channel"]])
    recordings = recordings_by_index(rows)
    assert recordings[4]["samples"] == 2 * 1_120_000
    assert recordings[0]["samples"] == 64_000


def test_a_unit_is_committed_with_the_piece_that_completes_it_in_any_order(source: Path, tmp_path: Path) -> None:
    unit = unit_of(source)
    storage = open_storage(str(tmp_path / "out"))
    run = config(source, tmp_path / "out")
    rows = [answered(row) for row in pieces_of(run, unit)]
    stage = CommitStage(run, ABOUT)
    order = [*range(1, len(rows)), 0, 1]
    receipts = [stage(to_table([rows[index]], PIECE_RECOGNISED)).to_pylist()[0] for index in order[:-1]]
    assert [receipt["done"] for receipt in receipts] == [False] * (len(rows) - 1) + [True]
    assert [receipt["samples"] for receipt in receipts] == [rows[index]["samples"] for index in order[:-1]]
    assert list(storage.list(PREFIX)) == []
    tables = read_unit(storage, read_commit(storage, UNIT_ID))
    transcripts = tables["transcripts"].to_pylist()
    assert {row["recording_id"] for row in transcripts} == {"a.wav", "b.wav", "d.wav", "e.wav"}
    assert tables["dead_letters"]["recording_id"].to_pylist() == ["c.wav"]
    times = [row["start_ms"] for row in transcripts if row["recording_id"] == "b.wav"]
    assert times == sorted(times)
    assert times[-1] > 120_000
    assert len(transcripts) == len({(row["recording_id"], row["segment_index"]) for row in transcripts})

    late = stage(to_table([rows[1] | {"results": []}], PIECE_RECOGNISED)).to_pylist()[
        0
    ]  # of a process that was suspended meanwhile
    assert not late["done"]
    assert read_unit(storage, read_commit(storage, UNIT_ID))["transcripts"].equals(tables["transcripts"])
    forget_committed(storage, {UNIT_ID})
    assert list(storage.list(PREFIX)) == []
    assert close_books(storage)["complaints"] == []


def test_a_resume_recognises_only_the_pieces_that_are_missing(source: Path, tmp_path: Path) -> None:
    unit = unit_of(source)
    storage = open_storage(str(tmp_path / "out"))
    run = config(source, tmp_path / "out")
    rows = pieces_of(run, unit)
    last = len(rows) - 1
    for index in (0, 2, last):
        save_piece(storage, answered(rows[index]))
    assert set(saved_pieces(storage, UNIT_ID)) == {0, 2}  # the last piece always runs: it commits the unit
    guarded = GuardedDecoder(run, ABOUT)
    again = [row for block in guarded(as_block(units_left(storage, frozenset()))) for row in rows_of(block).to_pylist()]
    assert [row["saved"] for row in again] == [index in (0, 2) for index in range(len(rows))]
    assert [row["piece"] for row in again] == list(range(len(rows)))
    for index, row in enumerate(again):
        if not row["saved"]:
            assert row["segments"] == rows[index]["segments"]
        assert (row["start"], row["next"]) == (rows[index]["start"], rows[index]["next"])


def test_a_piece_is_saved_once(storage: Storage) -> None:
    blank = answered(row(0, "a", "b"))
    assert save_piece(storage, blank)
    assert not save_piece(storage, blank | {"samples": 7})
    joined = PieceJoiner(storage).join(answered(row(1, "b", None)))
    assert joined is not None
    assert [piece["samples"] for piece in joined] == [0, 0]


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_the_piece_that_comes_last_joins_its_unit_whatever_the_order(storage: Storage, order: tuple[int, ...]) -> None:
    rows = [answered(row(number, *bounds)) for number, bounds in enumerate(pairwise(["a", "b", "c", "d", None]))]
    joiner = PieceJoiner(storage)
    joined = [joiner.join(rows[number]) for number in order]
    assert joined[:-1] == [None] * 3
    assert joined[-1] is not None
    assert [piece["piece"] for piece in joined[-1]] == [0, 1, 2, 3]
    joiner.forget(UNIT_ID, 4)
    assert list(storage.list(PREFIX)) == []


def test_a_joiner_that_is_started_again_knows_the_units_that_wait(storage: Storage) -> None:
    assert PieceJoiner(storage).join(answered(row(1, "b", None))) is None
    joined = PieceJoiner(storage).join(answered(row(0, "a", "b")))
    assert joined is not None
    assert [piece["piece"] for piece in joined] == [0, 1]


def test_units_are_joined_with_one_listing_in_all(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    listed, list_keys = [], storage.list
    monkeypatch.setattr(storage, "list", lambda prefix: listed.append(prefix) or list_keys(prefix))
    joiner = PieceJoiner(storage)
    for number in range(3):
        unit_id = f"{number:016x}"
        assert joiner.join(answered(row(0, "a", "b")) | {"unit_id": unit_id}) is None
        assert joiner.join(answered(row(1, "b", None)) | {"unit_id": unit_id}) is not None
        joiner.forget(unit_id, 2)
    assert listed == [PREFIX]


def test_pieces_of_other_units_stay(storage: Storage) -> None:
    save_piece(storage, answered(row(0, "a", "b")))
    save_piece(storage, answered(row(0, "a", "b") | {"unit_id": "cd" * 8}))
    forget_committed(storage, {"cd" * 8, "ef" * 8})
    assert list(storage.list(PREFIX)) == [f"{PREFIX}{UNIT_ID}/00000.arrow"]


def test_pieces_that_another_driver_commits_meanwhile_are_not_an_error(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_piece(storage, answered(row(0, "a", "a")))
    save_piece(storage, answered(row(2, "a", None)))
    joiner, keys = PieceJoiner(storage), list(storage.list(f"{PREFIX}{UNIT_ID}/"))
    monkeypatch.setattr(storage, "list", lambda prefix: iter(keys))
    for key in keys:
        storage.delete(key)
    assert saved_pieces(storage, UNIT_ID) == {}
    assert joiner.join(answered(row(1, "a", "a"))) is None
    assert joiner.join(answered(row(2, "a", None))) is None


def test_pieces_that_do_not_follow_each_other_are_refused_by_name(storage: Storage) -> None:
    save_piece(storage, answered(row(0, "a", "b")))
    with pytest.raises(OutputError, match=rf"{PREFIX}{UNIT_ID}/: the pieces of this unit do not follow"):
        PieceJoiner(storage).join(answered(row(1, "x", None)))


def test_a_saved_piece_that_is_damaged_is_named_with_what_helps(storage: Storage) -> None:
    save_piece(storage, answered(row(0, "a", "b")))
    key = f"{PREFIX}{UNIT_ID}/00000.arrow"
    storage.put(key, storage.get(key)[:100])
    says = rf"{key}, which is recognised again when it is deleted: damaged or cut off: "
    with pytest.raises(OutputError, match=says):
        PieceJoiner(storage).join(answered(row(1, "b", None)))
    with pytest.raises(OutputError, match=says):
        saved_pieces(storage, UNIT_ID)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "out"))


def row(number: int, start: str, following: str | None) -> dict[str, Any]:
    """A piece that begins at the position named `start`, "a" first."""
    at, then = (None if name is None else Position(recording=ord(name)) for name in (start, following))
    return piece_row(UNIT_ID, Place(BASE, 0, 0, 1), number, at or START, then)


@given(
    st.lists(st.tuples(st.integers(0, 40_000), st.integers(1_000, 480_000), st.booleans()), max_size=80),
    st.integers(0, 2000),
    st.integers(0, 30_000),
)
@example([(0, 480_000, False)], 200, 30_000)  # half of the piece is silence that a join might bridge
def test_a_piece_always_moves_on_and_cuts_no_final_window(
    shape: list[tuple[int, int, bool]], pad_ms: int, join_ms: int
) -> None:
    samples = PIECE_SECONDS * SAMPLE_RATE
    windows: list[Window] = []
    at = 0
    for gap, length, overlaps in shape:
        # Only a window of the greatest length, which is 1 s or more, overlaps the next one.
        overlapping = overlaps and bool(windows) and at - windows[-1].start_sample >= SAMPLE_RATE
        start = at - OVERLAP_SAMPLES if overlapping else at + gap
        end = start + max(length, OVERLAP_SAMPLES + 1 if overlapping else 0)  # it ends behind the window before it
        if end > samples:
            break
        windows.append(Window(start, end, overlapping))
        at = end
    final, end, overlaps = piece_end(windows, samples, SegmentConfig(pad_ms=pad_ms, join_ms=join_ms))
    last = (windows[-1].start_sample // 16 * 16, windows[-1].end_sample // 16 * 16) if windows else ()
    assert samples // 2 <= end <= samples or end in last
    assert end > 0 or not windows
    assert end % 16 == 0
    assert final <= len(windows)
    if not overlaps:
        assert all(window.end_sample <= end + 15 for window in windows[:final])
        assert all(window.start_sample >= end for window in windows[final:])
