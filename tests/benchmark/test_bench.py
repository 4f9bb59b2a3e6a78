"""jobs.bench engine: the figures it writes, the weights it runs, the arithmetic behind MFU."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from jobs import bench as job
from pipeline.benchmark import compare, inputs, measure, sizes
from pipeline.model.denoise import ctc, scheduler
from pipeline.model.files import layout
from pipeline.model.network import backbone
from pipeline.model.new_model import SizeSection
from pipeline.model.recogniser import AsrModel
from tests.support.allocations import Allocations


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> sizes.Size:
    section = SizeSection(
        window_seconds=1.0, canvas_length=16, hidden=64, heads=4, layers=2, mlp=96, experts=4, experts_per_token=2,
        expert_mlp=48, projector_hidden=48,
    )  # fmt: skip
    config = sizes.config_named("small", section, vocab=420)
    size = sizes.Size("small", config, steps=3, windows=5, stock_batches=(1, 2, 9), slots=2, seconds=(0.15, 1.0))
    monkeypatch.setattr(sizes, "size_named", lambda _: size)
    return size


@pytest.mark.usefixtures("small")
def test_figures_hold_every_row_and_ratio(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, table = tmp_path / "figures" / "bench.json", tmp_path / "table.md"
    assert job.main(["engine", "--json", str(path), "--markdown", str(table)]) == 0
    figures = json.loads(path.read_text())
    shown = [(row["what"], row["steps"], row["batch"]) for row in figures["rows"][1:]]
    both = [
        ("stock generate", 1),
        ("stock generate", 2),
        ("engine, fixed batches", 2),
        ("engine, refill", 2),
        ("engine, refill, auto canvas", 2),
    ]
    equal = [
        ("engine, refill, no slot hidden", 2),
        ("engine, refill, auto canvas, no slot hidden", 2),
        ("engine, refill, with encoder", 2),
        ("engine, refill, auto canvas, with encoder", 2),
        ("engine, refill, guidance 1.5", 2),
    ]
    assert shown == [
        (what, steps, batch) for steps, of in (("equal", both + equal), ("adaptive", both)) for what, batch in of
    ]
    rows = {(row["what"], row["steps"], row.get("batch")): row for row in figures["rows"]}
    best = max(rows["stock generate", "equal", batch]["rtfx"] for batch in (1, 2))
    refill = rows["engine, refill", "equal", 2]
    assert figures["ratio_to_stock_best"] == pytest.approx(refill["rtfx"] / best, abs=1e-3)
    assert refill["row_steps_needed"] == 5 * 3 == rows["stock generate", "equal", 1]["row_steps"]
    assert figures["recompilations"] == 0
    assert {row.get("head") for row in figures["rows"] if row["what"].startswith("engine")} == {"torch"}
    assert {row.get("head") for row in figures["rows"] if row["what"].startswith("stock")} == {None}
    seconds = figures["lora_seconds"]
    assert figures["lora_prefill_ratio"] == round(seconds["prefill"] / seconds["prefill_merged"], 3)
    assert figures["lora_step_ratio"] == round(seconds["step"] / seconds["step_merged"], 3)
    assert f"denoising step {figures['lora_step_ratio']} times as fast" in table.read_text()
    assert figures["row_step_overhead"] == figures["row_step_overhead_auto"] == 1.0
    for row in figures["rows"][1:]:
        assert row["rtfx"] == pytest.approx(row["windows_per_second"] * figures["audio_seconds_mean"])
        assert row["rtfx_full_windows"] == pytest.approx(row["windows_per_second"] * 1.0)
    ratio = refill["windows_per_second"] / max(
        rows["stock generate", "equal", batch]["windows_per_second"] for batch in (1, 2)
    )
    assert figures["ratio_to_stock_best"] == pytest.approx(ratio, abs=1e-3)  # whichever windows stock ran
    for ratio, slower in (
        ("hiding_ratio", "no slot hidden"), ("encoder_cost", "with encoder"), ("guidance_cost", "guidance 1.5")
    ):  # fmt: skip
        other = rows[f"engine, refill, {slower}", "equal", 2]
        assert figures[ratio] == pytest.approx(refill["rtfx"] / other["rtfx"], abs=1e-3)
    assert 0 < figures["ctc_share"] == refill["ctc_share"] < 1
    for row in figures["rows"][1:]:
        assert row["ceiling_rtfx"] == pytest.approx(row["rtfx"] / row["mfu"])
    assert f"CTC takes {figures['ctc_share']:.1%} of the engine's time" in table.read_text()
    assert figures["tokens_equal"] == 1.0  # same noise, same weights: token for token
    assert all(row["mfu"] > 0 for row in figures["rows"][1:])
    assert "| engine, refill, auto canvas | adaptive |" in table.read_text()
    assert "checked on 4 windows at equal steps; in the timed rows stock draws from torch's own" in table.read_text()
    assert table.read_text().strip() == capsys.readouterr().out.strip()


@pytest.mark.usefixtures("small")
def test_both_sides_run_in_fp8(capsys: pytest.CaptureFixture[str]) -> None:
    assert job.main(["engine", "--weights", "fp8", "--no-auto"]) == 0
    printed = capsys.readouterr().out
    assert "weights in FP8" in printed
    assert "tokens equal on the same noise 100.0%" in printed
    assert "LoRA" not in printed


def test_random_weights_in_fp8_have_the_size_of_others(small: sizes.Size) -> None:
    plain, stored = (sizes.build(small, device="cpu", dtype=torch.float32, fp8=fp8) for fp8 in (False, True))
    for path in ("mlp.up_proj.weight", "experts.gate_up_proj", "experts.down_proj"):
        one, other = (model.backbone.model.decoder.layers[0].get_parameter(path) for model in (plain, stored))
        assert other.dtype == torch.float8_e4m3fn
        scale = stored.backbone.model.decoder.layers[0].get_parameter(f"{path}_scale")
        assert (other.float() * scale).std().item() == pytest.approx(one.std().item(), rel=0.05)
    assert stored.backbone.model.decoder.layers[0].self_attn.q_proj.weight.dtype == torch.float32


def test_fixed_batches_start_together_and_are_not_refilled(small: sizes.Size, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes_of: list[int] = []
    prefill = backbone.prefill

    def counted(model: object, embeds: torch.Tensor, positions: torch.Tensor) -> object:
        sizes_of.append(len(embeds))
        return prefill(model, embeds, positions)

    bench = compare.Bench(small, device="cpu", dtype=torch.float32, compile=False, windows=5)
    monkeypatch.setattr(backbone, "prefill", counted)
    row = bench.engine_row(compare.FIXED_BATCHES, early=False)
    assert sizes_of == [1, 2, 2, 1]  # to warm up, then five windows in batches of two
    assert row["row_steps"] == 5 * 3


def test_cuda_without_a_device_is_a_usage_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert job.main(["engine", "--device", "cuda"]) == 2
    assert capsys.readouterr().err == "--device cuda: torch finds no CUDA device\n"


def test_a_head_that_the_device_cannot_run_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert job.main(["engine", "--head", "triton"]) == 2
    assert capsys.readouterr().err == "--head triton: it needs a CUDA device, the model is on cpu\n"


def test_weights_made_in_place_have_the_buffers_of_an_ordinary_model(small: sizes.Size) -> None:
    made = sizes.build(small, device="cpu", dtype=torch.float32)
    ordinary = backbone.build(small.config.backbone)
    expected = {name: buffer for name, buffer in ordinary.named_buffers() if "vision" not in name}
    found = dict(made.backbone.named_buffers())
    assert len(expected) > 6
    for name, buffer in expected.items():
        assert torch.equal(found[name], buffer), name
    assert made.backbone.lm_head.weight is made.backbone.model.decoder.embed_tokens.weight
    assert all(bool(parameter.isfinite().all()) for parameter in made.parameters())
    for encoder, decoder in zip(
        made.backbone.model.encoder.language_model.layers, made.backbone.model.decoder.layers, strict=True
    ):
        shared = dict(encoder.named_parameters())
        for name, weight in decoder.named_parameters():
            assert shared[name].data_ptr() == weight.data_ptr(), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_random_weights_are_allocated_once(
    small: sizes.Size, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizes, "PERIOD", 9973)  # as small beside this model as the real one beside the full size
    with Allocations() as made:
        model = sizes.build(small, device="cpu", dtype=dtype)
    weights = sum(parameter.nbytes for parameter in model.parameters())
    assert made.peak <= 1.1 * weights


@pytest.mark.parametrize(("name", "parameters"), [("cpu300m", 306.7e6), ("full", 25.2e9)])
def test_sizes_are_what_they_are_called(name: str, parameters: float) -> None:
    config = sizes.size_named(name).config
    with torch.device("meta"):
        model = AsrModel(config, sizes.tokenizer_for(config))
    assert sum(p.numel() for p in model.backbone.parameters()) == pytest.approx(parameters, rel=0.01)


def test_the_full_size_is_the_released_model_at_its_published_setting() -> None:
    """13 s a segment, 8 steps, canvas 192. Only the end tokens differ, so that texts of random weights end."""
    size, released = sizes.size_named("full"), layout.read_config(layout.ASSETS / layout.FULL_SIZE)
    tokens = size.config.tokens.model_copy(update={"eos": released.tokens.eos})
    assert size.config.model_copy(update={"tokens": tokens}) == released
    assert (size.steps, size.config.canvas_length, sum(size.seconds) / 2) == (8, 192, 13.0)
    seconds = [len(segment.pcm) / 32_000 for segment in inputs.spread_segments(100, *size.seconds)]
    assert (min(seconds), max(seconds)) == pytest.approx((11.5, 14.5), abs=0.05)
    with torch.device("meta"):
        model = AsrModel(size.config, sizes.tokenizer_for(size.config))
    # <bos>, Transcribe, the, speech, ".", begin of audio; 188 slots; end of audio
    assert (model.audio_start, model.prompt_length) == (6, 6 + 188 + 1)


def small_released() -> sizes.Size:
    """The released model's config, with small numbers: its prompt, its LoRA, its defaults."""
    full, small = sizes.size_named("full"), sizes.config_named("small", SizeSection(hidden=64, layers=2), vocab=420)
    marks = {"begin_audio": 4, "audio": 5, "end_audio": 6}
    smaller = {name: getattr(small, name) for name in ("projector", "backbone")}
    smaller["encoder"] = layout.EncoderSpec(d_model=32, layers=1, heads=2, ffn=64)
    tokens = full.config.tokens.model_copy(update={"eos": small.tokens.eos, **marks})
    smaller |= {"canvas_length": 16, "tokens": tokens}
    config = full.config.model_copy(update=smaller)
    return replace(full, config=config, steps=2, windows=2, stock_batches=(1,), slots=2)


