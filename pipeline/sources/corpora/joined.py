"""Joins rows of a table with their audio by its name: files in folders, or members of .tar and .tar.gz archives."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Generator, Iterable, Iterator
from dataclasses import replace

from pipeline.schemas import BadRecording, Recording, RecordingRef
from pipeline.sources import webdataset
from pipeline.sources.access import names, remote
from pipeline.sources.access.listing import File
from pipeline.sources.access.streams import is_archive, open_archive
from pipeline.sources.access.tar import Member, walk

log = logging.getLogger(__name__)


def join(refs: Iterable[RecordingRef], files: Iterable[File]) -> Iterator[RecordingRef]:
    """Yield each ref with its audio: the file or member whose name without extension is the last part of the id.

    First come the refs with a problem, then those with audio in the order of `files`, since a packed archive can only
    be read forwards. Then come those without audio: "missing_file", or the problem of an archive whose rest could not
    be read. Last come further rows of the same audio file: "duplicate_id". No more files are listed than needed.
    Memory: the rows.
    """
    waiting: dict[str, RecordingRef] = {}  # rows without audio so far, by the name of their audio
    repeated: list[RecordingRef] = []
    for ref in refs:
        name = ref.recording_id.rpartition("/")[2]
        if ref.problem is not None:
            yield ref
        elif name in waiting:
            repeated.append(ref)
        else:
            waiting[name] = ref
    damage = (yield from _with_audio(waiting, files)) if waiting else None
    for ref in waiting.values():
        where = f"{ref.source_uri}, {ref.source_member}"
        if damage is not None:
            yield replace(ref, problem=damage.reason, problem_detail=f"{where}: {damage.detail}")
        else:
            yield replace(ref, problem="missing_file", problem_detail=f"{where}: there is no audio of this name")
    for ref in repeated:
        detail = f"{ref.source_uri}, {ref.source_member}: an earlier row has the same audio file"
        yield replace(ref, problem="duplicate_id", problem_detail=detail)


def read_recording(ref: RecordingRef, fetch: webdataset.Fetch = remote.read_range) -> Recording:
    """Read the audio file or member. Raises BadRecording as `remote.read_audio` and `webdataset.read_recording`."""
    if ref.source_member is not None:
        audio, version = webdataset.read_recording(ref, fetch).audio, ""
    else:
        audio, version = remote.read_audio(ref.source_uri, ref.size)
    return Recording(audio, ref.language, ref.reference, ref.metadata, version)


def _with_audio(
    waiting: dict[str, RecordingRef], files: Iterable[File]
) -> Generator[RecordingRef, None, BadRecording | None]:
    """Yield the rows whose audio is in `files`, and remove them from `waiting`. Returns the damage of an archive."""
    damage: BadRecording | None = None
    for file in files:
        audio = names.split_name(file.name.rpartition("/")[2])
        if audio and (ref := waiting.pop(audio[0], None)):
            yield replace(ref, source_uri=file.uri, source_member=None, size=file.size, version=file.version)
        elif is_archive(file.name):
            damage = (yield from _with_members(waiting, file)) or damage
        if not waiting:
            break
    return damage


def _with_members(waiting: dict[str, RecordingRef], file: File) -> Generator[RecordingRef, None, BadRecording | None]:
    """Do what `_with_audio` does with one archive. Returns why its rest cannot be read, if so."""
    ignored = 0
    try:
        with contextlib.closing(open_archive(file.uri, file.size, file.version)) as data:
            for member in walk(data):
                audio = names.split_name(member.name.rpartition("/")[2])
                if audio and (ref := waiting.pop(audio[0], None)):
                    yield _with_member(ref, file, member)
                else:
                    ignored += 1
                if member.problem and (not member.name or member.problem[0] == "truncated_archive"):
                    return BadRecording(member.problem[0], f"{file.uri}: {member.problem[1]}")
                if not waiting:
                    return None
    except BadRecording as err:
        return err
    if ignored:
        log.info("%s: %d members that no row names were ignored", file.uri, ignored)
    return None


def _with_member(ref: RecordingRef, file: File, member: Member) -> RecordingRef:
    reason, detail = member.problem or (None, None)
    return replace(
        ref,
        source_uri=file.uri,
        source_member=member.name,
        offset=member.offset,
        size=member.size,
        version=file.version,
        problem=reason,
        problem_detail=detail and f"{file.uri}: {member.name}: {detail}",
    )
