"""The repository's own gate: it is open for the embedded model, and closes when one word in thirty is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parents[2]


def evaluate(output: Path, *overrides: str) -> subprocess.Popen[str]:
    words = ["--config", "configs/evaluate-self.yaml", f"output.uri={output}", "run=ci", *overrides]
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.evaluate", *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_gate_is_open_for_the_model_as_it_is_and_closes_on_damage(tmp_path: Path) -> None:
    output = tmp_path / "out"
    unchanged = evaluate(output)
    printed, said = unchanged.communicate()
    assert unchanged.returncode == 0, printed + said
    assert "passed" in printed
    rows = pq.read_table(output / "evaluations", partitioning="hive")
    assert rows.num_rows == 240
    assert len(set(rows["recording_id"].to_pylist())) == 240
    assert set(rows["status"].to_pylist()) == {"transcribed"}
    (accounting,) = output.glob("runs/ci/*/_run/accounting.json")
    assert json.loads(accounting.read_text())["closed"]

    damaged = evaluate(output, "corrupt.delete_words=0.03")
    printed, said = damaged.communicate()
    assert damaged.returncode == 1, printed + said
    assert "starting Ray" not in said  # nothing is transcribed twice
    reasons = [line for line in printed.splitlines() if "FAILED" in line]
    assert 1 <= len(reasons) <= 3
    assert "rose from" in reasons[0]
