"""Transformers' `generate` ("stock") beside the engine in one run: same weights, same prompts, same steps."""

from __future__ import annotations

import copy
import gc
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from pipeline.benchmark import stock
from pipeline.benchmark.bound import measure_bound
from pipeline.benchmark.inputs import random_prompts, spread_segments
from pipeline.benchmark.measure import CtcClock, Meter, flop_of_encoder, flop_per_window, matmul_rate
from pipeline.benchmark.merging import measure_merging
from pipeline.benchmark.sizes import Size, build, trained
from pipeline.config import DenoiseConfig
from pipeline.model.denoise import noise
from pipeline.model.denoise.compiled import Calls, compilations
from pipeline.model.denoise.engine import Engine
from pipeline.model.denoise.lane import Lane, Prepared
from pipeline.model.denoise.scheduler import Embed, audio_prompts
from pipeline.model.files.layout import AsrConfig
from pipeline.model.network import backbone
from pipeline.model.recogniser import AsrModel
from pipeline.schemas import SAMPLE_RATE, Segment, SegmentResult

log = logging.getLogger(__name__)

Figures = dict[str, Any]
SAME_NOISE = 4  # windows whose tokens are compared
ENTROPY_BOUND, CONFIDENCE = 0.1, 0.005  # the published model's settings, for random weights too
GUIDANCE = 1.5  # denoise.guidance of the row that shows what it costs; any weight but 1 costs the same


@dataclass(frozen=True, slots=True)
class Way:
    """How the engine runs in one row.

    With refill, a slot gets the next window as soon as its window is done. Without it, `slots` windows are prefilled
    and start together, and the next ones start when all are done.
    """

    refill: bool = True
    canvas: Literal["auto"] | None = None  # denoise.canvas_length
    hide: bool = True  # whether the audio slots that only hold silence are left out of the prompts
    guidance: float = 1.0  # denoise.guidance
    audio: bool = False  # whether the prompts are made of audio, by the encoder

    def __str__(self) -> str:
        words = ["engine", "refill" if self.refill else "fixed batches"]
        words += ["auto canvas"] * (self.canvas == "auto") + ["no slot hidden"] * (not self.hide)
        words += ["with encoder"] * self.audio + [f"guidance {self.guidance:g}"] * (self.guidance != 1)
        return ", ".join(words)


FIXED_BATCHES, REFILL, AUTO = Way(refill=False), Way(), Way(canvas="auto")
ALL_SLOTS, AUTO_ALL_SLOTS = Way(hide=False), Way(hide=False, canvas="auto")
ENCODER, AUTO_ENCODER = Way(audio=True), Way(audio=True, canvas="auto")
GUIDED = Way(guidance=GUIDANCE)
AT_EQUAL_STEPS = (ALL_SLOTS, AUTO_ALL_SLOTS, ENCODER, AUTO_ENCODER, GUIDED)


class EverySlot(AsrConfig):
    """A model's config by which no audio slot is hidden, however short the segment is."""

    def real_slots(self, samples: int) -> int:
        del samples
        return self.audio_slots


