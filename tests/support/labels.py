"""Builders for tests of labels: rows of transcripts, and an output that has them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.schemas import TRANSCRIPT, to_table
from pipeline.storage.base import open_storage
from tests.support.outputs import plan, ref


def segment(text: str = "the cat is on the table today", recording: str = "r0", **changes: Any) -> dict[str, Any]:
    """A row of schemas.TRANSCRIPT: two seconds of English by a model that is rather sure."""
    words = [
        {"text": word, "confidence": 0.9, "start_ms": None, "end_ms": None, "signals": None} for word in text.split()
    ]
    row = dict.fromkeys(TRANSCRIPT.names) | {"recording_id": recording, "segment_index": 0, "source_uri": "/in/a.tar"}
    row |= {"source_member": f"{recording}.flac", "start_ms": 0, "end_ms": 2000, "language": "en", "text": text}
    row |= {"words": words, "confidence": 0.9, "confidence_source": "raw", "overflow": False, "steps": 3}
    row |= {"chars_per_second": 10.0, "unit_id": "u", "model": "tiny@0", "fingerprint": "f"}
    row |= changes
    row["signals"] = row["signals"] or {"confidence_raw": row["confidence"]}
    return row


def speaker(name: str) -> str:
    """Metadata that names a speaker."""
    return json.dumps({"speaker": name})


def output(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """An output of jobs.transcribe with these transcripts and a plan of their recordings."""
    storage = open_storage(str(folder))
    names = dict.fromkeys(row["recording_id"] for row in rows)
    base = ref(0, sidecars=())
    plan(storage, [replace(base, recording_id=name, source_member=f"{name}.flac") for name in names])
    (folder / "transcripts").mkdir(exist_ok=True)
    pq.write_table(to_table(rows, TRANSCRIPT), folder / "transcripts" / "part-00000.parquet")
    return folder


def labels(folder: Path) -> list[dict[str, Any]]:
    """The rows of labels/, in their order."""
    tables = [pq.read_table(path) for path in sorted((folder / "labels").glob("part-*.parquet"))]
    rows: list[dict[str, Any]] = pa.concat_tables(tables).to_pylist()
    return rows
