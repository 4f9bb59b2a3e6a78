"""The decode stage: what becomes a segment, what becomes a problem, and what is passed on."""

from __future__ import annotations

import io
import uuid
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from pipeline.audio.stage import Decoder, DecodeStage, Piece
from pipeline.config import SourceConfig
from pipeline.planning.left import units_left
from pipeline.planning.pack import PlannedUnit
from pipeline.planning.plan import BASE, write_plan
from pipeline.schemas import (
    PIECE_DECODED,
    About,
    BadRecording,
    DecodedRecording,
    Place,
    Position,
    RecordingRef,
    WorkUnit,
    pcm_of,
    recordings_of,
)
from pipeline.sources.access import remote
from pipeline.sources.formats import list_recordings
from pipeline.storage import ranges
from pipeline.storage.base import open_storage
from tests.sources.test_sources_tar import make_tar
from tests.support.archives import settings, wav
from tests.support.audio_files import encoded, patched, sndfile, tone, with_tracks
from tests.support.small_s3 import SmallS3


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "in"
    wav(root / "a.wav", 2.5, seed=1)
    (root / "b.wav").write_bytes(b"")
    (root / "c.wav").write_text("this is a text file" * 50)
    wav(root / "d.wav", 0.5, seed=4)
    (root / "a.txt").write_text("eins zwei")
    return root


def decoded(
    source: Path, refs: list[RecordingRef], *overrides: str, languages: tuple[str, ...] = ("en", "de")
) -> dict[str, Any]:
    config = settings(source, source.parent / f"out-{uuid.uuid4().hex}", Path("unused"), *overrides)
    storage = open_storage(config.output.uri)
    write_plan(storage, BASE, [PlannedUnit(WorkUnit("0" * 16, tuple(refs)))])
    table = DecodeStage(config, About(1.0, languages, "m", "f"))(units_left(storage, frozenset()))
    assert table.schema.equals(PIECE_DECODED)
    (row,) = table.to_pylist()
    assert row["next"] is None
    assert [recording.pop("recording_index") for recording in row["recordings"]] == list(range(len(refs)))
    pcm = memoryview(row["pcm"])
    return row | {"segments": [segment | {"pcm": pcm_of(pcm, segment)} for segment in row["segments"]]}


def refs_of(source: Path) -> list[RecordingRef]:
    return list(list_recordings(SourceConfig(uri=str(source), format="files", language="de")))


def test_a_recording_of_a_language_that_nobody_knows_keeps_what_the_source_says(tmp_path: Path) -> None:
    wav(tmp_path / "in/a.wav", 1)
    (tmp_path / "in/a.json").write_text('{"text": "hallo", "lang": "nl", "speaker": 7}')
    refs = list(list_recordings(SourceConfig(uri=str(tmp_path / "in"), format="files")))
    (recording,) = decoded(tmp_path / "in", refs)["recordings"]
    assert recording["problem"]["reason"] == "unsupported_language"
    assert (recording["reference"], recording["metadata"]) == ("hallo", '{"speaker": 7}')


def test_every_recording_is_segments_or_a_problem(source: Path) -> None:
    row = decoded(source, refs_of(source))
    reasons = [recording["problem"] and recording["problem"]["reason"] for recording in row["recordings"]]
    assert reasons == [None, "empty_file", "not_audio", None]
    assert [recording["samples"] for recording in row["recordings"]] == [40_000, None, None, 8_000]
    assert [recording["reference"] for recording in row["recordings"]] == ["eins zwei", None, None, None]
    assert sorted({segment["recording_index"] for segment in row["segments"]}) == [0, 3]
    assert not row["suspect"]


def test_segments_cover_the_recording_within_the_models_window(source: Path) -> None:
    segments = [s for s in decoded(source, refs_of(source))["segments"] if s["recording_index"] == 0]
    covered = np.zeros(40_000, bool)
    whole, _ = soundfile.read(source / "a.wav", dtype="int16")
    for number, segment in enumerate(segments):
        start, end = segment["start_sample"], segment["end_sample"]
        assert segment["segment_index"] == number
        assert 0 < end - start <= 16_000
        covered[start:end] = True
        np.testing.assert_array_equal(np.frombuffer(segment["pcm"], "<i2"), whole[start:end])
    assert covered.all()


