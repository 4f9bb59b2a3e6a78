"""For notebooks: transcribe a few files, or an archive, with one call; and read the table that an archive became.

>>> from pipeline import transcribe, read_transcripts
>>> transcripts = transcribe(["a.mp3", "b.wav"], model="whisper-base")
>>> summary = transcribe("recordings/", "out/mine", source={"language": "de"})
>>> transcripts = read_transcripts("out/mine")
>>> transcripts.to_pandas()  # or duckdb.sql("select recording_id, text from transcripts")
"""

from __future__ import annotations

import json
import logging
import os
import wave
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa

from pipeline import run
from pipeline.audio.pcm import to_pcm
from pipeline.config import ConfigError, RunConfig, StorageConfig
from pipeline.config_file import validate
from pipeline.output.tables import as_now, opened_part, part_keys, published_rows
from pipeline.schemas import BYTES_PER_SAMPLE, DEAD_LETTER, SAMPLE_RATE, TRANSCRIPT, to_table
from pipeline.storage.base import Storage, open_storage
from pipeline.storage.scratch import scratch_folder

log = logging.getLogger(__name__)

Address = str | os.PathLike[str]
Recording = Address | np.ndarray
TRANSCRIBED = TRANSCRIPT.append(pa.field("error", pa.string()))
OF_A_RUN = ("output", "run", "publish", "retry")  # settings that mean nothing without an output


@overload
def transcribe(recordings: Recording | Sequence[Recording], **settings: Any) -> pa.Table: ...


@overload
def transcribe(recordings: Address, output_uri: Address, **settings: Any) -> dict[str, Any]: ...


def transcribe(
    recordings: Recording | Sequence[Recording], output_uri: Address | None = None, **settings: Any
) -> pa.Table | dict[str, Any]:
    """Transcribe a few recordings into a table; or, with `output_uri`, an archive as `fullcanvas transcribe` does.

        >>> transcripts = transcribe(["a.mp3", "b.wav"], model="whisper-base", source={"language": "de"})
        >>> transcripts.to_pandas()[["recording_id", "start_ms", "text", "confidence", "error"]]

        >>> summary = transcribe("recordings/", "out/mine", source={"language": "de"}, compute={"decode_actors": 2})
        >>> summary["recordings_transcribed"], summary["recordings_dead_lettered"]

    Args:
        recordings: without `output_uri`: a path or address of an audio file, samples (floats in [-1, 1], one channel,
            16 kHz), or a list of these. They are transcribed in this process, with the same results as in a job. With
            `output_uri`: a file, folder, glob (`**` allowed) or object-store prefix. What is committed already is not
            done again.
        output_uri: a local directory or s3://bucket/prefix. Several calls with it are one run that goes on.
        settings: the other sections of a config, each as a dict (`model={"name": "tiny"}`, in short `model="tiny"`),
            and `publish`, `retry`; `fullcanvas transcribe --help` lists all of them.

    Returns:
        Without `output_uri`: the segments of all recordings in the order given, with the columns of
        `pipeline.schemas.TRANSCRIPT`, and `error`. A recording's id is its path as given; that of samples is
        `samples-0`, `samples-1`, ... by its place. A recording that cannot be transcribed has one row with null text,
        with the reason as `problem` and what exactly is wrong as `error`; the log has one line about it.

        With `output_uri`: the content of _run/summary.json: counts of recordings, segments and dead letters, audio
        hours, speed. With `run={"partition": "1/8"}`, while other shares have units to do: `units_left` and
        `units_left_to_others`.

    Raises:
        ConfigError: a setting does not exist or has an impossible value; the source or the output cannot be used.
        OutputError: the output is damaged.
        StorageError: a store, a mount or a disk is out of reach; the same call goes on later.
        OverBudget: so much has failed that the run stopped; the same call goes on with another `budget`.
    """
    sections: dict[str, Any] = dict(settings)
    if isinstance(sections.get("model"), str):
        sections["model"] = {"name": sections["model"]}
    if output_uri is None:
        return _transcribed(recordings, sections)
    if not isinstance(recordings, str | os.PathLike):
        raise ConfigError("output_uri: is for an archive, which is one path, glob or address; a list needs none")
    for name, address in (("source", recordings), ("output", output_uri)):
        sections[name] = _with(sections, name, uri=os.fspath(address))
    return run.transcribe(validate(RunConfig, sections))


