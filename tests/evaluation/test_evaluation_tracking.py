"""Figures in MLflow: the store is a folder, as `file:` addresses have it."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import replace
from pathlib import Path

import pytest

from jobs import evaluate
from pipeline.evaluation.result import Verdict
from pipeline.evaluation.tracking import EVALUATION, OUTPUT, MlflowConfig, Tracking
from pipeline.storage.base import OutputError
from tests.support.evaluated import made_up_evaluation, made_up_rows

mlflow = pytest.importorskip("mlflow", reason="needs mlflow-skinny")

NIGHT = made_up_evaluation(made_up_rows(per_language=20), settings={"denoise.max_steps": 7, "sets.dev.output": "out/x"})


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return f"file:{tmp_path / 'mlruns'}"


def test_an_evaluation_is_a_run_and_replaces_itself(store: str) -> None:
    config = MlflowConfig(uri=store)
    Tracking(config, "nightly", "out/").log(NIGHT, {"report.html": "<p>first"})
    Tracking(config, "nightly", "out").log(NIGHT, {"report.html": "<p>second"})
    client = mlflow.MlflowClient(tracking_uri=store)
    (run,) = client.search_runs([client.get_experiment_by_name("nightly").experiment_id])
    rates = {(one.group, one.key): one.counts.rate for one in NIGHT.rates}
    assert run.info.run_name == NIGHT.evaluation
    assert run.info.status == "FINISHED"
    assert run.data.metrics["WER/all"] == rates["all", "all"]
    assert run.data.metrics["CER/zh"] == rates["language", "zh"]
    assert run.data.metrics["WER/set/fleurs de"] == rates["set", "fleurs de"]
    assert run.data.metrics["difference/de"] == 0.02
    assert run.data.params == {"denoise.max_steps": "7", "sets.dev.output": "out/x"}
    assert run.data.tags[EVALUATION] == NIGHT.evaluation
    assert (run.data.tags["gate"], run.data.tags["model"]) == ("failed", "tiny@0f3a")
    page = client.download_artifacts(run.info.run_id, "report.html")
    assert Path(page).read_text() == "<p>second"


def test_the_same_evaluation_in_another_output_has_a_run_of_its_own(store: str) -> None:
    """As two models side by side that differ in `compute` only."""
    for output in ("out/models/a", "out/models/b", "out/models/a"):
        Tracking(MlflowConfig(uri=store), "nightly", output).log(NIGHT, {})
    client = mlflow.MlflowClient(tracking_uri=store)
    runs = client.search_runs([client.get_experiment_by_name("nightly").experiment_id])
    assert sorted(Path(run.data.tags[OUTPUT]).name for run in runs) == ["a", "b"]


def test_an_earlier_run_stays_until_the_new_one_is_complete(store: str, tmp_path: Path) -> None:
    first = Tracking(MlflowConfig(uri=store), "nightly", "out")
    first.log(NIGHT, {"report.html": "<p>first"})
    with pytest.raises(OutputError):
        first.log(NIGHT, {"../report.html": "<p>refused"})
    client = mlflow.MlflowClient(tracking_uri=store)
    runs = client.search_runs(
        [client.get_experiment_by_name("nightly").experiment_id], "attributes.status = 'FINISHED'"
    )
    (path,) = [client.download_artifacts(run.info.run_id, "report.html") for run in runs]
    assert Path(path).read_text() == "<p>first"


def test_any_value_of_metadata_can_be_in_the_name_of_a_metric(store: str) -> None:
    shown = {"en domain: news/sport?": "en domain: news_sport_", "../..": ".._..", "é" * 300: "é" * 80}
    rates = [replace(NIGHT.rates[0], group="slice", key=key) for key in shown]
    Tracking(MlflowConfig(uri=store), "nightly", "out").log(replace(NIGHT, rates=rates), {})
    client = mlflow.MlflowClient(tracking_uri=store)
    (run,) = client.search_runs([client.get_experiment_by_name("nightly").experiment_id])
    assert {name.removeprefix("WER/slice/") for name in run.data.metrics if name.startswith("WER/")} == {
        *shown.values()
    }


def test_mlflow_does_not_report_its_use_unless_somebody_wants_it(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for given, kept in ((None, "true"), ("false", "false")):
        monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", given or "")
        if given is None:
            monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY")
        Tracking(MlflowConfig(uri=store), "nightly", "out")
        assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == kept


def test_the_job_sends_its_figures_where_the_setting_says(store: str, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("id,language,ref,hyp\na,de,eins zwei,eins\n")
    words = [f"sets.dev.hypotheses={tmp_path / 'x.csv'}", f"output.uri={tmp_path / 'out'}", "name=mine"]
    assert evaluate.main([*words, "gate.ceilings={de: 40%}", f"mlflow.uri={store}"]) == 1
    client = mlflow.MlflowClient(tracking_uri=store)
    (run,) = client.search_runs([client.get_experiment_by_name("mine").experiment_id])
    assert run.data.metrics["WER/de"] == 0.5
    assert run.data.params["gate.ceilings.de"] == "0.4"
    assert run.data.tags["gate"] == "failed"
    assert {one.path for one in client.list_artifacts(run.info.run_id)} == {"report.html", "junit.xml"}


def test_an_experiment_has_a_name_of_its_own_where_one_is_given(store: str) -> None:
    passed = made_up_evaluation(made_up_rows(per_language=2), verdict=Verdict(), settings={})
    Tracking(MlflowConfig(uri=store, experiment="asr"), "nightly", "out").log(passed, {})
    client = mlflow.MlflowClient(tracking_uri=store)
    (run,) = client.search_runs([client.get_experiment_by_name("asr").experiment_id])
    assert run.data.tags["gate"] == "passed"


@pytest.mark.skipif(importlib.util.find_spec("sqlalchemy") is not None, reason="is for MLflow without databases")
def test_a_store_that_needs_more_packages_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(OutputError) as caught:
        Tracking(MlflowConfig(uri=f"sqlite:///{tmp_path}/x.db"), "nightly", "out")
    assert str(caught.value).startswith(f"mlflow.uri: sqlite:///{tmp_path}/x.db: ")
    assert "\n" not in str(caught.value)


def test_a_store_that_refuses_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)  # MLflow refuses folders without it
    with pytest.raises(OutputError) as caught:
        Tracking(MlflowConfig(uri=f"file:{tmp_path}"), "nightly", "out")
    assert str(caught.value).startswith(f"mlflow.uri: file:{tmp_path}: ")
    assert "\n" not in str(caught.value)
