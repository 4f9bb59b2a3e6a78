"""The embedded model on the sample archive: phrases and voices that training never saw, through every codec."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pipeline import plan
from pipeline.config import LANGUAGES, DenoiseConfig, RunConfig
from pipeline.decode import Decoder
from pipeline.model import checkpoint
from pipeline.model.engine import Engine
from pipeline.schemas import Segment, unit_to_json
from pipeline.stitch import join_words
from pipeline.training.measure import Rate, rate

SAMPLE = Path(__file__).parent.parent / "pipeline" / "assets" / "sample"


@pytest.fixture(scope="module")
def answers() -> list[tuple[str, str, str]]:
    """(language, reference, hypothesis) of every recording that has a reference and was decoded."""
    torch.set_num_threads(2)
    info = checkpoint.describe("tiny")
    config = RunConfig.model_validate(
        {"source": {"uri": str(SAMPLE), "format": "webdataset"}, "output": {"uri": "unused"}}
    )
    decoder = Decoder(config, window_seconds=info.window_seconds, languages=info.languages)
    units = plan.make_plan(config.source, config.plan)
    engine = Engine(checkpoint.load("tiny"), DenoiseConfig(max_steps=16), slots=16)
    found = []
    for unit in units:
        row = next(decoder.parts(unit_to_json(unit)))
        segments = row["segments"]
        results = engine.transcribe([Segment(s["key"], s["language"], s["pcm"]) for s in segments])
        for index, recording in enumerate(json.loads(row["recordings"])):
            if recording["problem"] is None and recording["reference"]:
                heard = [r for s, r in zip(segments, results, strict=True) if s["recording_index"] == index]
                words = [word for result in heard for word in result.words]
                found.append((recording["language"], recording["reference"], join_words(words)))
    engine.close()
    return found


def error_rate(rows: list[tuple[str, str, str]]) -> Rate:
    total = Rate(0, 0, 0)
    for language in LANGUAGES:
        picked = [row for row in rows if row[0] == language]
        if picked:
            part = rate([row[1] for row in picked], [row[2] for row in picked], language)
            total = Rate(total.errors + part.errors, total.units + part.units, total.utterances + part.utterances)
    return total


def test_every_language_of_the_sample_archive_is_heard(answers: list[tuple[str, str, str]]) -> None:
    assert {language for language, _, _ in answers} == set(LANGUAGES)
    assert error_rate(answers).percent <= 25


def test_the_text_comes_from_the_audio(answers: list[tuple[str, str, str]]) -> None:
    moved = []
    for language in LANGUAGES:
        rows = [row for row in answers if row[0] == language]
        moved += [(language, row[1], other[2]) for row, other in zip(rows, [*rows[1:], rows[0]], strict=True)]
    assert error_rate(moved).percent > 80