def _with(sections: Mapping[str, Any], name: str, **more: object) -> dict[str, Any]:
    """A section as given, with `more` in it. Raises ConfigError if it is no section."""
    given = sections.get(name, {})
    if not isinstance(given, Mapping):
        raise ConfigError(f"{name}: must be a section of keys with values (given: {given!r:.100})")
    return {**given, **more}


def read_transcripts(output_uri: Address, storage: dict[str, Any] | None = None) -> pa.Table:
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
        ConfigError: there is no output, nothing of it is published, or it cannot be read.
        OutputError: a part is damaged.
    """
    return _published(open_storage(os.fspath(output_uri), create=False, config=validate(StorageConfig, storage or {})))


def _published(store: Storage) -> pa.Table:
    tables = []
    for key in part_keys(store, "transcripts"):
        with opened_part(store, key) as file:
            tables.append(as_now(file.read(), "transcripts", TRANSCRIPT.names, f"{store.uri}/{key}"))
    if not tables:
        raise ConfigError(f"output_uri: {store.uri}: nothing is published there")
    return pa.concat_tables(tables)


def _transcribed(recordings: Recording | Sequence[Recording], sections: dict[str, Any]) -> pa.Table:
    """The table of a few recordings. A manifest of them is the source of a run in a folder that does not stay."""
    from pipeline.in_process import transcribe_here  # imports torch, which the driver of an archive does not need

    if mistaken := [name for name in OF_A_RUN if name in sections]:
        raise ConfigError(f"{mistaken[0]}: needs output_uri")
    given = [recordings] if isinstance(recordings, str | os.PathLike | np.ndarray) else list(recordings)
    if not given:
        return TRANSCRIBED.empty_table()
    with scratch_folder("few-") as folder:
        places = dict(_named(given, folder))
        lines = (json.dumps({"id": name, "audio_filepath": path}) for name, path in places.items())
        manifest = folder / "recordings.jsonl"
        manifest.write_text("\n".join(lines))
        place = {"uri": str(manifest), "format": "manifest", "trust": True}  # the caller has chosen each path
        threads = {"threads_per_replica": os.cpu_count() or 1}
        wanted = {
            "source": _with(sections, "source", **place),
            "output": {"uri": str(folder / "out")},
            "compute": threads | _with(sections, "compute"),
        }
        store = transcribe_here(validate(RunConfig, sections | wanted))
        rows = [row | {"error": None} for row in _published(store).to_pylist()]
        for letter in published_rows(store, "dead_letters", DEAD_LETTER.names):
            log.warning("%s: %s: %s", letter["recording_id"], letter["reason"], letter["error"])
            known = {name: letter.get(name) for name in TRANSCRIBED.names}
            rows.append(known | {"problem": letter["reason"]})
    order = {name: number for number, name in enumerate(places)}
    rows.sort(key=lambda row: (order[row["recording_id"]], row["segment_index"] or 0))
    return to_table(rows, TRANSCRIBED)


def _named(given: Sequence[Recording], folder: Path) -> Iterator[tuple[str, str]]:
    """The id of each recording, and where it is. Samples become files of `folder`. Raises ConfigError."""
    for number, recording in enumerate(given):
        if isinstance(recording, np.ndarray):
            if recording.ndim != 1 or recording.dtype.kind != "f" or not np.isfinite(recording).all():
                raise ConfigError(
                    f"recordings: samples {number}: {recording.dtype} of shape {recording.shape}; they must be finite "
                    "floats in [-1, 1] of one channel, 16 kHz"
                )
            path = folder / f"samples-{number}.wav"
            with wave.open(str(path), "wb") as file:
                file.setparams((1, BYTES_PER_SAMPLE, SAMPLE_RATE, 0, "NONE", ""))
                file.writeframes(to_pcm(recording))
            yield path.stem, str(path)
        elif isinstance(recording, str | os.PathLike) and (name := os.fspath(recording)):
            # What is not UTF-8 cannot be in a table: such a name is written with escapes, and its row says why.
            readable = name.encode(errors="backslashreplace").decode()
            yield readable, name if "://" in name else os.path.abspath(name)  # noqa: PTH100 - links stay as they are
        else:
            given_as = " ".join(repr(recording).split())[:100]
            raise ConfigError(f"recordings: entry {number}: {given_as} is no path, no address, and no array of samples")
