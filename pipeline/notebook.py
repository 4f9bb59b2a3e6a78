"""For notebooks: transcribe an archive with one call, and read the table that it made.

>>> from pipeline import transcribe, read_transcripts
>>> summary = transcribe("recordings/", "out/mine", source={"language": "de"})
>>> transcripts = read_transcripts("out/mine")
>>> transcripts.to_pandas()  # or duckdb.sql("select recording_id, text from transcripts")
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import run
from pipeline.config import RunConfig, StorageConfig
from pipeline.config_file import validate
from pipeline.schemas import TRANSCRIPT
from pipeline.storage.base import open_storage


def transcribe(source_uri: str, output_uri: str, **settings: Any) -> dict[str, Any]:
    """Transcribe an archive, as `fullcanvas transcribe` does: what is committed already is not done again.

        >>> summary = transcribe("recordings/", "out/mine", source={"language": "de"}, compute={"decode_actors": 2})
        >>> summary["recordings_transcribed"], summary["recordings_dead_lettered"]

    Args:
        source_uri: a file, folder, glob (`**` allowed) or object-store prefix.
        output_uri: a local directory or s3://bucket/prefix. Several calls with it are one run that goes on.
        settings: the other sections of a config, each as a dict (`model={"name": "tiny"}`), and `publish`, `retry`;
            `fullcanvas transcribe --help` lists all of them.

    Returns:
        The content of _run/summary.json: counts of recordings, segments and dead letters, audio hours, speed. With
        `run={"partition": "1/8"}`, while other shares have units to do: `units_left` and `units_left_to_others`.

    Raises:
        ConfigError: a setting does not exist or has an impossible value; the source or the output cannot be used.
        OutputError: the output is damaged.
        StorageError: a store, a mount or a disk is out of reach; the same call goes on later.
        OverBudget: so much has failed that the run stopped; the same call goes on with another `budget`.
    """
    sections: dict[str, Any] = dict(settings)
    sections["source"] = {**settings.get("source", {}), "uri": source_uri}
    sections["output"] = {**settings.get("output", {}), "uri": output_uri}
    return run.transcribe(validate(RunConfig, sections))


def read_transcripts(output_uri: str, storage: dict[str, Any] | None = None) -> pa.Table:
    """The published transcripts: one row per segment, with the columns of `pipeline.schemas.TRANSCRIPT`.

        >>> transcripts = read_transcripts("out/mine")
        >>> transcripts.select(["recording_id", "start_ms", "text", "confidence"]).to_pandas()

    Args:
        output_uri: where `transcribe` put its output.
        storage: the section of that name, where the output is in an object store that needs it.

    Returns:
        All parts in one table, in the order of the plan, in memory. Larger ones are better read part by part
        (`OUT/transcripts/part-*.parquet`) with DuckDB, Polars, pandas or datasets.

    Raises:
        ConfigError: there is no output, or it cannot be read.
    """
    store = open_storage(output_uri, create=False, config=validate(StorageConfig, storage or {}))
    tables = [TRANSCRIPT.empty_table()]
    for key in sorted(store.list("transcripts/")):
        if key.endswith(".parquet"):
            with store.open(key) as stream:
                tables.append(pq.read_table(stream))
    return pa.concat_tables(tables)