def test_the_key_of_a_segment_does_not_depend_on_its_unit(source: Path) -> None:
    refs = refs_of(source)
    alone = decoded(source, refs[3:])["segments"]
    together = [s for s in decoded(source, refs)["segments"] if s["recording_index"] == 3]
    assert [s["key"] for s in alone] == [s["key"] for s in together] == [f"{refs[3].recording_id}#0#0"]


def test_a_language_the_model_does_not_know_is_a_problem(source: Path) -> None:
    row = decoded(source, refs_of(source)[:1], languages=("en",))
    assert row["recordings"][0]["problem"]["reason"] == "unsupported_language"
    assert row["segments"] == []


def test_a_recording_that_is_too_long_is_a_problem(source: Path) -> None:
    row = decoded(source, refs_of(source), "compute.max_recording_seconds=1")
    assert row["recordings"][0]["problem"]["reason"] == "too_long"
    assert row["recordings"][3]["problem"] is None


def test_a_problem_of_the_listing_is_passed_on_without_reading_the_recording(source: Path) -> None:
    ref = RecordingRef("x", "files", "/nowhere/x.wav", problem="unsafe_name", problem_detail="../x", reference="hi")
    (recording,) = decoded(source, [ref])["recordings"]
    assert recording["problem"] == {"reason": "unsafe_name", "stage": "list", "error": "../x"}
    assert recording["reference"] == "hi"


def test_a_file_that_was_deleted_is_a_problem(source: Path) -> None:
    refs = refs_of(source)
    (source / "d.wav").unlink()
    assert decoded(source, refs)["recordings"][3]["problem"]["reason"] == "missing_file"


@pytest.mark.parametrize(
    ("overrides", "channels", "left_out"),
    [
        ((), {None}, 2),
        (("source.track=0",), {None}, 2),
        (("source.track=all",), {0, 1, 2}, 0),
        (("source.channels=split",), {0, 1}, 2),
        (("source.track=all", "source.channels=split"), {0, 1, 2, 3, 4, 5}, 0),
    ],
)
def test_every_track_is_recognised_or_counted(
    tmp_path: Path, overrides: tuple[str, ...], channels: set[int | None], left_out: int
) -> None:
    data = with_tracks("matroska", [encoded("mkv")] * 3, default=1)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/call.mkv").write_bytes(data)
    config = settings(tmp_path / "in", tmp_path / "out", Path("unused"), *overrides)
    unit = WorkUnit("0" * 16, tuple(refs_of(tmp_path / "in")))
    pieces = list(Decoder(config, About(1.0, ("en", "de"), "m", "f")).pieces(unit))
    assert {segment["channel"] for piece in pieces for segment in piece.segments} == channels
    (recording,) = [asdict(recording) for piece in pieces for recording in piece.recordings.values()]
    assert recording["tracks_left_out"] == left_out
    assert recording["samples"] == pytest.approx(32_000 * len(channels), rel=0.05)


def test_a_track_that_a_recording_does_not_have_is_a_problem(source: Path) -> None:
    row = decoded(source, refs_of(source)[:1], "source.track=1")
    assert row["recordings"][0]["problem"]["reason"] == "unsupported_audio"
    assert "audio track 1 of 1" in row["recordings"][0]["problem"]["error"]


def rows_of(tmp_path: Path, data: bytes, name: str, *overrides: str, **changes: Any) -> list[dict[str, Any]]:
    """The rows of all pieces of one recording. Each piece is also decoded by itself, as after a restart."""
    (tmp_path / "in").mkdir(exist_ok=True)
    (tmp_path / "in" / name).write_bytes(data)
    config = settings(tmp_path / "in", tmp_path / f"out-{uuid.uuid4().hex}", Path("unused"), *overrides)
    (ref,) = refs_of(tmp_path / "in")
    storage = open_storage(config.output.uri)
    write_plan(storage, BASE, [PlannedUnit(WorkUnit("0" * 16, (replace(ref, **changes),)))])
    stage = DecodeStage(config, About(1.0, ("en", "de"), "m", "f"))
    place = Place(**units_left(storage, frozenset())["place"][0].as_py())
    rows = list(stage.pieces("0" * 16, place))
    for row in rows:
        assert next(stage.pieces("0" * 16, place, Position(**row["start"]), row["piece"])) == row
    return rows


