"""The job from transcripts to labels: tables, figures, pages, and one line for each mistake."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs.export import main as export_main
from jobs.select_labels import main
from pipeline.output.calibrator import Calibrator, Curve, Curves, Input, keep, of_output
from pipeline.schemas import LABELS
from pipeline.storage.base import open_storage
from tests.support.labelled import archive as sounds
from tests.support.labelled import transcribed
from tests.support.labels import labels, output, segment, speaker

WORDS = ["cat", "dog", "tree", "house", "river", "stone", "bread", "table", "green", "cold"]


def archive(folder: Path, *, seed: int, references: bool, recordings: int = 240, source: str = "raw") -> Path:
    """Recordings of 12 speakers, each one segment of ten words; its confidence is the share of right words."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(recordings):
        confidence = float(np.float32(rng.uniform(0.6, 1)))
        said = [word if rng.random() < confidence else "wrong" for word in rng.permutation(WORDS)]
        reference = " ".join(word for word in said).replace("wrong", "right") if references else None
        about: dict[str, Any] = {"metadata": speaker(f"speaker {number % 12}"), "reference": reference}
        about["confidence_source"] = source
        rows.append(segment(" ".join(said), f"r{number:03}", confidence=confidence, **about))
    return output(folder, rows)


def calibrate(folder: Path) -> None:
    """Give an output a calibrator that leaves confidences as they are."""
    knots = np.linspace(-8, 8, 200)
    own = Input(name="confidence_raw", low=-14, high=14, mean=0, scale=1, weight=1)
    segments = Curve(inputs=[own], bias=0, scores=knots.tolist(), values=(1 / (1 + np.exp(-knots))).tolist(), rows=1)
    words = Curve(inputs=[], bias=0, scores=[0], values=[0.9], rows=1)
    keep(open_storage(str(folder)), Calibrator(model="tiny@0", curves={"all": Curves(word=words, segment=segments)}))


def select(folder: Path, *words: str) -> int:
    given = [
        f"transcripts={folder / 'out'}",
        f"output.uri={folder / 'labels'}",
        "filters.text_similarity=null",
        "audit.audio=false",
    ]
    return main([*given, "filters.min_unique_words=null", "filters.max_repetitions=null", *words])


def test_a_target_keeps_what_the_calibration_set_is_sure_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive(tmp_path / "known", seed=0, references=True, recordings=720)
    calibrate(archive(tmp_path / "out", seed=1, references=True, source="calibrated:all"))
    given = [f"calibration.known.output={tmp_path / 'known'}", "policy.target_wer={default: 15%}"]
    assert select(tmp_path, *given) == 0
    printed = capsys.readouterr().out
    rows, found = labels(tmp_path / "labels"), json.loads((tmp_path / "labels" / "funnel.json").read_text())
    least = found["thresholds"]["en"]["confidence"]
    assert 0.7 < least < 0.8  # at 0.7 the mean of those above is 0.85
    assert len(rows) == 240 == found["segments"]
    assert all(row["kept"] == (row["confidence"] >= least) for row in rows)
    assert least == np.float32(least), "a threshold is a confidence as it is published"
    assert {row["reason"] for row in rows} == {None, "low_confidence"}
    assert found["segments_kept"] == sum(row["kept"] for row in rows) > 50
    assert found["achieved"]["rate"] < 0.15
    assert found["expected"]["low"] < found["achieved"]["rate"] < found["expected"]["high"]
    assert all(abs(row["expected_wer"] + row["confidence"] - 1) < 1e-6 for row in rows)
    assert {row["policy"] for row in rows} == {found["policy"]}
    assert pq.read_schema(next((tmp_path / "labels" / "labels").iterdir())).equals(LABELS)
    assert f"kept {found['segments_kept']} of 240 segments" in printed
    assert "no threshold" not in printed
    splits: dict[str, set[str]] = {}
    for row in rows:
        if row["kept"]:
            splits.setdefault(row["speaker"], set()).add(row["split"])
    assert len(splits) > 6
    assert all(len(of_speaker) == 1 for of_speaker in splits.values())


def test_languages_whose_target_no_threshold_meets_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive(tmp_path / "known", seed=0, references=True, recordings=24)
    calibrate(archive(tmp_path / "out", seed=1, references=False, recordings=3, source="calibrated:all"))
    assert select(tmp_path, f"calibration.known.output={tmp_path / 'known'}", "policy.target_wer={default: 1%}") == 0
    assert "no threshold meets the target: en. " in capsys.readouterr().out


def test_the_same_policy_gives_the_same_labels_and_another_one_another_hash(tmp_path: Path) -> None:
    archive(tmp_path / "out", seed=1, references=False, recordings=60)
    assert select(tmp_path, "policy.min_confidence={default: 0.8}") == 0
    first = labels(tmp_path / "labels")
    assert select(tmp_path, "policy.min_confidence={default: 0.8}") == 0
    assert labels(tmp_path / "labels") == first
    assert select(tmp_path, "policy.min_confidence={default: 0.7}") == 0
    other = labels(tmp_path / "labels")
    assert [row["label_id"] for row in other] == [row["label_id"] for row in first]
    assert {row["policy"] for row in other}.isdisjoint(row["policy"] for row in first)


