"""A run whose source and output are in a bucket, and a check that its result is exact."""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.storage.base import open_storage
from tests.support.archives import arguments, wav

SHARDS = 3


def upload(bucket: str, folder: Path, recordings: int) -> str:
    """Put tars of short wavs into the bucket. Returns their prefix as source.uri."""
    source = bucket.removesuffix("/out") + "/in"
    storage = open_storage(source)
    for shard in range(SHARDS):
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for number in range(shard, recordings, SHARDS):
                path = folder / f"r{number:03d}.wav"
                wav(path, 1.2 + number / 1000, number)
                archive.add(path, path.name)
        storage.put(f"shard-{shard}.tar", packed.getvalue())
    return source


def words_for(source: str, bucket: str, model: Path) -> list[str]:
    """The arguments of a command line that transcribes the source into the bucket."""
    words = [word for word in arguments(Path("/unused"), Path("/unused"), model) if "uri=" not in word]
    words = [word.replace("source.format=files", "source.format=webdataset") for word in words]
    return [*words, f"source.uri={source}", f"output.uri={bucket}", "plan.unit_recordings=1", "compute.canvases=16"]


def committed(bucket: str) -> int:
    """How many units are committed."""
    return sum(1 for _ in open_storage(bucket, create=False).list("commits/"))


def check_exact(bucket: str, recordings: int) -> None:
    """Every recording is in the transcripts once, and the books close. The parts are read directly from the bucket."""
    storage = open_storage(bucket, create=False)
    parts = []
    for key in storage.list("transcripts/"):
        with storage.open(key) as stream:
            parts.append(pq.read_table(stream, columns=["recording_id", "segment_index"]))
    rows = pa.concat_tables(parts).to_pylist()
    assert max(Counter((row["recording_id"], row["segment_index"]) for row in rows).values()) == 1
    names = {f"shard-{number % SHARDS}/r{number:03d}" for number in range(recordings)}
    assert {row["recording_id"] for row in rows} == names
    books = json.loads(storage.get("_run/accounting.json"))
    assert books["closed"]
    assert books["units_committed"] == recordings
    samples = sum(round((1.2 + number / 1000) * 16_000) for number in range(recordings))
    assert books["samples_in"] == samples
