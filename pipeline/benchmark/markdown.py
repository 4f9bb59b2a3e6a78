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
    "recompilations": "{}",
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
        *([MERGED.format(**figures)] if "lora_seconds" in figures else []),
        *([BOUND.format(**figures)] if "of_bound" in figures else []),
        *([RANDOM_WEIGHTS] if figures["weights"] == "random" else []),
    ]
    return "\n".join(lines)