class Bench:
    """One model on one device.

    Both sides get text prompts as long as an audio prompt. The audio encoder runs in rows that say so, for its time.
    """

    def __init__(
        self,
        size: Size,
        *,
        device: str,
        dtype: torch.dtype,
        compile: bool,
        windows: int | None,
        head: str = "torch",
        auto: bool = True,
        fp8: bool = False,
    ) -> None:
        """Build the model and measure the machine.

        Args:
            size: the numbers of the model and of the run.
            device: "cpu" or "cuda".
            dtype: of weights and activations.
            compile: whether the engine's calls are compiled.
            windows: how many windows both sides transcribe; None: as many as `size` says.
            head: `model.head` of the engine.
            auto: whether rows with canvas_length=auto are measured; each of their lengths is compiled.
            fp8: `model.weights=fp8`, for both sides. What merging LoRA saves is not measured then.
        """
        self.auto, self.fp8 = auto, fp8
        self.size, self.device, self.compile, self.head = size, device, compile, head
        self.windows = windows or size.windows
        self.matmul = matmul_rate(device, dtype)
        self.model: AsrModel = build(size, device=device, dtype=dtype, fp8=fp8)
        self.prompts = random_prompts(self.model, self.windows).to(device)
        self.segments = list(spread_segments(self.windows, *size.seconds))
        self.audio_seconds_mean = sum(len(s.pcm) for s in self.segments) / 2 / SAMPLE_RATE / self.windows

    def run(self) -> dict[str, Any]:
        """Measure all rows. Returns them with the figures that follow from them."""
        compiled = compilations()
        rows, merging = [self.same_noise()], {} if self.fp8 else self.merging_figures()
        best = {}
        for early in (False, True):
            stock_rows = list(self._stock_rows(early))
            best[early] = max((row["rtfx"] for row in stock_rows if row["rtfx"]), default=None)
            ours = [self.engine_row(way, early) for way in self._ways(early)]
            for row in (*stock_rows, *ours):
                row["ratio_to_stock_best"] = (
                    round(row["rtfx"] / best[early], 3) if row["rtfx"] and best[early] else None
                )
            rows += [*stock_rows, *ours]
        bound = self.bound_figures(best[False]) if self.device == "cpu" else {}
        return self._summary(rows) | {"graphs": compilations() - compiled} | merging | bound

    def _ways(self, early: bool) -> list[Way]:
        """The engine's rows. The kernel of `triton` has no guidance."""
        ways = [FIXED_BATCHES, REFILL, AUTO, *(() if early else AT_EQUAL_STEPS)]
        return [
            way for way in ways if (self.auto or way.canvas is None) and (way.guidance == 1 or self.head == "torch")
        ]

    def bound_figures(self, stock_best: float | None) -> dict[str, Any]:
        """How fast the engine with full slots is, compared with the bound of `measure_bound`, at equal steps.

        stock_best: the best rtfx of stock. Returns ratio_bound, the bound divided by it, and of_bound, the engine
        divided by the bound.
        """
        slots = min(self.size.slots, self.windows)
        denoise = self._denoise(early=False, canvas=None)
        bound = measure_bound(self.model, self.prompts[:slots], denoise, device=self.device, compile=self.compile)
        ours, least = bound.window(self.size.steps, slots)
        return {
            "of_bound": round(least / ours, 4),
            "ratio_bound": round(self.audio_seconds_mean / least / stock_best, 3) if stock_best else None,
            "seconds_of": asdict(bound),
        }

    def merging_figures(self) -> dict[str, Any]:
        """How many times faster prefill and denoising steps are with LoRA merged than with LoRA in every call."""
        slots = min(self.size.slots, self.windows)
        denoise = self._denoise(early=False, canvas=None)
        found = measure_merging(self.model, self.prompts[:slots], denoise, device=self.device, compile=self.compile)
        gc.collect()
        return {
            "lora_prefill_ratio": round(found.prefill_ratio, 3),
            "lora_step_ratio": round(found.step_ratio, 3),
            "lora_seconds": asdict(found),
        }

    def same_noise(self) -> Figures:
        """Both sides with the engine's noise, SAME_NOISE windows and all steps: the share of equal tokens."""
        denoise = self._denoise(early=False, canvas=None)
        prompts = self.prompts[:SAME_NOISE]
        keys = torch.tensor(
            [noise.row_keys(segment.key, 0) for segment in self.segments[: len(prompts)]], dtype=torch.int32
        )
        keys = keys.to(self.device)
        theirs = stock.generate_on_same_noise(self.model, prompts, denoise, keys)
        with torch.inference_mode():
            kv, _ = backbone.prefill(self.model.backbone, backbone.embed(self.model.backbone, prompts))
        rows = range(len(prompts))
        lane = Lane(self.model, slots=len(rows), canvas_length=self.model.config.canvas_length, denoise=denoise)
        for row in rows:
            lane.admit(Prepared(row, (int(keys[row, 0]), int(keys[row, 1])), kv, row))
        ours: dict[int, list[int]] = {}
        while lane.active:
            ours |= {done.job: done.canvas.tokens for done in lane.denoise_once() if done.canvas}
        equal = (torch.tensor([ours[row] for row in rows]) == theirs.cpu()).float().mean().item()
        return {
            "what": "same noise, tokens equal to stock",
            "steps": "equal",
            "head": "torch",
            "rtfx": None,
            "tokens_equal": equal,
            "windows": len(rows),
        }

    def stock_row(self, batch: int, early: bool) -> Figures:
        """`generate` at one batch size, with torch's own random numbers, which cost it less than the engine's."""
        denoise = self._denoise(early=early, canvas=None)
        count = self.windows if early else min(self.windows, max(8, 2 * batch))
        passes = [0]

        def count_rows(_module: object, arguments: tuple[Any, ...], kwargs: dict[str, Any], _output: object) -> None:
            given = kwargs.get("decoder_input_ids", arguments[0] if arguments else None)
            passes[0] += len(given)  # type: ignore[arg-type]

        stock.generate(self.model, self.prompts[:batch], denoise.model_copy(update={"max_steps": 1}))
        handle = self.model.backbone.model.decoder.register_forward_hook(count_rows, with_kwargs=True)
        try:
            with Meter(self.device) as meter:
                for start in range(0, count, batch):
                    stock.generate(self.model, self.prompts[start : min(start + batch, count)], denoise)
        finally:
            handle.remove()
        flop = count * flop_per_window(self.model, self.model.config.canvas_length, passes[0] / count)
        row = self._row("stock generate", early, batch, count, meter, flop)
        return row | {"row_steps": passes[0]}

    def engine_row(self, way: Way, early: bool) -> Figures:
        """The engine over all windows."""
        slots = min(self.size.slots, self.windows)
        model = self.model if way.hide else self._without_hiding()
        before = compilations()
        engine = Engine(
            model,
            self._denoise(early=early, canvas=way.canvas, guidance=way.guidance),
            slots=slots,
            prefill_batch=None if way.refill else slots,
            compile=self.compile,
            head=self.head,
            embed=self._embed_and_encode() if way.audio else self._embed,
        )
        graphs = compilations() - before
        engine.transcribe([Segment("warm", None, b"")])
        steps_before = engine.scheduler.row_steps
        at_once = self.windows if way.refill else slots
        results: list[SegmentResult] = []
        with CtcClock(self.device) as clock, Meter(self.device) as meter:
            for start in range(0, self.windows, at_once):
                results += engine.transcribe(self.segments[start : start + at_once])
        engine.close()
        flop = self.windows * flop_of_encoder(self.model) if way.audio else 0.0
        around = model.prompt_length - model.config.audio_slots
        for segment, result in zip(self.segments, results, strict=True):
            prompt = around + model.config.seen_slots(len(segment.pcm) // 2)
            flop += flop_per_window(
                self.model, result.canvas_length or 0, result.steps or 0, prompt=prompt, guided=way.guidance != 1
            )
        computed, needed = (after - then for after, then in zip(engine.scheduler.row_steps, steps_before, strict=True))
        return self._row(str(way), early, engine.scheduler.slots, self.windows, meter, flop) | {
            "head": engine.scheduler.head,
            "ctc_share": clock.seconds / meter.seconds,
            "row_steps": computed,
            "row_steps_needed": needed,
            "graphs": graphs,
            "recompilations": engine.scheduler.recompilations,
            "reruns": engine.reruns,
            "steps_mean": sum(result.steps or 0 for result in results) / len(results),
            "canvas_mean": sum(result.canvas_length or 0 for result in results) / len(results),
        }

    def _without_hiding(self) -> AsrModel:
        """The same modules with a config that hides no slot."""
        model = copy.copy(self.model)
        model.config = EverySlot.model_construct(**dict(self.model.config))
        return model

    def _stock_rows(self, early: bool) -> Iterator[Figures]:
        for batch in self.size.stock_batches:
            if batch > self.windows:
                return
            try:
                yield self.stock_row(batch, early)
            except torch.OutOfMemoryError:
                yield {
                    "what": "stock generate",
                    "steps": _steps(early),
                    "batch": batch,
                    "rtfx": None,
                    "error": "memory",
                }
                return
            finally:
                gc.collect()

    def _row(self, what: str, early: bool, batch: int, windows: int, meter: Meter, flop: float) -> Figures:
        """A row of figures. For rtfx a window has the mean length of ALL windows, so ratios of rtfx compare speed.

        flop: floating point operations of all windows; their time at the rate of matrix products gives ceiling_rtfx.
        """
        rate = windows / meter.seconds
        row = {
            "what": what,
            "steps": _steps(early),
            "batch": batch,
            "windows": windows,
            "seconds": round(meter.seconds, 4),
            "wall_seconds": round(meter.wall_seconds, 4),
            "windows_per_second": rate,
            "rtfx": rate * self.audio_seconds_mean,
            "rtfx_full_windows": rate * self.model.config.window_seconds,
            "peak_mb": round(meter.peak_mb, 1),
            "ceiling_rtfx": self.audio_seconds_mean * windows * self.matmul / flop,
            "mfu": flop / meter.seconds / self.matmul,
        }
        log.info("%s", row)
        return row

    def _denoise(self, *, early: bool, canvas: Literal["auto"] | None, guidance: float = 1.0) -> DenoiseConfig:
        """The model's own defaults, but for what the benchmark sets."""
        defaults = self.model.config.defaults
        own = {
            "max_steps": self.size.steps,
            "canvas_length": canvas,
            "entropy_bound": ENTROPY_BOUND,
            "confidence_threshold": CONFIDENCE,
            "early_stop": early,
            "guidance": guidance,
        }
        return DenoiseConfig.model_validate((defaults.denoise if defaults else {}) | own)

    def _embed(self, segments: Sequence[Segment]) -> Tensor:
        rows = [int(segment.key) if segment.key.isdigit() else 0 for segment in segments]
        return backbone.embed(self.model.backbone, self.prompts[rows])

    def _embed_and_encode(self) -> Embed:
        calls = Calls.make(compile=self.compile)

        def embed(segments: list[Segment]) -> Tensor:
            audio_prompts(self.model, calls, segments)  # of random weights: for its time alone
            return self._embed(segments)

        return embed

    def _summary(self, rows: list[Figures]) -> dict[str, Any]:
        found = {(row["what"], row["steps"]): row for row in rows}

        def of(way: Way, early: bool = False) -> Figures | None:
            return found.get((str(way), _steps(early)))

        def times(one: Way, other: Way) -> float | None:
            """How many times faster one way is than the other, at equal steps."""
            first, second = of(one), of(other)
            return round(first["rtfx"] / second["rtfx"], 3) if first and second else None

        engine_rows = [row for row in rows if row["what"].startswith("engine")]
        adaptive, auto = found[str(REFILL), "adaptive"], of(AUTO, True)
        return {
            "size": self.size.name,
            "parameters": sum(p.numel() for p in self.model.backbone.parameters()),
            "device": torch.cuda.get_device_name() if self.device.startswith("cuda") else "cpu",
            "clock": "wall" if self.device.startswith("cuda") else "processor seconds of this process",
            "threads": torch.get_num_threads(),
            "dtype": str(self.model.backbone.lm_head.weight.dtype).removeprefix("torch."),
            "fp8": self.fp8,
            "compile": self.compile,
            "torch": torch.__version__,
            "prompt_length": self.model.prompt_length,
            "canvas_length": self.model.config.canvas_length,
            "max_steps": self.size.steps,
            "window_seconds": self.model.config.window_seconds,
            "audio_seconds_mean": self.audio_seconds_mean,
            "matmul_gflops": self.matmul / 1e9,
            "weights": "trained" if trained(self.size.name) else "random",
            "tokens_equal": rows[0]["tokens_equal"],
            "tokens_equal_windows": rows[0]["windows"],
            "ratio_to_stock_best": found[str(REFILL), "equal"]["ratio_to_stock_best"],
            "ratio_to_stock_best_adaptive": adaptive["ratio_to_stock_best"],
            "ratio_to_stock_best_auto": auto and auto["ratio_to_stock_best"],
            "row_step_overhead": adaptive["row_steps"] / adaptive["row_steps_needed"],
            "row_step_overhead_auto": auto and auto["row_steps"] / auto["row_steps_needed"],
            "hiding_ratio": times(REFILL, ALL_SLOTS),
            "hiding_ratio_auto": times(AUTO, AUTO_ALL_SLOTS),
            "encoder_cost": times(REFILL, ENCODER),
            "guidance_cost": times(REFILL, GUIDED),
            "ctc_share": found[str(REFILL), "equal"]["ctc_share"],
            "recompilations": sum(row["recompilations"] for row in engine_rows),
            "rows": rows,
        }


def _steps(early: bool) -> str:
    return "adaptive" if early else "equal"
