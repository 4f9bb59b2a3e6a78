"""Figures in MLflow: the store is a folder, as `file:` addresses have it."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs import evaluate
from pipeline.evaluation.result import Verdict
from pipeline.evaluation.tracking import EVALUATION, MlflowConfig, Tracking
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
    Tracking(config, "nightly").log(NIGHT, {"report.html": "<p>first"})
    Tracking(config, "nightly").log(NIGHT, {"report.html": "<p>second"})
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
    Tracking(MlflowConfig(uri=store, experiment="asr"), "nightly").log(passed, {})
    client = mlflow.MlflowClient(tracking_uri=store)
    (run,) = client.search_runs([client.get_experiment_by_name("asr").experiment_id])
    assert run.data.tags["gate"] == "passed"


def test_a_store_that_refuses_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)  # MLflow refuses folders without it
    with pytest.raises(OutputError) as caught:
        Tracking(MlflowConfig(uri=f"file:{tmp_path}"), "nightly")
    assert str(caught.value).startswith(f"mlflow.uri: file:{tmp_path}: ")
    assert "\n" not in str(caught.value)