@pytest.mark.parametrize("language", [None, "de"])
def test_later_pieces_of_a_recording_carry_its_first_segment_where_the_model_detects_the_language(
    tmp_path: Path, language: str | None
) -> None:
    wav(tmp_path / "in/a.wav", 200, seed=1)
    wav(tmp_path / "in/b.wav", 2, seed=2)
    overrides = ["segment.piece_seconds=60", "segment.vad=false"]
    config = settings(tmp_path / "in", tmp_path / "out", Path("unused"), *overrides)
    unit = WorkUnit("0" * 16, tuple(replace(ref, language=language) for ref in refs_of(tmp_path / "in")))
    decoder = Decoder(config, About(1.0, ("en", "de"), "m", "f", detects_language=True))
    pieces = list(decoder.pieces(unit))
    assert len(pieces) > 2
    first = bytes(pcm_of(memoryview(pieces[0].pcm), pieces[0].segments[0]))
    assert [piece.opening for piece in pieces] == [None, *[first if language is None else None] * (len(pieces) - 1)]
    for piece in pieces:
        assert next(decoder.pieces(unit, piece.start)) == piece  # as after a restart
    plain = Decoder(config, About(1.0, ("en", "de"), "m", "f"))
    assert {piece.opening for piece in plain.pieces(unit)} == {None}


