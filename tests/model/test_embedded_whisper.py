"""The embedded Whisper: int8 weights that are made the same way each time, small enough to be sent with a job."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from infra import embed_whisper
from pipeline.config import ConfigError
from pipeline.model.files import layout, weights
from pipeline.model.whisper import recogniser
from pipeline.schemas import Segment
from tests.support.small_whisper import save_whisper

ROOT = Path(__file__).parents[2]
FOLDER = layout.ASSETS / "whisper-base"


@given(seed=st.integers(0, 1000), exponent=st.integers(-12, 12))
@settings(max_examples=50, deadline=None)
def test_a_number_is_off_by_half_a_step_of_its_row_at_most(seed: int, exponent: int) -> None:
    weight = torch.randn(5, 32, generator=torch.Generator().manual_seed(seed)) * 2.0**exponent
    stored, scale = embed_whisper.quantise(weight)
    assert (stored.dtype, scale.dtype, tuple(scale.shape)) == (torch.int8, torch.float16, (5, 1))
    steps = (stored.float() * scale.float() - weight).abs() / scale.float()
    assert float(steps.max()) <= 0.5 + 127 * 2**-11  # the scale itself is rounded to float16


def test_the_same_files_give_the_same_bytes_and_a_whisper_that_is_close(tmp_path: Path) -> None:
    """Also from parts, and with an encoder whose names have no prefix."""
    whole = save_whisper(tmp_path / "whole")
    state = weights.read_state(whole / "model.safetensors")
    encoder = {n.removeprefix("model.encoder."): w for n, w in state.items() if n.startswith("model.encoder.")}
    save_file(encoder, tmp_path / "encoder.safetensors")
    rest = {name: weight.contiguous() for name, weight in state.items() if not name.startswith("model.encoder.")}
    save_file(rest, tmp_path / "rest.safetensors")
    made = []
    one, parts = [whole / "model.safetensors"], [tmp_path / "rest.safetensors", tmp_path / "encoder.safetensors"]
    for number, files in enumerate((one, parts)):
        folder = save_whisper(tmp_path / f"{number}")
        (folder / "model.safetensors").unlink()
        assert embed_whisper.main([str(folder), *map(str, files)]) == 0
        made.append([(folder / name).read_bytes() for name in ("encoder.safetensors", "decoder.safetensors")])
    assert made[0] == made[1]
    exact, loaded = (recogniser.load(str(path)).model.state_dict() for path in (whole, tmp_path / "0"))
    assert exact.keys() == loaded.keys()
    for name, weight in exact.items():
        assert float((loaded[name] - weight).abs().max()) <= float(weight.abs().max()) / 200, name


def test_files_that_are_no_weights_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert embed_whisper.main([str(tmp_path), str(tmp_path / "none.safetensors")]) == 2
    assert "none.safetensors" in capsys.readouterr().err
    assert embed_whisper.main([]) == 2


def test_int8_weights_without_their_scales_are_refused(tmp_path: Path) -> None:
    folder = save_whisper(tmp_path)
    state = weights.read_state(folder / "model.safetensors")
    name = next(name for name in state if name.endswith("fc1.weight"))
    save_file(state | {name: state[name].to(torch.int8)}, folder / "model.safetensors")
    with pytest.raises(ConfigError, match=rf"{name} has one byte a value, and {name}_scale is missing"):
        recogniser.load(str(folder))


def test_it_is_offline_multilingual_and_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    info = layout.describe("whisper-base")
    assert (info.name, info.window_seconds, len(info.languages)) == ("whisper-base", 30.0, 6)
    whisper = recogniser.load("whisper-base")
    noise = (np.random.default_rng(0).standard_normal(16_000) * 500).astype("<i2").tobytes()
    (result,) = whisper.recognise([Segment("noise", "en", noise)])
    assert result is not None
    assert result.confidence is not None


def test_everything_that_a_submitted_job_takes_along_stays_below_ray_s_100_mib(tmp_path: Path) -> None:
    """`ray job submit --working-dir .` zips the working directory and refuses more."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    names = [name for name in tracked.split("\0") if name and (ROOT / name).is_file()]
    if not names:
        names = [str(path.relative_to(ROOT)) for path in (ROOT / "pipeline").rglob("*") if path.is_file()]
    with zipfile.ZipFile(tmp_path / "job.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
        for name in names:
            packed.write(ROOT / name, name)
    assert (tmp_path / "job.zip").stat().st_size < 95 * 2**20
    assert sum(path.stat().st_size for path in layout.ASSETS.rglob("*") if path.is_file()) <= 90_000_000
