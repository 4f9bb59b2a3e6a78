"""The figures of an evaluation in an MLflow tracking store, where model teams look. Needs the extra [mlflow]."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field

from pipeline.config import ConfigError, Section, place, public
from pipeline.evaluation.result import RECORDED, Evaluation
from pipeline.storage.base import OutputError

EVALUATION = "fullcanvas.evaluation"  # the tag with the id of the evaluation
OUTPUT = "fullcanvas.output"  # the tag with the address of its output
_FORBIDDEN = re.compile(r"[^\w\-. :]")  # in a part of a metric's name; a slash is between two parts
_LONGEST_KEY = 80  # characters of the last part: a folder has a file of this name, so 255 bytes at most
_LONGEST = 500  # characters of a parameter


class MlflowConfig(Section):
    """Where MLflow keeps the figures too. Needs the extra [mlflow]."""

    uri: str | None = Field(
        None, description="tracking URI: http://HOST:5000, https://..., file:/path; null: no MLflow"
    )
    experiment: str | None = Field(None, description="null: the name of the evaluation")


class Tracking:
    """One experiment of a tracking store."""

    def __init__(self, config: MlflowConfig, name: str, output: str) -> None:
        """Find or make the experiment. name: of the evaluation. output: its address.

        Raises ConfigError where MLflow is not installed, OutputError where the store refuses or is out of reach.
        """
        if importlib.util.find_spec("mlflow") is None:
            raise ConfigError("mlflow.uri: MLflow is not installed: pip install 'fullcanvas[mlflow]'")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        import mlflow

        self.uri, self.output = public(config.uri or ""), public(place(output))
        self.errors = (mlflow.exceptions.MlflowException, ImportError)  # a database needs packages of its own
        experiment = config.experiment or name
        try:
            self.client = mlflow.MlflowClient(tracking_uri=config.uri)
            known = self.client.get_experiment_by_name(experiment)
            self.experiment = known.experiment_id if known else self.client.create_experiment(experiment)
        except self.errors as err:
            raise OutputError(f"mlflow.uri: {self.uri}: {' '.join(str(err).split())}") from None

    def log(self, evaluation: Evaluation, pages: Mapping[str, str]) -> None:
        """One run: rates as metrics, settings as parameters, the rest as tags, and the pages, by their names.

        An evaluation that is made again in the same output replaces its run. Raises OutputError.
        """
        from mlflow.entities import Metric, Param, RunTag

        when = int(evaluation.evaluated_at.timestamp() * 1000)
        metrics = [Metric(name, value, when, 0) for name, value in _figures(evaluation)]
        params = [Param(name, str(value)[:_LONGEST]) for name, value in evaluation.settings.items()]
        facts = {**evaluation.about, "gate": "passed" if evaluation.verdict.passed else "failed"}
        if "git_commit" in facts:
            facts["mlflow.source.git.commit"] = facts["git_commit"]
        try:
            same = self.client.search_runs([self.experiment], f"tags.`{EVALUATION}` = '{evaluation.evaluation}'")
            identity = {EVALUATION: evaluation.evaluation, OUTPUT: self.output}
            run = self.client.create_run(self.experiment, when, identity, evaluation.evaluation)
            tags = [RunTag(name, value) for name, value in facts.items()]
            for start in range(0, max(len(metrics), len(params)), 100):  # a batch has at most 100 parameters
                some = slice(start, start + 100)
                self.client.log_batch(run.info.run_id, metrics[some], params[some], tags[some])
            for name, text in pages.items():
                self.client.log_text(run.info.run_id, text, name)
            self.client.set_terminated(run.info.run_id)
            for old in same:
                if old.data.tags.get(OUTPUT) == self.output:
                    self.client.delete_run(old.info.run_id)
        except self.errors as err:
            raise OutputError(f"mlflow.uri: {self.uri}: {' '.join(str(err).split())}") from None


def _figures(evaluation: Evaluation) -> Iterator[tuple[str, Any]]:
    """Name and value of each metric; nothing for a figure that does not exist."""
    for rates in evaluation.rates:
        if rates.group in RECORDED and rates.counts.rate is not None:
            key = _FORBIDDEN.sub("_", rates.key)[:_LONGEST_KEY].rstrip()
            name = key if rates.group in ("all", "language") else f"{rates.group}/{key}"
            yield f"{rates.metric}/{name}", rates.counts.rate
            yield f"coverage/{name}", rates.coverage
    for one in evaluation.comparisons:
        yield f"difference/{one.language}", one.difference
    if evaluation.speed.rtfx is not None:
        yield "pipeline_rtfx", evaluation.speed.rtfx
