"""Decoding and resampling to 16 kHz mono: how many times real time one core takes, beside `datasets` and librosa.

Each reader runs in a process of its own with one thread. The clock is that process's processor time, so that a busy
machine changes little. The product does not need torchcodec and librosa: `make bench` installs them in `.venv/bench`
(requirements-bench.lock), which only this benchmark uses. torchcodec gets PyAV's FFmpeg.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
import soxr

from pipeline.benchmark.readers import READERS
from pipeline.benchmark.speech import sample_speech
from pipeline.schemas import SAMPLE_RATE

GOALS: dict[str, float | None] = {"flac 16 kHz mono": 500, "mp3 44.1 kHz stereo": 150, "opus 48 kHz mono": None}
PACKAGES = Path(sys.prefix) / "bench"
CODEC_SECONDS = 0.2  # encoders may lengthen a file by this
REPEATS = 5


def compare(seconds: float = 600.0, repeats: int = REPEATS) -> dict[str, Any]:
    """Measure every reader on every format. Raises RuntimeError if a reader does not return all of the audio."""
    with tempfile.TemporaryDirectory() as scratch:
        files = write_files(Path(scratch), sample_speech(seconds))
        rows: list[dict[str, Any]] = []
        for reader in READERS:
            measured = _in_a_process(reader, repeats, list(files.values()), Path(scratch))
            for name, row in zip(files, measured.get("rows", [{}] * len(files)), strict=True):
                rows.append({"format": name, "reader": reader, "goal": GOALS[name] if reader == "pipeline" else None})
                if "error" in measured:
                    rows[-1] |= {"rtfx": None, "error": measured["error"]}
                    continue
                decoded = row["audio_seconds"]
                if abs(decoded - seconds) > CODEC_SECONDS:
                    raise RuntimeError(f"{reader} reads {decoded:.2f} s of {seconds:.2f} s of {name}")
                rows[-1] |= {"rtfx": round(seconds / row["processor_seconds"], 1), "version": measured["version"]}
                rows[-1] |= {"audio_seconds": decoded, "processor_seconds": round(row["processor_seconds"], 4)}
    ours = {row["format"].split()[0]: row["rtfx"] for row in rows if row["reader"] == "pipeline"}
    return {
        **{f"decode_rtfx_{name}": rtfx for name, rtfx in ours.items()},
        "clock": f"processor seconds of one process with one thread, the least of {repeats} times",
        "seconds": seconds,
        "rows": rows,
    }


def write_files(folder: Path, samples: np.ndarray) -> dict[str, Path]:
    """Write the same speech (float32, 16 kHz) as a file of each format. Returns the paths by the names of the formats.

    The right channel of the stereo file is a little later and quieter than the left one.
    """
    left = soxr.resample(samples, SAMPLE_RATE, 44_100)
    stereo = np.stack([left, 0.8 * np.roll(left, 20)], axis=1)
    contents = {
        "flac 16 kHz mono": _sndfile(samples[:, None], SAMPLE_RATE, "FLAC", "PCM_16"),
        "mp3 44.1 kHz stereo": _sndfile(stereo, 44_100, "MP3", "MPEG_LAYER_III"),
        "opus 48 kHz mono": _opus(soxr.resample(samples, SAMPLE_RATE, 48_000)),
    }
    paths = {}
    for name, content in contents.items():
        paths[name] = folder / f"speech.{name.split()[0]}"
        paths[name].write_bytes(content)
    return paths


def table(figures: dict[str, Any]) -> str:
    """The figures as a Markdown table, a row per format and a column per reader."""
    by_pair = {(row["format"], row["reader"]): row for row in figures["rows"]}
    lines = [
        f"decode and resample: {figures['seconds']:.0f} s of speech, times real time on one core; {figures['clock']}",
        "",
        f"| format | goal | {' | '.join(READERS)} |",
        "| --- " * (2 + len(READERS)) + "|",
    ]
    for name, goal in GOALS.items():
        cells = [str(by_pair[name, reader]["rtfx"] or "not measured") for reader in READERS]
        lines.append(f"| {name} | {goal or ''} | {' | '.join(cells)} |")
    last = next(reversed(GOALS))
    about = {reader: by_pair[last, reader].get("version") or by_pair[last, reader]["error"] for reader in READERS}
    lines += ["", *(f"{reader}: {text}" for reader, text in about.items())]
    return "\n".join(lines)


def _in_a_process(reader: str, repeats: int, files: list[Path], scratch: Path) -> dict[str, Any]:
    root = Path(__file__).parents[2]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(root), str(PACKAGES)]),
        "LD_LIBRARY_PATH": os.pathsep.join(_ffmpeg(scratch)) if reader == "datasets" else "",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "pipeline.benchmark.readers", reader, str(repeats), *map(str, files)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _ffmpeg(scratch: Path) -> list[str]:
    """Folders that have PyAV's FFmpeg under the names that torchcodec looks for."""
    libraries = Path(av.__file__).parents[1] / "av.libs"
    names = scratch / "ffmpeg"
    names.mkdir(exist_ok=True)
    for library in libraries.glob("lib*-*.so.*"):
        parts = re.fullmatch(r"(lib(?:av|sw)[a-z]+)-[0-9a-f]+\.so\.(\d+)\..*", library.name)
        if parts:
            (names / f"{parts[1]}.so.{parts[2]}").symlink_to(library)
    return [str(names), str(libraries)]


def _sndfile(samples: np.ndarray, rate: int, form: str, subtype: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=form, subtype=subtype)
    return file.getvalue()


def _opus(samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="ogg") as out:
        track = out.add_stream("libopus", rate=48_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None].astype(np.float32), format="flt", layout="mono")
        frame.sample_rate = 48_000
        queue = av.AudioFifo()
        queue.write(frame)
        for part in queue.read_many(960, partial=True):  # 20 ms: more is too much for the encoder
            out.mux(track.encode(part))
        out.mux(track.encode(None))
    return file.getvalue()
