"""Hugging Face `datasets`: saved to disk, as Arrow files, in the cache or on the hub. Audio is never decoded here."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipeline.config import ConfigError, SourceConfig
from pipeline.schemas import BadRecording, Recording, RecordingRef
from pipeline.sources.access import columns, remote
from pipeline.sources.access.listing import local_size
from pipeline.storage.errors import storage_error

LIST_ROWS = 1000  # rows whose small columns are read at once
_SAVED = ("dataset_dict.json", "state.json")


def list_recordings(source: SourceConfig) -> Iterator[RecordingRef]:
    """Yield one ref per row of every split, or of source.split.

    source.uri is a folder of save_to_disk, .arrow files, or owner/name[:configuration[:split]] of the hub or its cache.
    Ids are as in `columns.Rows`, else "<split>/<row>", or "<row>" without splits. source_member is
    "<split>:<row>:<audio column>", size the mean bytes of a row. Raises ConfigError if there is no such dataset or
    column.
    """
    uri = source.uri if _is_hub_name(source.uri) else _absolute(source.uri)
    splits = _load(uri)
    if source.split is not None and source.split not in splits:
        existing = ", ".join(name for name in splits if name) or "no splits"
        raise ConfigError(f"source.split: {source.uri} has no {source.split!r} (it has {existing})")
    rows = columns.Rows(source)
    for split, dataset in splits.items() if source.split is None else [(source.split, splits[source.split])]:
        audio = columns.audio_column(dataset.features.arrow_schema, source, uri)
        wanted = columns.plain_columns(dataset.features.arrow_schema, source)
        if columns.has_path(dataset.features.arrow_schema.field(audio).type):
            wanted.append(audio)
        small = dataset.select_columns(wanted)
        size = dataset.data.nbytes // max(len(dataset.data), 1)
        base = RecordingRef("", "huggingface", uri, size=size, version=_version(uri, dataset))
        for index, row in enumerate(_rows(small, len(dataset), audio)):
            name = f"{split}/{index}" if split else str(index)
            ref = replace(base, recording_id=name, source_member=f"{split}:{index}:{audio}")
            yield rows.ref(ref, row)
    rows.say_repeated()


def read_recording(ref: RecordingRef) -> Recording:
    """Read the encoded audio of one row.

    Raises BadRecording: "missing_file", "too_large", "source_changed" if the dataset is not the one that was planned.
    Raises ConfigError if the dataset is gone.
    """
    split, index, column = (ref.source_member or "").split(":", 2)
    dataset, whole = _audio_of(ref.source_uri, split, column), _load(ref.source_uri).get(split)
    if dataset is None or int(index) >= len(dataset) or ref.version != _version(ref.source_uri, whole):
        detail = f"{ref.source_uri}: split {split!r} is another than the planned one, of which row {index} was meant"
        raise BadRecording("source_changed", detail)
    cell = dataset[int(index)][column]
    audio = columns.audio_bytes(cell, f"{ref.source_uri}/", columns.rate_of(ref))
    return Recording(audio, ref.language, ref.reference, ref.metadata)


def _rows(dataset: Any, count: int, audio: str) -> Iterator[dict[str, Any] | BadRecording]:
    """Yield the small columns of each row. Numbers of classes are replaced by the names of the classes."""
    if not dataset.column_names:
        yield from ({} for _ in range(count))
        return
    labels = {name: kind for name, kind in dataset.features.items() if hasattr(kind, "int2str")}
    for table in dataset.with_format("arrow").iter(batch_size=LIST_ROWS):
        if audio in table.column_names:  # its bytes stay where they are
            table = table.set_column(table.column_names.index(audio), audio, columns.only_paths(table.column(audio)))
        for row in columns.rows_of(table):
            if not isinstance(row, BadRecording):
                row = columns.with_path(row, audio)
                for name, kind in labels.items():
                    row[name] = None if row[name] is None or row[name] < 0 else kind.int2str(row[name])
            yield row


def _version(uri: str, dataset: Any) -> str:
    """Return what changes with a dataset: its fingerprint; on the local disk also the versions of its files.

    Files of a store or the hub are copied to each machine, so their times say nothing.
    """
    if "://" in uri or _is_hub_name(uri):
        return str(dataset._fingerprint)
    files = "".join(f"{file['filename']}:{local_size(file['filename'])[1]}\n" for file in dataset.cache_files)
    return f"{dataset._fingerprint}-{hashlib.sha256(files.encode()).hexdigest()[:16]}"


@lru_cache(maxsize=4)
def _audio_of(uri: str, split: str, column: str) -> Any:
    """Return the audio column alone, not decoded; None if split or column is gone."""
    from datasets import Audio

    dataset = _load(uri).get(split)
    if dataset is None or column not in dataset.column_names:
        return None
    dataset = dataset.select_columns([column])
    return dataset.cast_column(column, Audio(decode=False)) if isinstance(dataset.features[column], Audio) else dataset


@lru_cache(maxsize=2)
def _load(uri: str) -> dict[str, Any]:
    """Return the datasets by split; the key is "" if there are no splits. Raises ConfigError if it cannot be loaded."""
    try:
        import datasets
    except ImportError:
        raise ConfigError("source.format: huggingface needs the package `datasets`: pip install datasets") from None
    try:
        if _is_hub_name(uri):
            loaded = _from_hub(uri)
        elif uri.endswith(".arrow") or _arrow_files(uri):
            paths = [uri] if uri.endswith(".arrow") else _arrow_files(uri)
            loaded = {Path(path).stem: datasets.Dataset.from_file(path) for path in paths}
        else:
            if "://" in uri:
                remote.open_fs(uri)  # its error is one line, that of load_from_disk is not
            loaded = datasets.load_from_disk(uri)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as err:
        raise storage_error(err) or ConfigError(f"source.uri: {uri}: {remote.one_line(err)}") from None
    return dict(loaded) if isinstance(loaded, dict) else {"": loaded}


def _from_hub(name: str) -> Any:
    """Load from the hub, or from the cache if the hub cannot be reached. A gated dataset needs HF_TOKEN."""
    import datasets

    path, _, rest = name.partition(":")
    configuration, _, split = rest.partition(":")
    return datasets.load_dataset(path, configuration or None, split=split or None)


def _is_hub_name(uri: str) -> bool:
    """Return whether this is owner/name or owner/name:configuration:split, and no local folder has that name."""
    name = uri.partition(":")[0]
    owner, slash, rest = name.partition("/")
    has_form = bool(owner and slash and rest) and "/" not in rest and "://" not in uri and owner[0] not in ".~"
    return has_form and not Path(uri).exists()


def _arrow_files(uri: str) -> list[str]:
    """Return the .arrow files of a folder of the cache, none for a folder that `save_to_disk` wrote."""
    folder = Path(uri)
    if "://" in uri or not folder.is_dir() or any((folder / name).exists() for name in _SAVED):
        return []
    return sorted(str(path) for path in folder.glob("*.arrow"))


def _absolute(uri: str) -> str:
    if "://" in uri:
        return uri
    path = Path(uri).expanduser().absolute()
    if not path.exists():
        raise ConfigError(f"source.uri: {uri}: no such file or folder (a dataset of the hub is owner/name)")
    return str(path)
