"""A published output of jobs.transcribe over audio that is there, with texts that are made up. No model is needed."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import yaml

from pipeline.config import PlanConfig, RunConfig
from pipeline.config_file import load
from pipeline.output.commit import commit_unit, new_attempt
from pipeline.output.publish import publish_tables
from pipeline.planning.plan import ensure_plan
from pipeline.schemas import SAMPLE_RATE, TRANSCRIPT, to_table
from pipeline.storage.base import Storage, open_storage
from tests.support.outputs import FINGERPRINT, SECONDS, UNITS, left, results

WORDS = ("good", "morning", "my", "friend")
Change = Callable[[dict[str, Any]], dict[str, Any]]


def sound(number: int, rate: int = SAMPLE_RATE) -> np.ndarray:
    """Noise of 4 s, int16 [samples]: each number gives another."""
    return np.random.default_rng(number).integers(-8000, 8000, SECONDS * rate, dtype=np.int16)


def archive(folder: Path, recordings: int) -> Path:
    """Write r0.wav, r1.wav ... of `sound`, and their metadata: speakers s0, s1 in turn, a licence. Returns `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(recordings):
        soundfile.write(folder / f"r{number}.wav", sound(number), SAMPLE_RATE, subtype="PCM_16")
        about = {"speaker": f"s{number % 2}", "license": "CC-BY-4.0"}
        lines.append(json.dumps({"file_name": f"r{number}.wav"} | about) + "\n")
    (folder / "metadata.jsonl").write_text("".join(lines))
    return folder


def transcribed(
    source: str, output: str, *overrides: str, change: Change = dict, unit: int = 2, dead: Collection[str] = ()
) -> Storage:
    """Plan a source and publish made-up transcripts: per recording two segments of 900 ms, at 0 and at 1 s.

    Each has the four words of WORDS with times. change: of each row of transcripts. unit: recordings in a unit. dead:
    ids of recordings that are dead letters.
    """
    words = [f"source.uri={source}", f"output.uri={output}", "source.language=en", "model.revision=abc123"]
    config = load(RunConfig, None, [*words, *overrides])
    storage = open_storage(output)
    plan = UNITS.model_copy(update={"unit_recordings": unit})
    fingerprint = ensure_plan(
        storage, config.source, PlanConfig(**plan.model_dump()), part_rows=6, fingerprint=FINGERPRINT
    )
    storage.put("_run/config.yaml", yaml.safe_dump(config.model_dump(mode="json")).encode())
    for one in left(storage):
        transcripts, letters, figures = results(one, fingerprint, dead=dead, text=" ".join(WORDS))
        rows = [change(row | {"words": spoken(row["start_ms"])}) for row in transcripts.to_pylist()]
        commit_unit(storage, one, new_attempt(), to_table(rows, TRANSCRIPT), letters, figures, fingerprint)
    publish_tables(storage)
    return storage


def spoken(start_ms: int) -> list[dict[str, Any]]:
    """WORDS with times: 200 ms each."""
    return [
        {"text": word, "confidence": 0.5, "start_ms": start_ms + 200 * place, "end_ms": start_ms + 200 * place + 200}
        | {"signals": None}
        for place, word in enumerate(WORDS)
    ]
