"""Measure speed: python -m jobs.bench engine --size tiny --json FILE, or plan, pipeline, decode, read.

`engine` compares the engine with transformers' generate: the same weights and text prompts, in one process, without the
audio encoder but in rows that say so. Size `full` is the released model at its published setting. On a CPU with one
thread it counts processor time, so that other programs do not change the ratios.
`plan` measures planning at scale, `list` listing a store that is far away, `flow` what a unit costs the driver,
`commit` one finisher on a local disk and on a distant store, `publish` publishing, `pipeline` the whole way through Ray
beside the engine alone, `decode` decoding, `read` decoding from a store that is far away. `soak` runs for hours, kills
processes, and looks for what grows.
`whisper` compares whisper-base with faster-whisper: python -m jobs.bench whisper SPEECH.parquet
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from jobs import cli
from jobs.stopping import stoppable


def main(arguments: list[str] | None = None) -> int:
    """Run one benchmark. Returns 0, or 2 for a usage error, a missing device or a head that it does not have."""
    words = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(words)
    if options.command == "engine":
        return _engine(options, cli.command("bench", words))
    benchmarks = {
        "plan": _plan,
        "flow": _flow,
        "commit": _commit,
        "publish": _publish,
        "list": _list,
        "read": _read,
        "whisper": _whisper,
        "soak": _soak,
    }
    return benchmarks.get(options.command, _throughput)(options)


def _whisper(options: argparse.Namespace) -> int:
    """Whisper beside faster-whisper. Returns 0, or 2 where the speech or the package is missing."""
    os.environ["OMP_NUM_THREADS"] = "1"
    from pipeline.benchmark import beside
    from pipeline.benchmark.decoding import PACKAGES

    if not options.speech.is_file():
        print(f"{options.speech}: no such file; python -m infra.tiny.human_speech makes it", file=sys.stderr)
        return 2
    if not (PACKAGES / "faster_whisper").is_dir():
        print(f"{PACKAGES}: no faster-whisper; make bench installs it", file=sys.stderr)
        return 2
    figures = beside.compare(beside.read_clips(options.speech, options.clips))
    print(beside.table(figures))
    if options.json:
        _write(options.json, json.dumps(figures, indent=1) + "\n")
    return 0


def _engine(options: argparse.Namespace, command: str) -> int:
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, stream=sys.stderr)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    import torch

    from pipeline.benchmark.compare import Bench
    from pipeline.benchmark.markdown import engine_table
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
        fp8=options.weights == "fp8",
    )
    figures = bench.run() | {"command": command}
    text = engine_table(figures)
    print(text)
    if options.json:
        _write(options.json, json.dumps(figures, indent=1) + "\n")
    if options.markdown:
        _write(options.markdown, text + "\n")
    return 0


def _plan(options: argparse.Namespace) -> int:
    """Planning at scale: a row for each size, measured in a process of its own. Returns 0."""
    from pipeline.benchmark import planning

    rows = _shown(planning, planning.measure(options.units or planning.SIZES, commits=options.commits), options.json)
    print("\n".join(["", *map(planning.verdict, rows)]))
    return 0


def _read(options: argparse.Namespace) -> int:
    """Decoding from a far store beside the local disk. Returns 0."""
    from pipeline.benchmark import reading

    figures = reading.compare(options.minutes * 60, options.delay_ms, options.read_ahead)
    print(reading.table(figures))
    if options.json:
        _write(options.json, json.dumps(figures, indent=1) + "\n")
    return 0


def _flow(options: argparse.Namespace) -> int:
    """What a unit costs the driver: a row for each size, measured in a process of its own. Returns 0."""
    from pipeline.flow.cluster import pin_authentication

    pin_authentication()
    from pipeline.benchmark import flow

    print(flow.header())
    rows = []
    for row in flow.measure(options.units or flow.SIZES):
        print(flow.line(row), flush=True)
        rows.append(row)
    print("\n".join(["", *map(flow.verdict, rows)]))
    if options.json:
        _write(options.json, json.dumps({"rows": rows}, indent=1) + "\n")
    return 0


def _commit(options: argparse.Namespace) -> int:
    """Commits of one finisher: a row for each store and number of pieces. Returns 0."""
    from pipeline.benchmark import committing

    _shown(committing, committing.measure(options.units), options.json)
    return 0


def _publish(options: argparse.Namespace) -> int:
    """Publishing: a row for the first publication and one with nothing new. Returns 0."""
    from pipeline.benchmark import publishing

    _shown(publishing, publishing.measure(options.units), options.json)
    return 0


def _list(options: argparse.Namespace) -> int:
    """Listing a distant store: a row for each layout of its objects. Returns 0."""
    from pipeline.benchmark import listing

    _shown(listing, listing.measure(options.objects, options.delay_ms), options.json)
    return 0


def _soak(options: argparse.Namespace) -> int:
    """A run of hours with kills. Returns 0, or 1 where something grows, is lost, or does not end as it should."""
    from pipeline.benchmark import flatness, soak

    with stoppable(""):  # a stop ends the driver too
        figures = soak.run(options.hours, options.kill_every_minutes * 60, options.sample_every_seconds)
    if options.json:
        _write(options.json, json.dumps(figures) + "\n")
    print(flatness.table(figures))
    return int(bool(figures["complaints"]))


def _shown(benchmark: ModuleType, measured: Iterable[dict[str, Any]], path: str | None) -> list[dict[str, Any]]:
    """Print rows as they are measured, with the header of their module, and write them to `path`. Returns them."""
    print(benchmark.header())
    rows = []
    for row in measured:
        print(benchmark.line(row), flush=True)
        rows.append(row)
    if path:
        _write(path, json.dumps({"rows": rows}, indent=1) + "\n")
    return rows


def _throughput(options: argparse.Namespace) -> int:
    """The benchmarks `pipeline` and `decode`. Returns 0, or 2 if the config is wrong."""
    from pipeline.benchmark import decoding, speech, throughput
    from pipeline.config import ConfigError, RunConfig
    from pipeline.config_file import load
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


def _write(path: str, text: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text, encoding="utf-8")


def _count(text: str) -> int:
    """For argparse: a whole number, 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def _positive(text: str) -> float:
    """For argparse: a number above 0."""
    with contextlib.suppress(ValueError):
        if 0 < float(text) < float("inf"):
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")