@pytest.mark.parametrize("piece_seconds", [900, 60])
@pytest.mark.parametrize("kind", ["mp3_plain", "flac", "aac", "opus", "m4a", "webm"])
def test_damage_in_the_middle_is_a_problem_of_a_transcribed_recording(
    tmp_path: Path, kind: str, piece_seconds: int
) -> None:
    data = encoded(kind, 150.0)
    bad = patched(data, len(data) // 5, np.random.default_rng(1).bytes(len(data) // 100))
    rows = rows_of(tmp_path, bad, "a.mp3", f"segment.piece_seconds={piece_seconds}")
    assert len(rows) == (1 if piece_seconds == 900 else 3)
    (recording,) = recordings_of(rows)
    assert recording.problem is None
    assert recording.damage is not None
    assert (recording.damage.reason, recording.damage.stage) == ("corrupt_audio", "decode")
    assert "not heard, from 2" in recording.damage.error or "not heard, from 30." in recording.damage.error
    assert 1 < recording.lost_samples / 16_000 < 8  # a page of ogg and a cluster of webm are lost as a whole
    assert recording.samples == pytest.approx(150 * 16_000, abs=4_000)
    (row,) = rows_of(tmp_path, bad, "a.mp3", start_ms=60_000, end_ms=70_000)  # the damage is not in this range
    assert row["damages"] == []


@pytest.mark.parametrize("piece_seconds", [900, 60])
@pytest.mark.parametrize("kind", ["wav", "flac", "mp3", "mkv", "rf64", "wma"])
def test_a_recording_that_is_cut_is_decoded_as_far_as_it_goes(tmp_path: Path, kind: str, piece_seconds: int) -> None:
    data = encoded(kind, 150.0)
    rows = rows_of(tmp_path, data[: int(0.98 * len(data))], "a.wav", f"segment.piece_seconds={piece_seconds}")
    (recording,) = recordings_of(rows)
    assert recording.problem is None
    assert recording.damage is not None
    assert recording.damage.reason == "truncated_audio"
    assert recording.samples == pytest.approx(150 * 16_000, abs=8_000)  # what the source holds
    assert recording.lost_samples == pytest.approx(3 * 16_000, abs=16_000)
    last = max(segment["end_sample"] for row in rows for segment in row["segments"])
    assert last == pytest.approx(147 * 16_000, abs=16_000)


@pytest.mark.parametrize("piece_seconds", [1, 600])
def test_a_file_that_ends_before_its_section_is_damaged_where_more_than_a_second_is_missing(
    source: Path, piece_seconds: int
) -> None:
    whole = next(ref for ref in refs_of(source) if ref.recording_id == "a.wav")  # 2.5 s
    decoder = Decoder(settings(source, source.parent / "out", Path("unused")), About(1.0, ("de",), "m", "f"))
    decoder.piece_samples = piece_seconds * 16_000
    for start_ms, end_ms, missing in ((None, 9500, 7.0), (1000, 6000, 3.5), (1000, 3400, 0.0), (None, 2500, 0.0)):
        ref = replace(whole, start_ms=start_ms, end_ms=end_ms)
        *_, last = decoder.pieces(WorkUnit("0" * 16, (ref,)))
        assert [damage["lost_samples"] for damage in last.damages] == ([missing * 16_000] if missing else [])
        assert last.recordings[0].samples == 16 * (min(2500, end_ms) - (start_ms or 0)) + missing * 16_000
        if missing:
            assert last.damages[0]["reason"] == "truncated_audio"
            assert f"2.50 s decoded, to {end_ms / 1000:.2f} s declared" in last.damages[0]["error"]


def test_samples_that_are_no_numbers_are_lost_and_the_others_are_heard(tmp_path: Path) -> None:
    samples = tone(16_000, 10.0)
    samples[80_000:84_800] = np.nan
    (row,) = rows_of(tmp_path, sndfile(samples, 16_000, "WAV", "FLOAT"), "a.wav")
    (damage,) = row["damages"]
    assert (damage["reason"], damage["lost_samples"]) == ("invalid_samples", 4_800)
    assert row["recordings"][0]["samples"] == 160_000
    assert "from 5.00 s on" in damage["error"]


def test_a_file_that_cannot_be_read_on_is_heard_up_to_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "WHOLE_BYTES", 1_000_000)  # larger ones are read while they are decoded
    data = encoded("flac_24", 60.0)

    class Gone(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > len(data) // 2:
                raise BadRecording("missing_file", "the disk does not answer")
            return super().read(size)

    monkeypatch.setattr(remote, "open_stream", lambda *_: Gone(data))
    (row,) = rows_of(tmp_path, data, "a.flac")
    (damage,) = row["damages"]
    assert (damage["reason"], damage["stage"]) == ("missing_file", "decode")
    assert damage["lost_samples"] == pytest.approx(30 * 16_000, abs=16_000)
    assert row["recordings"][0]["samples"] == pytest.approx(60 * 16_000, abs=100)


@pytest.mark.parametrize("kind", ["wav", "mp3_plain"])
def test_a_member_that_the_end_of_its_archive_cuts_is_decoded_as_far_as_it_goes(tmp_path: Path, kind: str) -> None:
    data = encoded(kind, 20.0)
    cut = make_tar({"a.wav": data, "b.wav": data})
    (tmp_path / "in").mkdir()
    (tmp_path / "in/s.tar").write_bytes(cut[: 512 * 2 + -(-len(data) // 512) * 512 + len(data) // 2])
    refs = list(list_recordings(SourceConfig(uri=str(tmp_path / "in"), format="webdataset")))
    assert [(ref.recording_id, ref.problem) for ref in refs] == [
        ("s/a", None),
        ("s/b", None),
        ("s!archive", "truncated_archive"),
    ]
    row = decoded(tmp_path / "in", refs[:2])
    (damage,) = row["damages"]
    assert (damage["recording_index"], damage["reason"][:9]) == (1, "truncated")
    assert damage["lost_samples"] == pytest.approx(10 * 16_000, abs=1600)
    assert row["recordings"][1]["samples"] == pytest.approx(20 * 16_000, abs=1600)


def test_a_recording_of_which_nothing_can_be_decoded_is_a_problem(source: Path) -> None:
    (source / "a.wav").write_bytes(encoded("wav")[:44])
    (source / "d.wav").write_bytes(encoded("m4a", 10.0)[:50_000])
    recordings = decoded(source, refs_of(source))["recordings"]
    assert [recordings[index]["problem"]["reason"] for index in (0, 3)] == ["truncated_audio"] * 2


def test_a_long_recording_that_is_written_again_while_it_is_decoded_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "WHOLE_BYTES", 1_000_000)  # larger ones are read while they are decoded
    wav(tmp_path / "in/a.wav", 150, seed=1)
    config = settings(tmp_path / "in", tmp_path / "out", Path("unused"), "segment.piece_seconds=60")
    unit = WorkUnit("0" * 16, tuple(refs_of(tmp_path / "in")))
    decoder = Decoder(config, About(1.0, ("en", "de"), "m", "f"))
    assert list(decoder.pieces(unit))[-1].recordings[0].problem is None
    pieces = decoder.pieces(unit)
    next(pieces)
    wav(tmp_path / "in/a.wav", 150, seed=2)
    problem = list(pieces)[-1].recordings[0].problem
    assert problem is not None
    assert (problem.reason, problem.stage) == ("source_changed", "read")


def test_the_same_holds_for_an_object_of_a_bucket(s3: SmallS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "WHOLE_BYTES", 1_000_000)
    monkeypatch.setattr(ranges, "AHEAD_BYTES", 200_000)
    wav(tmp_path / "a.wav", 150, seed=1)
    s3.objects = {"in/a.wav": (tmp_path / "a.wav").read_bytes(), "in/a.txt": b"its text"}
    small = ("segment.piece_seconds=60", "compute.read_ahead=1")
    config = settings(tmp_path / "in", tmp_path / "out", Path("unused"), *small)
    unit = WorkUnit("0" * 16, tuple(list_recordings(SourceConfig(uri="s3://b/in"))))
    decoder = Decoder(config, About(1.0, ("en", "de"), "m", "f"))
    s3.log.clear()
    assert list(decoder.pieces(unit))[-1].recordings[0].problem is None
    assert [method for method, *_ in s3.log].count("HEAD") == 1
    pieces = decoder.pieces(unit)
    next(pieces)
    wav(tmp_path / "a.wav", 150, seed=2)
    s3.objects["in/a.wav"] = (tmp_path / "a.wav").read_bytes()
    problem = list(pieces)[-1].recordings[0].problem
    assert problem is not None
    assert (problem.reason, problem.stage) == ("source_changed", "read")


@pytest.mark.parametrize("packed", [False, True])
def test_what_is_decoded_does_not_depend_on_how_much_is_read_ahead(source: Path, tmp_path: Path, packed: bool) -> None:
    """Good and bad recordings, of files or of an archive; also from the middle of one on, as after a restart."""
    wav(source / "e.wav", 150, seed=5)
    wav(source / "f.wav", 90, seed=6)
    (tmp_path / "s.tar").write_bytes(make_tar({path.name: path.read_bytes() for path in sorted(source.iterdir())}))
    refs = list(list_recordings(SourceConfig(uri=str(tmp_path / "s.tar")))) if packed else refs_of(source)
    unit = WorkUnit("0" * 16, tuple(refs))
    one, eight = (
        Decoder(
            settings(
                source, tmp_path / "out", Path("unused"), "segment.piece_seconds=60", f"compute.read_ahead={most}"
            ),
            About(1.0, ("en", "de"), "m", "f"),
        )
        for most in (1, 8)
    )
    pieces = list(one.pieces(unit))
    problems = [recording.problem and recording.problem.reason for recording in recordings_in(pieces)]
    assert problems == [None, "empty_file", "not_audio", None, None, None]
    assert len(pieces) == 4
    for number, piece in enumerate(pieces):
        assert list(eight.pieces(unit, piece.start)) == pieces[number:]


def recordings_in(pieces: list[Piece]) -> list[DecodedRecording]:
    return [recording for piece in pieces for recording in piece.recordings.values()]
