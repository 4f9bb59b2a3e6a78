"""The figures of the engine's benchmark as a Markdown table."""

from __future__ import annotations

from typing import Any

COLUMNS = {
    "what": "{}",
    "steps": "{}",
    "batch": "{}",
    "head": "{}",
    "windows_per_second": "{:.3g}",
    "rtfx": "{:.1f}",
    "rtfx_full_windows": "{:.1f}",
    "ratio_to_stock_best": "{:.2f}",
    "row_steps": "{}",
    "row_steps_needed": "{}",
    "peak_mb": "{:.0f}",
    "graphs": "{}",
    "recompilations": "{}",
    "ctc_share": "{:.1%}",
    "ceiling_rtfx": "{:.0f}",
    "mfu": "{:.1%}",
}

RANDOM_WEIGHTS = (
    "the weights are random: after the first step one rounding changes a whole canvas, so few tokens may be equal; "
    "tests/model/test_engine_equals_generate.py and the trained size check equality"
)

AUTO = (
    "with auto canvas {ratio_to_stock_best_auto} times stock's best, adaptive; row-step overhead "
    "{row_step_overhead_auto:.3f}"
)
BOUND = (
    "matrix products, attention, tanh, exp and gelu alone would be {ratio_bound} times stock's best at equal steps on "
    "this machine; the engine's full slots reach {of_bound:.1%} of that, measured in turns"
)
HIDDEN = "leaving the slots of silence out of the prompts makes the engine {hiding_ratio} times as fast at equal steps"
HIDDEN_AUTO = ", {hiding_ratio_auto} times with auto canvas"
CTC = (
    "CTC takes {ctc_share:.1%} of the engine's time; the audio encoder would make a window {encoder_cost} times as long"
)
GUIDED = "guidance makes a window {guidance_cost} times as long"
CEILING = (
    "ceiling_rtfx: the operations of a row's windows at the rate of matrix products, without CTC and, but for the rows "
    "with it, without the audio encoder; mfu is the share of it that the row reaches"
)
GRAPHS = (
    "{graphs} graphs were compiled: one for each slot bucket, canvas length and prompt width, and those of the head"
)
GOAL = "goal on one H100, with encoder: 440 times real time (rtfx) with the model's own canvas, 1,000 times with auto"
MERGED = (
    "with LoRA of the released model's rank merged into the weights, prefill is {lora_prefill_ratio} times and a "
    "denoising step {lora_step_ratio} times as fast as with LoRA in every call"
)


def engine_table(figures: dict[str, Any]) -> str:
    """The figures of `Bench.run` as a Markdown table, with lines before and after it that say what was measured."""
    head = (
        f"{figures['size']}: {figures['parameters'] / 1e6:,.0f} M parameters, {figures['dtype']}, {figures['device']}, "
        f"{'weights in FP8, ' if figures['fp8'] else ''}"
        f"threads {figures['threads']}, compile {str(figures['compile']).lower()}, prompt {figures['prompt_length']}, "
        f"canvas {figures['canvas_length']}, at most {figures['max_steps']} steps, matmul "
        f"{figures['matmul_gflops']:,.0f} GFLOP/s; seconds are {figures['clock']}; windows of "
        f"{figures['window_seconds']:g} s with {figures['audio_seconds_mean']:.1f} s of audio on average (rtfx), "
        f"or all of it (rtfx_full_windows)"
    )
    lines = [head, "", "| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
    for row in figures["rows"]:
        if row["what"].startswith("same noise"):
            continue
        cells = [pattern.format(row[name]) if row.get(name) is not None else "" for name, pattern in COLUMNS.items()]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        f"ratio to stock's best: {figures['ratio_to_stock_best']} at equal steps, "
        f"{figures['ratio_to_stock_best_adaptive']} adaptive; row-step overhead {figures['row_step_overhead']:.3f}; "
        f"recompilations {figures['recompilations']}",
        *([AUTO.format(**figures)] if figures["ratio_to_stock_best_auto"] else []),
        f"tokens equal on the same noise {figures['tokens_equal']:.1%}, checked on {figures['tokens_equal_windows']} "
        f"windows at equal steps; in the timed rows stock draws from torch's own generator, which costs it less",
        HIDDEN.format(**figures) + (HIDDEN_AUTO.format(**figures) if figures["hiding_ratio_auto"] else ""),
        CTC.format(**figures),
        *([GUIDED.format(**figures)] if figures["guidance_cost"] else []),
        CEILING,
        *([GOAL] if figures["size"] == "full" else []),
        *([GRAPHS.format(**figures)] if figures["compile"] else []),
        *([MERGED.format(**figures)] if "lora_seconds" in figures else []),
        *([BOUND.format(**figures)] if "of_bound" in figures else []),
        *([RANDOM_WEIGHTS] if figures["weights"] == "random" else []),
    ]
    return "\n".join(lines)
