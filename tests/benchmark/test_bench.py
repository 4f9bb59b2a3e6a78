"""jobs.bench engine: the figures it writes, the weights it runs, the arithmetic behind MFU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from jobs import bench as job
from pipeline.benchmark import compare, measure, sizes
from pipeline.model.network import backbone
from pipeline.model.new_model import SizeSection, train_tokenizer
from pipeline.model.recogniser import AsrModel
from tests.support.allocations import Allocations


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> sizes.Size:
    section = SizeSection(
        window_seconds=1.0, canvas_length=16, hidden=64, heads=4, layers=2, mlp=96, experts=4, experts_per_token=2,
        expert_mlp=48, projector_hidden=48,
    )  # fmt: skip
    config = sizes.config_named("small", section, vocab=420)
    size = sizes.Size("small", config, steps=3, windows=5, stock_batches=(1, 2, 9), slots=2)
    monkeypatch.setattr(sizes, "size_named", lambda _: size)
    return size


@pytest.mark.usefixtures("small")
def test_figures_hold_every_row_and_ratio(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, table = tmp_path / "figures" / "bench.json", tmp_path / "table.md"
    assert job.main(["engine", "--json", str(path), "--markdown", str(table)]) == 0
    figures = json.loads(path.read_text())
    shown = [(row["what"], row["steps"], row["batch"]) for row in figures["rows"][1:]]
    half = [
        ("stock generate", 1),
        ("stock generate", 2),
        ("engine, fixed batches", 2),
        ("engine, refill", 2),
        ("engine, refill, auto canvas", 2),
    ]
    assert shown == [(what, steps, batch) for steps in ("equal", "adaptive") for what, batch in half]
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

    def counted(model: object, embeds: torch.Tensor) -> object:
        sizes_of.append(len(embeds))
        return prefill(model, embeds)

    bench = compare.Bench(small, device="cpu", dtype=torch.float32, compile=False, windows=5)
    monkeypatch.setattr(backbone, "prefill", counted)
    row = bench.engine_row("engine, fixed batches", False, refill=False, canvas=None)
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
        model = AsrModel(config, train_tokenizer(["la le li lo lu"], 300))
    assert sum(p.numel() for p in model.backbone.parameters()) == pytest.approx(parameters, rel=0.01)
    assert name != "full" or (model.prompt_length, config.canvas_length) == (208, 256)  # as in facts/model.md


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


def test_segments_spread_from_15_to_100_percent_of_the_window() -> None:
    seconds = [len(segment.pcm) / 32_000 for segment in compare.spread_segments(100, 30.0)]
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
