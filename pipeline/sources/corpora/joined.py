"""Rows of a table joined with their audio by its name: files of folders, members of .tar and .tar.gz archives."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable, Iterator
from dataclasses import replace

from pipeline.schemas import BadRecording, Recording, RecordingRef
from pipeline.sources import webdataset
from pipeline.sources.access import names, remote
from pipeline.sources.access.listing import File
from pipeline.sources.access.streams import Gunzip, Ranges
from pipeline.sources.access.tar import walk

log = logging.getLogger(__name__)


def join(refs: Iterable[RecordingRef], files: Iterable[File]) -> Iterator[RecordingRef]:
    """The same refs, each with the audio whose name without extension is the last part of its id.

    They come in the order of `files` (an archive is read forwards), those with a problem first. What has no audio
    follows with the problem "missing_file", or that of an archive which could not be read to its end; then the second
    rows of one audio file, as "duplicate_id". Looks at no more files than are needed. Memory: the rows.
    """
    rows: dict[str, RecordingRef] = {}
    again: list[RecordingRef] = []
    for ref in refs:
        key = ref.recording_id.rpartition("/")[2]
        if ref.problem is not None:
            yield ref
        elif key in rows:
            again.append(ref)
        else:
            rows[key] = ref
    damage: BadRecording | None = None
    for file in files if rows else ():
        audio = names.split_name(file.name.rpartition("/")[2])
        if audio and (found := rows.pop(audio[0], None)):
            yield replace(found, source_uri=file.uri, source_member=None, size=file.size, version=file.version)
        elif is_archive(file.name):
            damage = (yield from _members(file, rows)) or damage
        if not rows:
            break
    for ref in rows.values():
        where = f"{ref.source_uri}, {ref.source_member}"
        if damage is not None:
            yield replace(ref, problem=damage.reason, problem_detail=f"{where}: {damage.detail}")
        else:
            yield replace(ref, problem="missing_file", problem_detail=f"{where}: its audio is not there")
    for ref in again:
        detail = f"{ref.source_uri}, {ref.source_member}: an earlier row has this file"
        yield replace(ref, problem="duplicate_id", problem_detail=detail)


def read(ref: RecordingRef) -> Recording:
    """The audio file or member. Raises BadRecording as `remote.read_audio` and `webdataset.read_recording`."""
    if ref.source_member is None:
        audio = remote.read_audio(ref.source_uri, ref.size)
    else:
        audio = webdataset.read_recording(ref).audio
    return Recording(audio, ref.language, ref.reference, ref.metadata)


def is_archive(name: str) -> bool:
    return name.lower().endswith(webdataset.ENDINGS)


def _members(file: File, rows: dict[str, RecordingRef]) -> Generator[RecordingRef, None, BadRecording | None]:
    """Takes the rows out whose audio is in the archive. Returns why it cannot be read to its end, if so."""
    ignored = 0
    try:
        data = Gunzip(file.uri) if webdataset.is_gzip(file.uri) else Ranges(file.uri, file.size)
        try:
            for member in walk(data):
                reason, detail = member.problem or (None, None)
                audio = names.split_name(member.name.rpartition("/")[2])
                if audio and (found := rows.pop(audio[0], None)):
                    yield replace(
                        found,
                        source_uri=file.uri,
                        source_member=member.name,
                        offset=member.offset,
                        size=member.size,
                        version=file.version,
                        problem=reason,
                        problem_detail=detail and f"{file.uri}: {member.name}: {detail}",
                    )
                else:
                    ignored += 1
                if reason and (not member.name or reason == "truncated_archive"):
                    return BadRecording(reason, f"{file.uri}: {detail}")
                if not rows:
                    return None
        finally:
            data.close()
    except BadRecording as err:
        return err
    if ignored:
        log.info("%s: %d members without a row were ignored", file.uri, ignored)
    return None
