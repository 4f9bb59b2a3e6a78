"""The figures of votes and of a second model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.tiny.opinions import change, held_out, of_second
from pipeline.evaluation.confidence import auroc
from pipeline.schemas import TRANSCRIPT


def test_a_change_is_in_points_and_its_interval_is_that_of_speakers() -> None:
    speakers = [f"s{number // 10}" for number in range(50)]
    units, old = [10] * 50, [3] * 50
    assert change(old, old, units, speakers) == "+0.00 points (+0.00 to +0.00)"
    assert change([2] * 50, old, units, speakers) == "-10.00 points (-10.00 to -10.00)"
    better_for_two_speakers = [1 if speaker in ("s0", "s1") else 3 for speaker in speakers]
    assert change(better_for_two_speakers, old, units, speakers).startswith("-8.00 points (-")
    assert change([1, 3, 3, 1, 3] * 10, old, units, speakers) == "-8.00 points (-8.00 to -8.00)"


def test_a_signal_is_judged_on_speakers_that_it_was_not_fitted_on() -> None:
    random = np.random.default_rng(0)
    right = random.random(300) < 0.7
    speakers = [f"s{number % 6}" for number in range(300)]
    useful = right + random.normal(0, 0.3, 300)
    nothing = random.normal(size=300)
    assert (auroc(held_out(np.column_stack([nothing, useful]), right, speakers), right) or 0) > 0.95
    assert (auroc(held_out(nothing[:, None], right, speakers), right) or 1) < 0.65


def output(folder: Path, texts: list[str], *, shift: int = 0) -> Path:
    """An output of recordings that say "ja nein"; the last one begins `shift` ms later."""
    rows: list[dict[str, Any]] = [
        {
            "recording_id": f"r{number}",
            "segment_index": 0,
            "start_ms": shift if number == len(texts) - 1 else 0,
            "end_ms": 1000,
            "language": "de",
            "text": text,
            "reference": "ja nein",
            "metadata": json.dumps({"speaker": f"s{number % 3}"}),
            "words": [
                {"text": word, "signals": {"token_probability_min": 0.5, "entropy_max": 0.1}} for word in text.split()
            ],
        }
        for number, text in enumerate(texts)
    ]
    (folder / "transcripts").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, TRANSCRIPT), folder / "transcripts/part-00000.parquet")
    return folder


def test_only_equal_segments_of_two_outputs_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = output(tmp_path / "a", ["ja nein", "ja mein", "ja nein", "ja kein", "ja nein", "ja mein", "weg damit"])
    second = output(tmp_path / "b", ["ja nein", "ja nein", "ja nein", "ja nein", "ja nein", "ja nein", "ja"], shift=40)
    of_second(first, second)
    printed = capsys.readouterr().out
    assert "12 words, 75.0% right, 3 speakers" in printed
    assert "AUROC token_probability_min: 0.500" in printed
    assert "AUROC second_agreement: 1.000" in printed