def test_the_released_shape_runs_with_lora_merged(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    size = small_released()
    monkeypatch.setattr(sizes, "size_named", lambda _: size)
    assert job.main(["engine", "--size", "full"]) == 0
    printed = capsys.readouterr().out
    assert "tokens equal on the same noise 100.0%" in printed
    assert "| engine, refill, auto canvas, no slot hidden | equal |" in printed
    assert "goal on one H100, with encoder: 440 times real time" in printed


def test_arithmetic_of_a_window_by_hand(small: sizes.Size) -> None:
    model = sizes.build(small, device="cpu", dtype=torch.float32)
    prompt = model.prompt_length
    # a layer: q, o 64 x 64; k, v 64 x 32 (global: k is v); router 64 x 4; MLP 3 x 64 x 96; 2 experts of 3 x 64 x 48
    weights = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 64 * 4 + 3 * 64 * 96 + 2 * 3 * 64 * 48) - 64 * 32
    attention = 2 * 2 * 64  # per key: q k and p v in two layers
    conditioning = 3 * 64 * 96 + 64
    step = 16 * (2 * (weights + conditioning + attention * (prompt + 16)) + 4 * 64 * 420)
    prefill = prompt * 2 * (weights + attention * prompt / 2)
    assert measure.flop_per_window(model, 16, 3) == pytest.approx(prefill + 3 * step, rel=1e-9)
    once_more = step - 16 * 2 * 64 * 420  # guidance: all but the soft embeddings
    assert measure.flop_per_window(model, 16, 3, guided=True) == pytest.approx(
        prefill + 3 * (step + once_more), rel=1e-9
    )
    fewer = prompt - 4  # positions of the prompt with four slots of silence left out
    prefill = fewer * 2 * (weights + attention * fewer / 2)
    step -= 16 * 2 * attention * 4
    assert measure.flop_per_window(model, 16, 3, prompt=fewer) == pytest.approx(prefill + 3 * step, rel=1e-9)


