"""The probes of the embedded model: every difficulty is a set of its own, and the table has a row for each."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

from infra.tiny import probes
from infra.tiny.phrases import vocabulary
from pipeline.config import LANGUAGES
from tests.support.speech_engines import install_espeak


def test_every_probe_is_spoken_and_measured(tmp_path: Path) -> None:
    install_espeak()
    probes.make(tmp_path, per_language=1, engines=("espeak",))
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(kept) == len(probes.SETS)
    for path in kept:
        assert pq.read_table(path)["language"].to_pylist() == list(LANGUAGES)
    unknown = pq.read_table(tmp_path / f"{list(probes.SETS).index('unknown words')}.parquet").to_pylist()
    for row in unknown:
        words = set(row["text"]) if row["language"] == "zh" else set(row["text"].split())
        assert not words & vocabulary(row["language"]).words()
    table = probes.measure(tmp_path, "tiny")
    assert all(f"| {name} |" in table for name in probes.SETS)
    assert "AUROC" in table
    probes.make(tmp_path, per_language=1, engines=("espeak",))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == kept  # made once
