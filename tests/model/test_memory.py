"""Memory computed beforehand: exact for what is allocated once; one line where there is too little."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.config import ConfigError, DenoiseConfig, RunConfig
from pipeline.config_file import load
from pipeline.model import memory
from pipeline.model.denoise.compiled import Calls, prompt_widths
from pipeline.model.denoise.lane import Lane
from pipeline.model.files import checkpoint, layout
from pipeline.model.memory import GIB
from pipeline.model.network import float8
from pipeline.model.recogniser import AsrModel
from tests.model.test_full_size import tokenizer
from tests.support.small_model import hearing_model

DENOISE = DenoiseConfig()


@pytest.fixture(scope="module")
def full() -> AsrModel:
    with torch.device("meta"):
        return AsrModel(layout.read_config(layout.ASSETS / layout.FULL_SIZE), tokenizer())


def test_weights_kv_and_canvases_are_what_is_allocated() -> None:
    model = hearing_model(3)
    slots = 4
    needed = memory.estimate(model, DENOISE, slots=slots, dtype=torch.float32)
    assert needed.weights == sum(weight.nbytes for weight in model.parameters())
    lane = Lane(model, slots=slots, canvas_length=8, denoise=DENOISE, calls=Calls.make(compile=False))
    kv = sum(layer.keys.nbytes + layer.values.nbytes for layer in lane.kv.layers)
    position = kv // (slots * lane.widths[-1])
    batch_width = prompt_widths(model.prompt_length, model.config.audio_slots, 0, static=False)[-1]
    assert needed.kv == kv + 2 * batch_width * position  # and two batches of one prompt
    state = (lane.soft, lane.canvas, lane.argmax, lane.stable_since, lane.revisions)
    vectors = (slots + 2) * model.config.audio_slots * (4 * model.config.hidden_size + 12)
    allocated = sum(tensor.nbytes for tensor in state) + vectors
    assert allocated <= needed.canvases <= 1.2 * allocated


def test_the_full_size_in_bfloat16_is_51_gigabytes_and_fits_an_80_gb_gpu_with_64_canvases(full: AsrModel) -> None:
    """Measured on one H100 (79.1 GiB): a canvas of 256 ran with 64 slots."""
    needed = memory.estimate(full, DenoiseConfig(canvas_length=256), slots=64, dtype=torch.bfloat16)
    assert 50.5e9 < needed.weights < 52.5e9
    # q and o of 16 heads; k and v of 8, in a global layer k of 2: once more, because LoRA is merged
    assert needed.lora == 2 * 2816 * (25 * (2 * 16 * 256 + 2 * 8 * 256) + 5 * (2 * 16 * 512 + 2 * 512)) == 2_220_359_680
    # 25 layers of 8 x 256 and 5 of 2 x 512, keys and values, 2 bytes
    prompt = -(-full.prompt_length // 8) * 8
    assert needed.kv == (64 + 2 * 16) * prompt * 2 * 2 * (25 * 2048 + 5 * 1024)
    assert needed.total < 79.1 * GIB
    memory.require(needed, int(79.1 * GIB), slots=64)


def test_in_training_lora_is_counted_as_it_is(full: AsrModel) -> None:
    needed = memory.estimate(full, DENOISE, slots=1, dtype=torch.bfloat16, merge=False)
    assert needed.lora == 2 * 22_978_560
    assert "lora 2.1" in str(memory.estimate(full, DENOISE, slots=1, dtype=torch.bfloat16))


def test_more_slots_take_more(full: AsrModel) -> None:
    totals = [memory.estimate(full, DENOISE, slots=n, dtype=torch.bfloat16).total for n in (1, 16, 64, 256)]
    assert totals == sorted(totals)
    lanes = memory.estimate(full, DenoiseConfig(canvas_length="auto"), slots=64, dtype=torch.bfloat16)
    assert lanes.kv > memory.estimate(full, DENOISE, slots=64, dtype=torch.bfloat16).kv


def test_too_little_memory_is_one_line_with_its_parts_and_a_number_that_fits(full: AsrModel) -> None:
    free = int(70 * GIB)
    with pytest.raises(ConfigError) as raised:
        memory.require(memory.estimate(full, DENOISE, slots=1024, dtype=torch.bfloat16), free, slots=1024)
    message = str(raised.value)
    assert "\n" not in message
    assert all(word in message for word in ("compute.canvases: 1024", "weights", "kv", "head", "70.0 GiB are free"))
    fit = int(message.split("compute.canvases=")[1].split()[0])
    memory.require(memory.estimate(full, DENOISE, slots=fit, dtype=torch.bfloat16), free, slots=fit)


def test_weights_that_do_not_fit_at_all_are_one_line(full: AsrModel) -> None:
    with pytest.raises(ConfigError, match="no number of canvases fits"):
        memory.require(memory.estimate(full, DENOISE, slots=8, dtype=torch.bfloat16), 40 * GIB, slots=8)


def test_weights_in_fp8_are_counted_as_they_are_allocated_and_printed_beforehand(tmp_path: Path) -> None:
    checkpoint.save(hearing_model(3), tmp_path)
    loaded = checkpoint.load(str(tmp_path), dtype=torch.bfloat16, fp8=True)
    words = [f"model.name={tmp_path}", "model.weights=fp8", "model.dtype=bfloat16", "model.device=cpu"]
    needed = memory.beforehand(load(RunConfig, None, ["source.uri=in", "output.uri=out", *words]))
    assert needed.weights == sum(weight.nbytes for weight in loaded.parameters())
    assert needed.weights == memory.estimate(loaded, DENOISE, slots=1, dtype=torch.bfloat16).weights
    layer = loaded.backbone.model.decoder.layers[0]
    bare = needed.activations - layer.experts.gate_up_proj.numel() * 2  # made anew in bfloat16, one layer at a time
    slots = load(RunConfig, None, ["source.uri=in", "output.uri=out"]).compute.canvases
    assert bare == memory.estimate(hearing_model(3), DENOISE, slots=slots, dtype=torch.bfloat16).activations


def test_the_full_size_in_fp8_is_27_gigabytes_and_fits_a_48_gb_gpu_with_64_canvases() -> None:
    """Without LoRA's projections, which stay in bfloat16, and with embeddings of 1.5 GB."""
    for kernels in (float8.Kernels(linear=True, experts=True), float8.Kernels()):
        with torch.device("meta"):
            model = AsrModel(layout.read_config(layout.ASSETS / layout.FULL_SIZE), tokenizer())
            float8.convert(model.backbone, kernels)
        needed = memory.estimate(model, DENOISE, slots=64, dtype=torch.bfloat16)
        assert 27e9 < needed.weights < 28e9
        memory.require(needed, int(44.5 * GIB), slots=64)
