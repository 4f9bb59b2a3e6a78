"""From transcripts to a calibrator and back: the same confidences in a run and in an output that exists."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs import calibrate as job
from pipeline.calibration.calibrate import run_calibration
from pipeline.calibration.settings import CalibrateConfig
from pipeline.config import ConfigError, RunConfig
from pipeline.config_file import load
from pipeline.in_process import transcribe_here
from pipeline.notebook import read_transcripts
from pipeline.output.calibrator import Calibrator, Curve, Curves, read_file
from tests.support.labelled import archive, transcribed

SELF = Path(__file__).parents[2] / "pipeline" / "assets" / "evaluation" / "self.tar"


def transcribe(output: Path, calibrator: str) -> None:
    """English and German of the self evaluation by tiny."""
    given = [f"source.uri={SELF}", "source.include=*[de][en]/0[0-2]*", f"output.uri={output}", "model.name=tiny"]
    transcribe_here(load(RunConfig, None, [*given, f"model.calibrator={calibrator}"]))


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder: `raw`, transcripts with references, and `fit`, what is fitted on them."""
    folder = tmp_path_factory.mktemp("calibrate")
    transcribe(folder / "raw", "null")
    given = [f"sets.self.output={folder / 'raw'}", f"output.uri={folder / 'fit'}"]
    run_calibration(load(CalibrateConfig, None, given))
    return folder


def test_a_calibrator_gives_a_run_and_an_existing_output_the_same_confidences(
    fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = fitted / "fit" / "calibrator.json"
    raw = read_transcripts(str(fitted / "raw"))
    assert set(raw["confidence_source"].to_pylist()) == {"raw"}
    transcribe(tmp_path / "run", str(file))
    in_run = read_transcripts(str(tmp_path / "run"))
    assert "calibrated:all" in in_run["confidence_source"].to_pylist()
    assert not in_run["confidence"].equals(raw["confidence"])

    assert job.main(["--apply", f"calibrator={file}", f"output.uri={fitted / 'raw'}"]) == 0
    assert capsys.readouterr().out == f"{fitted / 'raw'}\n"
    applied = read_transcripts(str(fitted / "raw"))
    for name in ("recording_id", "text", "confidence", "confidence_source", "words", "signals"):
        assert applied[name].equals(in_run[name]), name
    summary = json.loads((fitted / "raw" / "_run" / "summary.json").read_text())
    assert summary["calibrator"] == read_file(file).id

    assert job.main(["--apply", f"output.uri={fitted / 'raw'}"]) == 0
    assert read_transcripts(str(fitted / "raw")).equals(raw)


def test_a_calibrator_of_a_calibrated_output_is_that_of_the_raw_one(fitted: Path, tmp_path: Path) -> None:
    """Only signals count, so an output may be calibrated before somebody fits on it."""
    file = fitted / "fit" / "calibrator.json"
    transcribe(tmp_path / "run", str(file))
    again = load(CalibrateConfig, None, [f"sets.self.output={tmp_path / 'run'}", f"output.uri={tmp_path / 'fit'}"])
    assert run_calibration(again).calibrator.curves == read_file(file).curves


def test_the_report_has_raw_and_calibrated_figures_and_plots(fitted: Path) -> None:
    report = json.loads((fitted / "fit" / "report.json").read_text())
    predictors = {one["predictor"] for one in report["figures"] if one["group"] == "all" and one["level"] == "word"}
    assert {"raw", "calibrated", "entropy_max", "ctc_score", "ctc_agreement"} <= predictors
    assert {one["key"] for one in report["figures"] if one["group"] == "language"} == {"de", "en"}
    page = (fitted / "fit" / "report.html").read_text()
    for name in ("reliability-word", "reliability-segment", "risk-word", "risk-segment"):
        assert page.count(f'class="{name}"') == 1


def test_a_calibrator_of_another_model_is_not_applied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage = transcribed(str(archive(tmp_path / "in", 2)), str(tmp_path / "out"))
    before = storage.get("_run/summary.json")
    curve = Curve(inputs=[], bias=0, scores=[0], values=[0.5], rows=1)
    file = tmp_path / "calibrator.json"
    file.write_bytes(Calibrator(model="other@1", curves={"all": Curves(word=curve, segment=curve)}).to_json())
    assert job.main(["--apply", f"calibrator={file}", f"output.uri={tmp_path / 'out'}"]) == 2
    assert capsys.readouterr().err == f"calibrator: it is for other@1, and {tmp_path / 'out'} is of tiny\n"
    assert storage.get("_run/summary.json") == before


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for given, says in (
        ([], "sets: none"),
        ([f"sets.a.output={tmp_path / 'empty'}"], f"sets: {tmp_path / 'empty'}: neither an output of jobs.transcribe"),
    ):
        with pytest.raises(ConfigError) as caught:
            run_calibration(load(CalibrateConfig, None, [*given, f"output.uri={tmp_path / 'fit'}"]))
        assert str(caught.value).startswith(says)
        assert "\n" not in str(caught.value)
