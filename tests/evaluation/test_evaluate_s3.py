"""An evaluation from bucket to bucket, on a real Ceph gateway: two nights, a kept baseline, the gate."""

from __future__ import annotations

import pytest

from jobs.evaluate import run as job
from pipeline.config_file import load
from pipeline.evaluation.settings import EvaluateConfig
from pipeline.storage.base import open_storage
from tests.evaluation.test_evaluate import REFERENCE, finished


@pytest.mark.timeout(600)
def test_two_nights_in_a_bucket(bucket: str, capsys: pytest.CaptureFixture[str]) -> None:
    good = finished(f"{bucket}/good", [REFERENCE] * 24)
    worse = finished(f"{bucket}/worse", [REFERENCE.replace("old ", "")] * 24)
    codes = []
    for run, output in (("1", good), ("2", good), ("3", worse)):
        baseline = ["keep_as=golden"] if run == "1" else ["baseline=golden"]
        words = [f"output.uri={bucket}/nights", f"sets.dev.output={output}", f"run={run}", *baseline]
        codes.append(job(load(EvaluateConfig, None, words)))
    assert codes == [0, 0, 1]
    assert "rose from 0.00 % to 12.50 %" in capsys.readouterr().out
    nights = open_storage(f"{bucket}/nights")
    assert sum(key.endswith(".parquet") for key in nights.list("evaluations/")) == 3
    assert nights.exists("report.html")
    assert nights.exists("junit.xml")
