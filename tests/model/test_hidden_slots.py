"""Audio slots that only hold silence padding are left out: exactly what transformers computes with a mask."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pipeline.config import DenoiseConfig
from pipeline.model.denoise import noise
from pipeline.model.denoise.engine import Engine
from pipeline.model.network import backbone
from pipeline.model.network.backbone import PromptKV
from pipeline.model.recogniser import AsrModel
from pipeline.schemas import SegmentResult
from tests.support.small_model import hearing_model, noise_segment, random_model

REAL = (7, 4, 1, 6)


@pytest.fixture(scope="module")
def model() -> AsrModel:
    return random_model(1, canvas_length=8)


def masked(model: AsrModel, prompts: Tensor, canvas: Tensor) -> Tensor:
    """Transformers' logits of a first step, with zeros in the mask of the hidden slots."""
    mask = torch.ones(prompts.shape, dtype=torch.int64)
    for row, real in enumerate(REAL):
        mask[row, model.audio_start + real : model.audio_start + model.config.audio_slots] = 0
    seen = torch.cat([mask, torch.ones(canvas.shape, dtype=torch.int64)], dim=1)
    logits: Tensor = model.backbone(
        input_ids=prompts, attention_mask=mask, decoder_input_ids=canvas, decoder_attention_mask=seen
    ).logits
    return logits


def left_out(model: AsrModel, prompts: Tensor) -> PromptKV:
    real = torch.tensor(REAL)
    kept = model.prompt_length - model.config.audio_slots + real
    width = int(kept.max()) + 1  # one of padding for every row
    positions = model.real_positions(real, model.prompt_length, width)
    embeds = backbone.at(backbone.embed(model.backbone, prompts), positions)
    kv, _ = backbone.prefill(model.backbone, embeds, positions)
    return PromptKV(kv.layers, start=model.prompt_length, seen=torch.arange(width)[None] < kept[:, None])


def test_leaving_slots_out_equals_masking_them(model: AsrModel) -> None:
    generator = torch.Generator().manual_seed(0)
    prompts, canvas = (
        torch.randint(20, model.config.vocab_size, (len(REAL), length), generator=generator)
        for length in (model.prompt_length, 8)
    )
    soft = torch.zeros(len(REAL), 8, model.config.hidden_size)
    hidden = backbone.denoise(model.backbone, canvas, soft, left_out(model, prompts))
    logits = backbone.softcapped_logits(model.backbone, hidden)
    expected = masked(model, prompts, canvas)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    other = prompts.clone()
    other[1, model.audio_start + 6] = 20  # hidden in row 1
    torch.testing.assert_close(masked(model, other, canvas), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("samples", "slots"), [(0, 1), (2560, 1), (2561, 2), (5120, 2), (16000, 7), (99999, 7)])
def test_a_slot_is_real_where_it_has_sound(model: AsrModel, samples: int, slots: int) -> None:
    """A slot is 160 ms: 2,560 samples. The window has one second and 7 slots."""
    assert model.config.real_slots(samples) == slots


def test_segments_of_all_lengths_together_give_what_each_gives_alone() -> None:
    model = hearing_model(2)
    segments = [noise_segment(n, seconds=seconds) for n, seconds in enumerate((0.05, 0.3, 0.31, 0.5, 0.77, 1.0, 0.02))]

    def recognised(slots: int, one_by_one: bool) -> list[SegmentResult]:
        engine = Engine(model, DenoiseConfig(max_steps=8, entropy_bound=2.0, confidence_threshold=0.2), slots=slots)
        if one_by_one:
            results = [engine.transcribe([segment])[0] for segment in segments]
        else:
            results = engine.transcribe(segments)
        engine.close()
        return results

    alone, together = recognised(1, True), recognised(4, False)
    assert [result.text for result in together] == [result.text for result in alone]
    assert [result.steps for result in together] == [result.steps for result in alone]
    assert len({result.text for result in alone}) > 3


def test_a_model_that_was_trained_to_see_silence_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints that do not say `prompt.silence` were. Zeros behind a segment change nothing for them."""
    model = hearing_model(2)
    segments = [noise_segment(n, seconds=0.3) for n in range(4)]
    window = model.config.window_samples
    padded = [replace(one, pcm=bytes(one.pcm).ljust(2 * window, b"\0")) for one in segments]
    # The noise follows from the samples: here it follows from those before the padding.
    name = noise.sound_key
    monkeypatch.setattr(noise, "sound_key", lambda pcm: name(bytes(pcm).rstrip(b"\0")))
    same = {}
    for silence in ("seen", "hidden"):
        prompt = model.config.prompt.model_copy(update={"silence": silence})
        model.config = model.config.model_copy(update={"prompt": prompt})
        engine = Engine(model, DenoiseConfig(max_steps=8, entropy_bound=2.0), slots=4)
        texts = [[result.text for result in engine.transcribe(rows)] for rows in (segments, padded)]
        engine.close()
        same[silence] = texts[0] == texts[1]
    assert same == {"seen": True, "hidden": False}
