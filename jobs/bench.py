"""Measure speed: `python -m jobs.bench engine --size tiny --json FILE` runs transformers' generate and the engine.

Both sides run in one process on the same weights and text prompts (denoising and prefill only, no audio encoder). On a
CPU with one thread the clock is the process's processor time, so that a busy machine does not change the ratios.
`plan`, `pipeline` and `decode` measure planning at scale, the flow through Ray beside the engine alone, and decoding.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from jobs import cli

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
    "the weights are random: from the second step on one rounding changes a whole canvas, so few tokens may be "
    "equal; tests/model/test_engine_equals_generate.py and the trained size check equality"
)

AUTO = (
    "with auto canvas {ratio_to_stock_best_auto} times stock's best, adaptive; row-step overhead "
    "{row_step_overhead_auto:.3f}"
)
BOUND = (
    "matrix products, attention, tanh, exp and gelu alone would be {ratio_bound} times stock's best at equal steps on "
    "this machine; the engine's full slots reach {of_bound:.1%} of that, measured in turns"
)


def main(arguments: list[str] | None = None) -> int:
    """0 done, 2 usage (argparse), no such device or no such head on it."""
    options = _parser().parse_args(arguments)
    if options.command == "plan":
        return _plan(options)
    if options.command in ("pipeline", "decode"):
        return _throughput(options)
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, stream=sys.stderr)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    import torch

    from pipeline.benchmark.compare import Bench
    from pipeline.benchmark.sizes import size_named
    from pipeline.model.denoise.head import obstacle

    if options.device == "cuda" and not torch.cuda.is_available():
        print("--device cuda: torch finds no CUDA device", file=sys.stderr)
        return 2
    if options.head == "triton" and (reason := obstacle(torch.device(options.device))):
        print(f"--head triton: {reason}", file=sys.stderr)
        return 2
    torch.set_num_threads(options.threads)
    bench = Bench(
        size_named(options.size),
        device=options.device,
        dtype=getattr(torch, options.dtype),
        compile=options.compile,
        windows=options.windows,
        head=options.head,
        auto=not options.no_auto,
    )
    figures = bench.run()
    figures["command"] = cli.command("bench", sys.argv[1:] if arguments is None else arguments)
    text = markdown(figures)
    print(text)
    if options.json:
        _write(options.json, json.dumps(figures, indent=1) + "\n")
    if options.markdown:
        _write(options.markdown, text + "\n")
    return 0


def _plan(options: argparse.Namespace) -> int:
    """Planning at scale: one row per size, each from a process of its own."""
    from pipeline.benchmark import planning

    print(planning.header())
    rows = []
    for row in planning.measure(options.units or planning.SIZES, commits=options.commits):
        print(planning.line(row), flush=True)
        rows.append(row)
    print("\n".join(["", *map(planning.verdict, rows)]))
    if options.json:
        _write(options.json, json.dumps({"rows": rows}, indent=1) + "\n")
    return 0


def _throughput(options: argparse.Namespace) -> int:
    """`pipeline` and `decode`: 0 done, 2 where the config is wrong."""
    from pipeline.benchmark import decoding, speech, throughput
    from pipeline.config import ConfigError, RunConfig, load
    from pipeline.model.files import layout

    figures: dict[str, Any] = {}
    if options.command == "pipeline":
        with tempfile.TemporaryDirectory() as scratch:
            source, output = Path(scratch, "archive"), Path(scratch, "out")
            own = [f"source.uri={source}", "source.format=webdataset", f"output.uri={output}"]
            try:
                config = load(RunConfig, options.config, [*own, *options.overrides])
                layout.describe(config.model.name, config.model.revision)  # before minutes of speech are made
                speech.write_archive(source, options.minutes * 60)
                figures = throughput.compare(config)
            except ConfigError as err:
                print(err, file=sys.stderr)
                return 2
        print(throughput.table(figures) + "\n")
    figures["decode"] = decoding.compare(options.decode_minutes * 60)
    print(decoding.table(figures["decode"]))
    if options.json:
        _write(options.json, json.dumps(figures, indent=1) + "\n")
    return 0


def markdown(figures: dict[str, Any]) -> str:
    """The figures as a Markdown table under one line that says what was measured."""
    head = (
        f"{figures['size']}: {figures['parameters'] / 1e6:,.0f} M parameters, {figures['dtype']}, {figures['device']}, "
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
        *([BOUND.format(**figures)] if "of_bound" in figures else []),
        *([RANDOM_WEIGHTS] if figures["weights"] == "random" else []),
    ]
    return "\n".join(lines)


def _write(path: str, text: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text, encoding="utf-8")


def _count(text: str) -> int:
    """For argparse: a whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def _size(text: str) -> tuple[int, int]:
    """For argparse: units and recordings in each; "1000" or "1000x256"."""
    units, by, each = text.partition("x")
    return _count(units), _count(each) if by else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=cli.program("bench"), description=(__doc__ or "").replace("python -m jobs.bench", cli.program("bench"))
    )
    commands = parser.add_subparsers(dest="command", required=True)
    engine = commands.add_parser("engine", help="transformers' generate beside the engine")
    engine.add_argument("--size", choices=["tiny", "cpu300m", "full"], default="tiny")
    engine.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    engine.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    engine.add_argument("--compile", action="store_true", help="torch.compile the engine's calls")
    engine.add_argument("--no-auto", action="store_true", help="without auto canvases: fewer shapes to compile")
    engine.add_argument(
        "--head", choices=["torch", "triton"], default="torch", help="the engine's vocabulary head, model.head"
    )
    engine.add_argument("--threads", type=_count, default=1, metavar="N", help="torch threads of both sides")
    engine.add_argument("--windows", type=_count, metavar="N", help="windows to run (default: by size)")
    engine.add_argument("--json", metavar="FILE", help="write the figures")
    engine.add_argument("--markdown", metavar="FILE", help="write the table")
    engine.add_argument("--verbose", action="store_true", help="log every row as it is measured")
    plan = commands.add_parser("plan", help="plan, resume half-way and account for up to a million units")
    plan.add_argument(
        "--units", type=_size, nargs="+", metavar="N[xM]", help="N units of M recordings (default: all sizes)"
    )
    plan.add_argument(
        "--commits", choices=["memory", "files"], default="memory", help="made up as they are read, or real files"
    )
    plan.add_argument("--json", metavar="FILE", help="write the figures")
    flow = commands.add_parser("pipeline", help="the whole flow through Ray beside the engine alone; then decode")
    decode = commands.add_parser("decode", help="decoding and resampling beside datasets and librosa")
    for command in (flow, decode):
        command.add_argument("--json", metavar="FILE", help="write the figures")
        command.add_argument("--decode-minutes", type=float, default=10.0, metavar="N", help="of audio to decode")
    flow.add_argument("--minutes", type=float, default=60.0, metavar="N", help="of audio in the archive")
    flow.add_argument("--config", metavar="FILE", default="configs/bench-pipeline.yaml", help="settings of the run")
    flow.add_argument("overrides", nargs="*", metavar="section.key=value", help="further settings of the run")
    return parser


if __name__ == "__main__":
    sys.exit(main())
