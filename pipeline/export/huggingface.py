"""Hugging Face datasets: Parquet with the Audio feature, so that `load_dataset` of the folder decodes it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.export.layout import Format, Target, training_row
from pipeline.export.origin import Item
from pipeline.schemas import SAMPLE_RATE, to_table

ROW_GROUP = 100  # rows: about 20 MB of FLAC
_INTEGERS = ("start_ms", "end_ms", "channel", "source_offset", "source_bytes", "steps", "denoise_seed", "decode_seed")
_FLOATS = ("duration", "confidence", "expected_wer")
_TEXTS = (
    *("id", "text", "language", "speaker", "recording_id", "source_uri", "source_member", "source_version", "model"),
    *("model_revision", "fingerprint", "confidence_source", "calibrator", "policy"),
)


def write_parquet(items: Iterable[Item], target: Target) -> dict[str, Path]:
    """data/<split>-<n>.parquet: names by which `datasets` finds the splits."""
    schema, path, rows = schema_of(), target.folder / "rows.parquet", _rows(items)
    with pq.ParquetWriter(path, schema) as writer:
        while group := list(islice(rows, ROW_GROUP)):
            writer.write_table(to_table(group, schema))
    return {f"data/{target.shard.split}-{target.shard.number:06d}.parquet": path}


def schema_of() -> pa.Schema:
    """The schema, with the features that `datasets` reads from its metadata."""
    from datasets import Audio, Features, List, Value

    types = {"audio": Audio(sampling_rate=SAMPLE_RATE), "segment_indices": List(Value("int32"))}
    for names, kind in ((_TEXTS, "string"), (_INTEGERS, "int64"), (_FLOATS, "float64")):
        types |= {name: Value(kind) for name in names}
    return Features(types).arrow_schema


def _rows(items: Iterable[Item]) -> Iterator[dict[str, Any]]:
    for item in items:
        yield training_row(item) | {"audio": {"bytes": item.audio, "path": f"{item.label.label_id}.flac"}}


FORMAT = Format(segments=write_parquet)