def _size(text: str) -> tuple[int, int]:
    """For argparse: "1000" or "1000x256", units and the recordings in each of them."""
    units, by, each = text.partition("x")
    return _count(units), _count(each) if by else 1


def _engine_options(engine: argparse.ArgumentParser) -> None:
    engine.add_argument("--size", choices=["tiny", "cpu300m", "full"], default="tiny")
    engine.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    engine.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    engine.add_argument("--weights", choices=["bf16", "fp8"], default="bf16", help="of both sides, model.weights")
    engine.add_argument("--compile", action="store_true", help="torch.compile the engine's calls")
    engine.add_argument(
        "--no-auto", action="store_true", help="no rows with canvas_length=auto: fewer shapes to compile"
    )
    engine.add_argument(
        "--head", choices=["torch", "triton"], default="torch", help="the engine's vocabulary head, model.head"
    )
    engine.add_argument("--threads", type=_count, default=1, metavar="N", help="torch threads of both sides")
    engine.add_argument(
        "--windows", type=_count, metavar="N", help="windows to transcribe (default: depends on the size)"
    )
    engine.add_argument("--json", metavar="FILE", help="write the figures")
    engine.add_argument("--markdown", metavar="FILE", help="write the table")
    engine.add_argument("--verbose", action="store_true", help="log every row as it is measured")