def test_arithmetic_of_the_encoder_by_hand(small: sizes.Size) -> None:
    """whisper-base over one second: 50 positions of 512, 6 layers; then the projector's Linear and convolutions."""
    model = sizes.build(small, device="cpu", dtype=torch.float32)
    convolutions = 2 * (100 * 80 * 512 * 3 + 50 * 512 * 512 * 3)
    layers = 6 * (2 * 50 * (4 * 512 * 512 + 2 * 512 * 2048) + 2 * 2 * 50 * 50 * 512)
    projector = 2 * (50 * 512 * 48 + (25 + 13 + 7) * 48 * 48 * 3 + 7 * 48 * 64)
    assert measure.flop_of_encoder(model) == convolutions + layers + projector


def test_the_ctc_clock_counts_both_parts_of_the_head_and_nothing_afterwards(small: sizes.Size) -> None:
    model = sizes.build(small, device="cpu", dtype=torch.float32)
    weight = model.backbone.lm_head.weight
    with measure.CtcClock("cpu") as clock:
        best, mass = scheduler.score_slots(torch.randn(400, 64), weight)
        scored = clock.seconds
        assert scored > 0
        ctc.hypothesis(ctc.SlotScores(torch.randn(400, 64), best, mass), weight, [5, 6, 7] * 20, "", blank=0)
        both = clock.seconds
        assert both > scored
    scheduler.score_slots(torch.randn(400, 64), weight)
    assert clock.seconds == both


