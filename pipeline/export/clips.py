"""The audio of some labels, each as a file of its own: for people who listen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from pipeline.export.cut import with_audio
from pipeline.export.labels import Label
from pipeline.export.origin import items, read_refs, read_run, unit_places
from pipeline.storage.base import Storage


def write_clips(
    target: Storage, folder: str, transcripts: Storage, rows: Iterable[Mapping[str, Any]]
) -> list[dict[str, str]]:
    """Put `folder`/LABEL_ID.flac of these rows of schemas.LABELS in the place of what is there.

    transcripts: the output that they are of. Returns a line about each label without audio: recording_id, reason,
    error. Raises StorageError if the source is out of reach.
    """
    labels = [Label(**{field.name: row[field.name] for field in fields(Label)}) for row in rows]
    labels.sort(key=lambda label: (label.unit_id, label.recording_id))
    run, places = read_run(transcripts), unit_places(transcripts)
    refs = read_refs(transcripts, [(unit, places[unit]) for unit in dict.fromkeys(one.unit_id for one in labels)])
    problems: list[dict[str, str]] = []
    with target.replace(folder) as files, target.scratch() as scratch:
        for item in with_audio(list(items(labels, refs, run)), run.config, "FLAC", problems):
            path = scratch / f"{item.label.label_id}.flac"
            path.write_bytes(item.audio)
            files.add(path.name, path)
    return problems