def test_the_pages_show_the_funnel_and_the_sample(tmp_path: Path) -> None:
    archive(tmp_path / "out", seed=1, references=False, recordings=60)
    assert select(tmp_path, "policy.min_confidence={default: 0.9}", "audit.sample=10", "filters.max_seconds=1.9") == 0
    assert not any(row["kept"] for row in labels(tmp_path / "labels"))
    assert select(tmp_path, "policy.min_confidence={default: 0.9}", "audit.sample=10") == 0
    page = (tmp_path / "labels" / "report.html").read_text()
    assert page.count('class="labels-funnel"') == page.count('class="labels-languages"') == 1
    assert "low_confidence" in page
    kept = {row["label_id"] for row in labels(tmp_path / "labels") if row["kept"]}
    with (tmp_path / "labels" / "audit.csv").open(newline="") as file:
        audited = list(csv.DictReader(file))
    assert len(audited) == 10
    assert {row["label_id"] for row in audited} <= kept
    assert {row["stratum"] for row in audited} == {"en 0.9-0.95", "en 0.95-0.98", "en 0.98-1"}
    assert (tmp_path / "labels" / "audit.html").read_text().count("<li ") == 10


def test_all_labels_of_a_recording_are_in_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.labels.selection.ROW_GROUP", 3)
    monkeypatch.setattr("pipeline.labels.selection.PART_GROUPS", 1)
    transcribed(str(sounds(tmp_path / "in", 5)), str(tmp_path / "out"))
    assert select(tmp_path, "policy.min_confidence={default: 0.1}") == 0
    files = sorted((tmp_path / "labels" / "labels").iterdir())
    found = [pq.read_table(file, columns=["recording_id"])["recording_id"].to_pylist() for file in files]
    assert [sorted(set(names)) for names in found] == [["r0.wav", "r1.wav"], ["r2.wav", "r3.wav"], ["r4.wav"]]
    words = ["export.format=srt", f"input.uri={tmp_path / 'labels'}", f"output.uri={tmp_path / 'set'}"]
    assert export_main([*words, "export.shard_rows=1"]) == 0
    texts = [path.read_text() for path in sorted((tmp_path / "set/recordings").iterdir())]
    assert [text.count("-->") for text in texts] == [2] * 5


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["policy.target_wer={default: 8%}"], "calibration: policy.target_wer needs transcripts with references"),
        (["policy.target_wer={default: 8}"], "policy.target_wer.default: "),
        (["output.uri=out"], "output.uri: labels need a place of their own"),
        (["speaker_column=who"], "speaker_column: no recording of {}/out has 'who' in its metadata"),
        (["source_column=from", "caps.source_hours=1"], "source_column: no recording of {}/out has 'from' in its"),
        (["filters.audio_hash_column=md5"], "filters.audio_hash_column: no recording of {}/out has 'md5' in the"),
        (["filters.characters_per_second={en: [9, 1]}"], "filters.characters_per_second: en: 9 is not below 1"),
        (["caps.source_hours=1"], "source_column: caps.source_hours needs the key"),
        (["policy.target_wer={en: 8%}", "calibration.a.output=out"], "policy.target_wer: the confidences of "),
        (["policy.min_confidence={en: 0.5}", "policy.target_wer={en: 8%}"], "policy.min_confidence: not together with"),
        (["transcripts=nowhere"], "transcripts: nowhere: No such file"),
        (
            ["policy.target_wer={en: 8%}", "calibration.a.output=nowhere", "transcripts=known"],
            "calibration: nowhere: No such file",
        ),
        (["audit.verdicts=nowhere.csv"], "audit.verdicts: nowhere.csv: No such file"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    archive(tmp_path / "out", seed=1, references=False, recordings=3)
    calibrate(archive(tmp_path / "known", seed=1, references=False, recordings=3, source="calibrated:all"))
    given = [word.replace("=out", f"={tmp_path / 'out'}").replace("=known", f"={tmp_path / 'known'}") for word in words]
    assert select(tmp_path, *given) == 2
    told = capsys.readouterr().err
    assert told.startswith(says.format(tmp_path) if "{}" in says else says), told
    assert told.count("\n") == 1


def test_one_speaker_on_whom_the_calibrator_was_fitted_too_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = archive(tmp_path / "known", seed=1, references=True, recordings=1)
    fitted_on_it = {"fingerprints": ["f", "of other speakers"]}
    calibrate(archive(tmp_path / "out", seed=1, references=False, recordings=3, source="calibrated:all"))
    storage = open_storage(str(tmp_path / "out"))
    calibrator = of_output(storage)
    assert calibrator
    keep(storage, calibrator.model_copy(update={"fitted": fitted_on_it}))
    assert select(tmp_path, "policy.target_wer={default: 8%}", f"calibration.a.output={known}") == 2
    told = capsys.readouterr().err
    assert told.startswith(f"calibration: the calibrator of {tmp_path / 'out'} was fitted on it, and without one")
    assert told.endswith("none can be fitted: a single speaker: nothing is left to judge the fit\n")
    assert told.count("\n") == 1


def test_an_output_without_transcripts_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    says = f"transcripts: {tmp_path / 'out'}: no transcript is published there\n"
    assert select(tmp_path) == 2
    assert capsys.readouterr().err == says
    transcribed(str(sounds(tmp_path / "in", 2)), str(tmp_path / "out"), dead=["r0.wav", "r1.wav"])
    assert select(tmp_path) == 2  # published, but all of it are dead letters
    assert capsys.readouterr().err == says