def test_no_slot_is_hidden_in_the_rows_that_say_so(small: sizes.Size, monkeypatch: pytest.MonkeyPatch) -> None:
    scored: list[int] = []
    score = scheduler.score_slots

    def counted(vectors: torch.Tensor, weight: torch.Tensor) -> object:
        scored.append(len(vectors))
        return score(vectors, weight)

    bench = compare.Bench(
        replace(small, seconds=(0.2, 0.2)), device="cpu", dtype=torch.float32, compile=False, windows=4
    )
    monkeypatch.setattr(scheduler, "score_slots", counted)
    for way, slots in ((compare.REFILL, 2), (compare.AUTO_ALL_SLOTS, 7)):  # 0.2 s are 2 of the 7 slots of 1 s
        scored.clear()
        bench.engine_row(way, early=False)
        assert set(scored[1:]) == {slots}  # the first one warms up


def test_segments_spread_from_15_to_100_percent_of_the_window() -> None:
    seconds = [len(segment.pcm) / 32_000 for segment in inputs.spread_segments(100, 4.5, 30.0)]
    assert 4.5 <= min(seconds) < 5.0
    assert 29.0 < max(seconds) <= 30.0
    assert sum(seconds) / 100 == pytest.approx(0.575 * 30, rel=0.02)


def test_meter_counts_processor_time_and_memory_of_the_block() -> None:
    with measure.Meter("cpu") as meter:
        block = torch.ones(8_000_000)  # 32 MB
        block.sum()
    assert meter.seconds > 0
    assert meter.wall_seconds > 0
    with measure.Meter("cpu") as idle:
        pass
    assert idle.seconds < meter.seconds


def test_ctc_hears_in_the_prompts_as_many_tokens_as_in_speech(small: sizes.Size) -> None:
    """2.3 to 4.6 a second, so that canvases of `auto` are as long as with speech."""
    model = sizes.build(small, device="cpu", dtype=torch.float32)
    prompts = inputs.random_prompts(model, 400)
    vectors = backbone.embed(model.backbone, prompts)[
        :, model.audio_start : model.audio_start + model.config.audio_slots
    ]
    best, mass = ctc.score_slots(vectors.flatten(0, 1), model.backbone.lm_head.weight)
    slots = [ctc.SlotScores(vectors[0], row, mass) for row in best.view(400, -1)]
    heard = [len(ctc.greedy(one, blank=model.config.tokens.ctc_blank)) for one in slots]
    assert 2.8 <= sum(heard) / 400 / model.config.window_seconds <= 4.2
