"""Tests of the timed probe: real stages, lengths of what is decoded in part, notes, no Ray."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import soundfile

from pipeline.audio.stage import Decoder
from pipeline.config import ConfigError, RunConfig
from pipeline.forecast import probe as probing
from pipeline.forecast.forecast import Measured
from pipeline.forecast.probe import (
    Sampled,
    declared_by_header,
    decoded,
    extrapolated,
    make_forecast,
    measure_sample,
    pieces_of,
)
from pipeline.planning.lengths import expected_seconds
from pipeline.run import prepare
from pipeline.schemas import SAMPLE_RATE, About, RecordingRef
from tests.support.archives import archive, settings, wav
from tests.support.outputs import ref


def file_ref(path: Path, **changes: object) -> RecordingRef:
    return RecordingRef(path.name, "files", str(path), size=path.stat().st_size, language="en", **changes)  # type: ignore[arg-type]


def test_the_probe_uses_the_stages_of_a_run(tmp_path: Path, small_model_dir: Path) -> None:
    lengths = {f"{number}.wav": wav(tmp_path / f"{number}.wav", 2 + number, number) for number in range(3)}
    (tmp_path / "bad.wav").write_bytes(b"RIFF, but no audio")
    refs = [file_ref(path) for path in sorted(tmp_path.glob("*.wav"))]
    probed, notes = measure_sample(
        settings(tmp_path, tmp_path / "out", small_model_dir, "plan.probe_seconds=600"), refs
    )
    assert [item.audio_seconds for item in probed] == [length / SAMPLE_RATE for length in lengths.values()] + [0]
    assert [item.extent for item in probed] == [expected_seconds(item) for item in refs]
    assert all(item.decode_seconds > 0 for item in probed)
    assert all(item.replica_seconds for item in probed[:3])
    assert probed[3].replica_seconds == 0
    assert len(notes) == 1
    assert notes[0].startswith("1 of 4 sampled recordings are dead letters (")
    assert not (tmp_path / "out").exists()


def test_a_recording_too_long_for_its_time_is_decoded_in_part_and_scaled(
    tmp_path: Path, small_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wav states its length. A piece of a minute is decoded; the work for the rest is inferred."""
    monkeypatch.setattr(probing, "SEGMENTS_EACH", 2)
    wav(tmp_path / "long.wav", 180)
    config = settings(
        tmp_path, tmp_path / "out", small_model_dir, "segment.piece_seconds=60", "plan.probe_seconds=0.000001"
    )
    decoder = Decoder(config, About(1.0, ("en",), "m", "f"))
    item = next(decoded(config, decoder, [file_ref(tmp_path / "long.wav")], 0.0))
    assert 0 < item.seconds < 90
    assert item.length == 180
    assert len(item.segments) == 2
    assert item.speech_seconds >= item.seconds  # fixed windows overlap a little
    whole = extrapolated(item, 0.5)
    assert whole.audio_seconds == 180
    assert whole.decode_seconds == pytest.approx(item.decode_seconds * 180 / item.seconds)
    assert whole.replica_seconds == pytest.approx(0.5 * item.speech_seconds * 180 / item.seconds)


def test_time_that_is_up_ends_the_probe_but_only_after_one_of_each_kind(tmp_path: Path, small_model_dir: Path) -> None:
    archive(tmp_path, 4)
    refs = [file_ref(path) for path in sorted(tmp_path.glob("*.wav"))]
    refs[1] = file_ref(tmp_path / "r001.wav", seconds=2.5)
    config = settings(tmp_path, tmp_path / "out", small_model_dir, "plan.probe_seconds=0.000001")
    probed, notes = measure_sample(config, refs)
    assert [item.kind for item in probed] == ["bytes", "seconds"]
    assert "plan.probe_seconds: time for 2 of 4 recordings" in notes
    assert all(item.replica_seconds is not None and math.isfinite(item.replica_seconds) for item in probed)


