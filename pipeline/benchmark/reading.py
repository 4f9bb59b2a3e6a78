"""Reading and decoding from a store that is far away, beside the same files on the local disk.

One decoder works through an archive of clips (or one long recording) as a decode actor does. The far store is an S3 on
this machine, in a process of its own, that waits before each answer. Both sides work in turns; of each the fastest time
counts. The clock is wall time: waiting is what is measured. On a busy machine decoding is slower, and hides more of the
waiting.
"""

from __future__ import annotations

import io
import json
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

from pipeline.audio.stage import Decoder
from pipeline.benchmark.distant import distant_store
from pipeline.benchmark.speech import sample_speech
from pipeline.config import LANGUAGES, RunConfig
from pipeline.planning.plan import make_plan
from pipeline.schemas import SAMPLE_RATE, About
from pipeline.storage.scratch import scratch_folder

CLIP_SECONDS = 5
DELAY_MS = 60
REPEATS = 3
GOAL = 0.8  # of the local speed


def compare(seconds: float = 600.0, delay_ms: int = DELAY_MS, read_ahead: int = 8) -> dict[str, Any]:
    """Measure every layout. Raises RuntimeError if the two sides do not decode the same audio."""
    rows = []
    with scratch_folder("bench-") as folder:
        layouts = write_sources(folder, sample_speech(seconds))
        with distant_store(delay_ms / 1000, folder) as store:
            for name, (format_name, place) in layouts.items():
                sides = [_config(format_name, f"{root}/{place}", read_ahead) for root in (folder, store.uri)]
                runs = [[_decode(config) for config in sides] for _ in range(REPEATS)]
                if len({samples for pair in runs for samples, _ in pair}) != 1:
                    raise RuntimeError(f"{name}: the two sides decode different audio")
                audio = runs[0][0][0] / SAMPLE_RATE
                local, far = (min(run[side][1] for run in runs) for side in (0, 1))
                rows.append(
                    {
                        "layout": name,
                        "audio_seconds": round(audio, 1),
                        "local_rtfx": round(audio / local, 1),
                        "far_rtfx": round(audio / far, 1),
                        "far_to_local": round(local / far, 3),
                    }
                )
    load = psutil.getloadavg()[0]
    return {
        "delay_ms": delay_ms,
        "read_ahead": read_ahead,
        "goal": GOAL,
        "clock": f"wall, the least of {REPEATS} times in turns",
        "load_average": round(load, 1),
        "cores": psutil.cpu_count(),
        "rows": rows,
    }


def table(figures: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    lines = [
        f"decoding with {figures['delay_ms']} ms before each answer of the store, compute.read_ahead="
        f"{figures['read_ahead']}; times real time of one decoder; {figures['clock']}; load average "
        f"{figures['load_average']} on {figures['cores']} cores",
        "",
        "| layout | local | far | far to local |",
        "| --- | --- | --- | --- |",
    ]
    for row in figures["rows"]:
        cells = (row["layout"], row["local_rtfx"], row["far_rtfx"], row["far_to_local"])
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def write_sources(folder: Path, samples: np.ndarray) -> dict[str, tuple[str, str]]:
    """Write the same speech (float32, 16 kHz) in each layout. Returns source.format and path below `folder` by name."""
    size = CLIP_SECONDS * SAMPLE_RATE
    clips = [_flac(samples[start : start + size]) for start in range(0, len(samples) - size + 1, size)]
    with tarfile.open(folder / "clips.tar", "w") as tar:
        for number, clip in enumerate(clips):
            entry = tarfile.TarInfo(f"{number:05d}.flac")
            entry.size = len(clip)
            tar.addfile(entry, io.BytesIO(clip))
    pq.write_table(pa.table({"audio": clips}), folder / "clips.parquet", row_group_size=256)
    (folder / "clips").mkdir()
    with (folder / "clips.jsonl").open("w", encoding="utf-8") as manifest:
        for number, clip in enumerate(clips):
            name = f"clips/{number:05d}.flac"
            (folder / name).write_bytes(clip)
            manifest.write(json.dumps({"audio_filepath": name, "duration": CLIP_SECONDS}) + "\n")
    stereo = np.repeat(np.repeat(samples, 3)[:, None], 2, axis=1)  # 48 kHz: 115 MB for ten minutes, read by range
    soundfile.write(folder / "long.wav", stereo, 3 * SAMPLE_RATE, subtype="PCM_16")
    return {
        "tar of 5 s flac": ("webdataset", "clips.tar"),
        "Parquet of 5 s flac": ("parquet", "clips.parquet"),
        "files of 5 s flac": ("files", "clips"),
        "manifest of 5 s flac": ("manifest", "clips.jsonl"),
        "one long wav": ("files", "long.wav"),
    }


def _config(format_name: str, uri: str, read_ahead: int) -> RunConfig:
    return RunConfig.model_validate(
        {
            "source": {"uri": uri, "format": format_name, "language": "en"},
            "output": {"uri": "unused"},
            "compute": {"read_ahead": read_ahead},
        }
    )


def _decode(config: RunConfig) -> tuple[int, float]:
    """Samples and seconds of one pass over all units. Listing and planning are not measured."""
    units = list(make_plan(config.source, config.plan))
    decoder = Decoder(config, About(30.0, LANGUAGES, "", ""))
    started = time.perf_counter()
    samples = sum(piece.samples for unit in units for piece in decoder.pieces(unit))
    return samples, time.perf_counter() - started


def _flac(samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return file.getvalue()