def _store_options(commands: Any) -> None:
    """The commands that measure a store, as subparsers."""
    commit = commands.add_parser(
        "commit", help="what one finisher commits: on a local disk, and on a store that takes 50 ms for each request"
    )
    commit.add_argument("--units", type=_count, default=500, metavar="N", help="units of each row (default: 500)")
    commit.add_argument("--json", metavar="FILE", help="write the figures")
    publish = commands.add_parser("publish", help="publishing all that is committed, and again with nothing new")
    publish.add_argument("--units", type=_count, default=100_000, metavar="N", help="committed units of 8 segments")
    publish.add_argument("--json", metavar="FILE", help="write the figures")
    listing = commands.add_parser("list", help="listing the files of a store that is far away")
    listing.add_argument("--objects", type=_count, default=1_000_000, metavar="N", help="in each layout")
    listing.add_argument("--delay-ms", type=_count, default=50, metavar="N", help="milliseconds before each answer")
    listing.add_argument("--json", metavar="FILE", help="write the figures")
    read = commands.add_parser("read", help="decoding from a store that is far away, beside the local disk")
    read.add_argument("--minutes", type=float, default=10.0, metavar="N", help="minutes of audio in each layout")
    read.add_argument("--delay-ms", type=_count, default=60, metavar="N", help="milliseconds before each answer")
    read.add_argument("--read-ahead", type=_count, default=8, metavar="N", help="compute.read_ahead")
    read.add_argument("--json", metavar="FILE", help="write the figures")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=cli.program("bench"), description=(__doc__ or "").replace("python -m jobs.bench", cli.program("bench"))
    )
    commands = parser.add_subparsers(dest="command", required=True)
    _engine_options(commands.add_parser("engine", help="the engine beside transformers' generate"))
    plan = commands.add_parser(
        "plan", help="plan, resume and account for up to a million units or 25 million recordings"
    )
    plan.add_argument(
        "--units", type=_size, nargs="+", metavar="N[xM]", help="N units of M recordings (default: all sizes)"
    )
    plan.add_argument(
        "--commits",
        choices=["memory", "files"],
        default="memory",
        help="where the commits are: made up as they are read, or files",
    )
    plan.add_argument("--json", metavar="FILE", help="write the figures")
    whisper = commands.add_parser("whisper", help="Whisper-base beside faster-whisper: error rate and speed")
    whisper.add_argument("speech", type=Path, metavar="FILE", help="speech.parquet of infra.tiny.human_speech")
    whisper.add_argument("--clips", type=_count, default=10, metavar="N", help="clips of each language")
    whisper.add_argument("--json", metavar="FILE", help="write the figures")
    flow = commands.add_parser("flow", help="what a unit costs the driver, without audio and model")
    flow.add_argument("--units", type=_count, nargs="+", metavar="N", help="units of ten minutes (default: all sizes)")
    flow.add_argument("--json", metavar="FILE", help="write the figures")
    pipeline = commands.add_parser("pipeline", help="the flow through Ray beside the engine alone; then decode")
    decode = commands.add_parser("decode", help="decoding and resampling beside datasets and librosa")
    for command in (pipeline, decode):
        command.add_argument("--json", metavar="FILE", help="write the figures")
        command.add_argument(
            "--decode-minutes", type=float, default=10.0, metavar="N", help="minutes of audio to decode"
        )
    _store_options(commands)
    soak = commands.add_parser(
        "soak", help="a run of hours, with kills and preemptions: nothing grows, nothing is lost"
    )
    soak.add_argument("--hours", type=_positive, default=2.0, metavar="N", help="until the archive ends (default: 2)")
    soak.add_argument(
        "--kill-every-minutes", type=_positive, default=5.0, metavar="N", help="kill the model or the decoder in turns"
    )
    soak.add_argument("--sample-every-seconds", type=_positive, default=10.0, metavar="N", help="look at all processes")
    soak.add_argument("--json", metavar="FILE", help="write the figures and all samples")
    pipeline.add_argument("--minutes", type=float, default=60.0, metavar="N", help="minutes of audio in the archive")
    pipeline.add_argument("--config", metavar="FILE", default="configs/bench-pipeline.yaml", help="settings of the run")
    pipeline.add_argument("overrides", nargs="*", metavar="section.key=value", help="further settings of the run")
    return parser


if __name__ == "__main__":
    sys.exit(main())