def test_replicas_on_gpus_are_not_timed_on_a_cpu(
    tmp_path: Path, small_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    wav(tmp_path / "a.wav", 2)
    config = settings(tmp_path, tmp_path / "out", small_model_dir, "compute.gpus_per_replica=1", "model.device=auto")
    probed, notes = measure_sample(config, [file_ref(tmp_path / "a.wav")])
    assert [item.replica_seconds for item in probed] == [None]
    assert "this machine has none" in notes[0]


def test_lengths_that_are_declared_wrongly_are_noted(tmp_path: Path, small_model_dir: Path) -> None:
    wav(tmp_path / "a.wav", 3)
    config = settings(tmp_path, tmp_path / "out", small_model_dir)
    _, notes = measure_sample(config, [file_ref(tmp_path / "a.wav", seconds=2.0)])
    assert notes == ["declared seconds are summed as they are; the sampled recordings last 1.50 times as long"]


def test_a_header_states_the_length_of_what_will_be_transcribed(tmp_path: Path) -> None:
    wav(tmp_path / "a.wav", 10)
    soundfile.write(tmp_path / "b.wav", [[0.1, 0.2]] * 80_000, 8_000)
    assert declared_by_header(file_ref(tmp_path / "a.wav"), split=False) == 10
    assert declared_by_header(file_ref(tmp_path / "a.wav", start_ms=2_000, end_ms=5_500), split=False) == 3.5
    assert declared_by_header(file_ref(tmp_path / "b.wav"), split=True) == 20
    assert declared_by_header(file_ref(tmp_path / "b.wav", channel=1), split=True) == 10
    (tmp_path / "c.wav").write_bytes(b"no audio")
    assert declared_by_header(file_ref(tmp_path / "c.wav"), split=False) is None


def test_pieces_of_a_recording_end_with_what_is_known_of_the_whole(tmp_path: Path, small_model_dir: Path) -> None:
    length = wav(tmp_path / "a.wav", 150)
    config = settings(tmp_path, tmp_path / "out", small_model_dir, "segment.piece_seconds=60")
    parts = list(pieces_of(Decoder(config, About(1.0, ("en",), "m", "f")), file_ref(tmp_path / "a.wav")))
    assert len(parts) > 1
    assert sum(samples for samples, _, _ in parts) == length
    assert all(segments for _, segments, _ in parts)
    assert [whole is None for _, _, whole in parts] == [True] * (len(parts) - 1) + [False]
    assert parts[-1][2] is not None
    assert parts[-1][2].samples == length


def _config(tmp_path: Path, small_model_dir: Path, *overrides: str) -> RunConfig:
    return settings(archive(tmp_path / "in", 6), tmp_path / "out", small_model_dir, *overrides)


def test_the_forecast_is_kept_beside_the_plan(tmp_path: Path, small_model_dir: Path) -> None:
    config = _config(tmp_path, small_model_dir, "plan.probe_recordings=6", "plan.probe_seconds=600")
    storage = prepare(config)
    made = make_forecast(config, storage, set())
    stored = json.loads(storage.get("_run/forecast.json"))
    assert (stored["units"], stored["recordings"], stored["probed"], stored["coverage"]) == (4, 6, 6, 0.9)
    exact = sum(2.5 + number / 100 for number in range(6)) / 3600
    assert stored["audio_hours"] == pytest.approx({"value": exact, "low": exact, "high": exact})
    assert made.replica_hours is not None
    assert made.wall_hours is not None
    assert stored["wall_hours"]["value"] == made.wall_hours.value > 0
    assert (made.gpu_hours, made.usd) == (None, None)


def test_without_a_probe_only_counts_are_known(
    tmp_path: Path, small_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _config(tmp_path, small_model_dir, "plan.probe_recordings=0")
    monkeypatch.delattr(probing, "Decoder")
    made = make_forecast(config, prepare(config), set())
    assert (made.recordings, made.probed, made.audio_hours, made.wall_hours) == (6, 0, None, None)
    assert made.notes[0].startswith("plan.probe_recordings=0: ")


def test_a_model_that_cannot_be_loaded_is_a_users_error(tmp_path: Path, small_model_dir: Path) -> None:
    config = _config(tmp_path, small_model_dir)
    storage = prepare(config)
    broken = config.model_copy(update={"model": config.model.model_copy(update={"name": "/not/there"})})
    with pytest.raises(ConfigError, match=r"model\.name"):
        make_forecast(broken, storage, set())


def test_figures_of_a_part_are_scaled_to_the_whole_recording() -> None:
    item = Sampled(ref(1), seconds=100, decode_seconds=2, speech_seconds=60, length=300)
    assert extrapolated(item, 0.25) == Measured("seconds", 4.0, 300, 6.0, 45.0)
    assert extrapolated(item, None).replica_seconds is None
