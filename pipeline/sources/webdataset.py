"""WebDataset: tar shards with audio members and their sidecars. Headers are listed, members are read by range."""

from __future__ import annotations

import contextlib
import logging
import posixpath
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import BinaryIO, NamedTuple

from pipeline.config import SourceConfig
from pipeline.schemas import ARCHIVE, BadRecording, Recording, RecordingRef
from pipeline.sources.access import fields, names, remote, tar
from pipeline.sources.access.companions import Unattached, describe_sidecars, files_and_settings, settings_of
from pipeline.sources.access.languages import fixed_language
from pipeline.sources.access.listing import File, Planned, list_files
from pipeline.sources.access.streams import ENDINGS, GzipArchive, is_called_gzip, is_gzip, open_archive
from pipeline.sources.access.tar import BLOCK, Member, walk
from pipeline.sources.access.tar_index import ENDING as INDEX
from pipeline.sources.access.tar_index import read_index, write_index
from pipeline.storage.base import in_order

REMOTE_WALKS = 16  # shards whose headers are fetched at the same time
SPAN_BYTES = 1 << 20  # if audio and sidecars have at most so much between them, one request fetches them all
Fetch = Callable[[str, int, int], bytes]  # URI, start and end; raises as remote.read_range
_UNSAFE = re.compile(r"^[/\\]|^[A-Za-z]:[/\\]|(^|[/\\])\.\.([/\\]|$)|\0")

log = logging.getLogger(__name__)
_local = threading.local()  # `open`: the gzip archive that this thread reads, and its key


@dataclass(slots=True)
class _Shard:
    """What the headers of one shard say."""

    audio: list[Member] = field(default_factory=list)
    sidecars: dict[str, dict[str, Member]] = field(default_factory=dict)  # by key, then by extension
    damage: tuple[str, str] | None = None  # reason and detail
    unread: int = 0  # bytes of the file behind the damage
    end: int = 0  # bytes of the archive, unpacked
    ignored: Counter[str] = field(default_factory=Counter)  # members by extension


def list_recordings(
    source: SourceConfig, planned: Planned | None = None, ignored: Counter[str] | None = None
) -> Iterator[RecordingRef]:
    """Yield one ref per audio member, shard by shard. Ids are "<shard without .tar>/<member without extension>".

    Shards that `planned` has are left out, and not opened. ignored: counts other files, and members that are neither
    audio nor belong to any, by extension.

    A member that is cut off is listed as far as it goes. If the rest of an archive cannot be read, one more ref
    "<shard>!archive" says why. Memory: the headers of one shard, of 16 remote ones. Raises ConfigError if there is no
    shard.
    """
    fs, _ = remote.open_fs(source.uri)
    ignored = Counter() if ignored is None else ignored
    shards = (named for named in _named_shards(source.uri, ignored) if not (planned and planned.has(named[1])))
    unattached = Unattached(source.uri)
    for refs, alone, others in in_order(
        partial(_list_shard, source), shards, 1 if remote.is_local(fs) else REMOTE_WALKS
    ):
        unattached.add(alone)
        ignored.update(others)
        ignored.update(map(names.extension_of, alone))
        yield from refs
    unattached.say()


def write_indexes(uri: str) -> Iterator[tuple[str, bool]]:
    """Write an index beside each shard that has none, 16 of them at the same time. Yields its URI and whether it did.

    Later listings read the index, as long as the shard does not change. Raises as `write_index`.
    """
    shards = [file for _, file in _named_shards(uri, Counter())]
    yield from zip((file.uri for file in shards), in_order(write_index, shards, REMOTE_WALKS), strict=True)


def read_recording(ref: RecordingRef, fetch: Fetch = remote.read_range) -> Recording:
    """Read the member and its sidecars. fetch: returns the bytes of a file from start to end.

    Raises BadRecording: "truncated_archive", "bad_metadata", "unsupported_language", "too_large"; "source_changed" if
    another member is at its place now; and as `remote.read_range`.
    """
    if is_gzip(ref.source_uri, ref.version) and ref.size > remote.MAX_RECORDING_BYTES:
        raise BadRecording("too_large", f"{ref.source_member}: {ref.size:,} bytes in a packed archive")
    sidecars, settings = files_and_settings(ref)
    spans = [(offset, size) for _, offset, size in sidecars]
    audio: bytes | BinaryIO
    if is_gzip(ref.source_uri, ref.version):
        (audio,) = _read_spans(ref, [(ref.offset or 0, ref.size)], fetch)
        return Recording(audio, ref.language, ref.reference, ref.metadata)
    offset = ref.offset or 0
    is_large = ref.size > remote.WHOLE_BYTES
    member, *texts = _read_spans(ref, [(offset - BLOCK, BLOCK + (0 if is_large else ref.size)), *spans], fetch)
    _check_header(ref, member[:BLOCK])
    audio = remote.read_part(ref.source_uri, offset, ref.size) if is_large else member[BLOCK:]
    payloads = {extension: text for (extension, _, _), text in zip(sidecars, texts, strict=True)}
    described = describe_sidecars(payloads, f"{ref.source_member}", **settings)
    return Recording(audio, *described)


def extent(ref: RecordingRef) -> tuple[int, int] | None:
    """Return where the bytes of a member and its sidecars begin and end, if one request fetches them all."""
    if ref.offset is None or ref.size > remote.WHOLE_BYTES or is_called_gzip(ref.source_uri):
        return None
    sidecars, _ = files_and_settings(ref)
    spans = [(ref.offset - BLOCK, BLOCK + ref.size), *((offset, size) for _, offset, size in sidecars)]
    start, end = min(offset for offset, _ in spans), max(offset + size for offset, size in spans)
    return (start, end) if end - start - sum(size for _, size in spans) <= SPAN_BYTES else None


class Fetched(NamedTuple):
    """Bytes of an archive from `first` on. version: as that of a RecordingRef, "" if the store has not said it."""

    first: int
    block: bytes
    version: str

    def read(self, _uri: str, start: int, end: int) -> bytes:
        """The bytes of the archive from start to end."""
        return self.block[start - self.first : end - self.first]


def fetched(refs: Sequence[RecordingRef]) -> Fetched:
    """Fetch members of one archive that have an `extent`, by one request."""
    extents = [between for ref in refs if (between := extent(ref))]
    first = min(start for start, _ in extents)
    return Fetched(first, *remote.read_versioned_range(refs[0].source_uri, first, max(end for _, end in extents)))


def _check_header(ref: RecordingRef, block: bytes) -> None:
    """Check that the header is still that of the planned member: a rewritten archive has others there.

    This also protects where a store gives no versions. If the name does not fit into a header, only the size is
    compared. Raises BadRecording("source_changed").
    """
    planned = ref.source_member or ""
    name, size = tar.name_and_size(block) or ("", -1)
    has_name = name == planned or len(planned) > tar.NAME_BYTES or not planned.isascii()
    is_same = has_name and (size == ref.size or ref.missing_bytes > 0)
    if not is_same:
        detail = f"{ref.source_uri}: written again since it was planned, {ref.source_member} is not where it was"
        raise BadRecording("source_changed", detail)


def _named_shards(uri: str, ignored: Counter[str]) -> Iterator[tuple[str, File]]:
    """Yield each shard with a unique name: a.tar is "a", and a.tar.gz beside it keeps its ending. Count other files."""
    used: set[str] = set()
    for file in list_files(uri):
        ending = next((end for end in ENDINGS if file.name.lower().endswith(end)), None)
        if ending or file.named:
            name = file.name[: -len(ending)] if ending else file.name
            name = file.name if name in used else name
            used.add(name)
            yield name, file
        elif not file.name.endswith(INDEX):
            ignored[names.extension_of(file.name)] += 1


def _list_shard(source: SourceConfig, named: tuple[str, File]) -> tuple[list[RecordingRef], list[str], Counter[str]]:
    """Return the refs of a shard, its sidecars that belong to no audio, and its other members by extension."""
    name, file = named
    shard = _read_headers(file)
    stems = {_clean(member.name).rpartition(".")[0] for member in shard.audio}
    refs: list[RecordingRef] = []
    used: set[str] = set()
    for member in shard.audio:
        keys = names.companions(_clean(member.name), shard.sidecars, stems)
        used.update(keys)
        refs.append(_ref(source, name, file, {k: v for key in keys for k, v in shard.sidecars[key].items()}, member))
        if member.problem and refs[-1].problem is None:
            refs[-1] = _as_far_as_it_goes(refs[-1], member, shard.end)
    if shard.damage:
        reason, detail = shard.damage
        archive = RecordingRef(f"{name}{ARCHIVE}", "webdataset", file.uri, size=shard.unread, version=file.version)
        refs.append(
            replace(archive, problem=reason, problem_detail=detail if file.uri in detail else f"{file.uri}: {detail}")
        )
    if shard.ignored:
        log.info("%s: members that are not audio, ignored: %s", file.uri, dict(shard.ignored.most_common(10)))
    alone = [member.name for key, found in shard.sidecars.items() if key not in used for member in found.values()]
    return refs, [f"{file.uri}: {name}" for name in alone], shard.ignored


def _ref(
    source: SourceConfig, shard_name: str, file: File, sidecars: dict[str, Member], member: Member
) -> RecordingRef:
    is_unsafe = _UNSAFE.search(member.name) is not None
    name = _clean(member.name)
    key = name.rpartition(".")[0]
    ref = RecordingRef(
        recording_id=f"{shard_name}/{key}",
        format="webdataset",
        source_uri=file.uri,
        source_member=member.name,
        offset=member.offset,
        size=member.size,
        version=file.version,
        language=fixed_language(source),
    )
    try:
        if is_unsafe:
            raise BadRecording("unsafe_name", f"{member.name!r:.300} leads out of the archive")
        if member.problem and member.problem[0] != "truncated_archive":
            raise BadRecording(member.problem[0], f"{member.name}: {member.problem[1]}")
        if big := [sidecar.name for sidecar in sidecars.values() if sidecar.size > fields.MAX_TEXT_BYTES]:
            raise BadRecording("bad_metadata", f"{big[0]}: more than {fields.MAX_TEXT_BYTES:,} bytes")
        if is_gzip(file.uri, file.version):
            payloads = {extension: sidecar.data or b"" for extension, sidecar in sidecars.items()}
            language, reference, metadata = describe_sidecars(
                payloads, member.name, language=source.language, text=source.text_column
            )
            return replace(ref, language=language, reference=reference, metadata=metadata)
        pointers = tuple((extension, sidecar.offset, sidecar.size) for extension, sidecar in sidecars.items())
        return replace(ref, sidecars=pointers + settings_of(source, ref.language))
    except BadRecording as err:
        return replace(ref, problem=err.reason, problem_detail=err.detail, **err.described)


def _as_far_as_it_goes(ref: RecordingRef, member: Member, end: int) -> RecordingRef:
    """The ref of a member that the end of its archive, at byte `end`, cuts: its first bytes are read."""
    has = max(0, end - member.offset)
    if 0 < has < member.size:
        return replace(ref, size=has, missing_bytes=member.size - has)
    reason, detail = member.problem or ("truncated_archive", "")
    return replace(ref, problem=reason, problem_detail=f"{member.name}: {detail}")


def _clean(name: str) -> str:
    """Return the name without "./" and the like. An unsafe name stays as it is."""
    return name if _UNSAFE.search(name) else posixpath.normpath(name)


def _read_headers(file: File) -> _Shard:
    shard = _Shard()
    is_packed = is_gzip(file.uri, file.version)

    def keep(name: str, size: int) -> bool:
        return is_packed and size <= fields.MAX_TEXT_BYTES and names.split_name(name, names.SIDECARS) is not None

    if index := read_index(file):
        for member in index.members:
            _add(shard, member)
        shard.unread, shard.end = max(0, file.size - index.consumed), file.size
        return shard
    try:
        with contextlib.closing(open_archive(file.uri, file.size, file.version)) as data:
            for member in walk(data, keep):
                _add(shard, member)
            shard.unread, shard.end = max(0, file.size - data.consumed), data.end
    except BadRecording as err:
        shard.damage, shard.unread = (err.reason, err.detail), file.size
    return shard


def _add(shard: _Shard, member: Member) -> None:
    """Add a member to what is known of its shard: audio, sidecar, ignored, or damage."""
    if not member.name:
        shard.damage = member.problem
        return
    audio = names.split_name(member.name)
    sidecar = names.split_name(member.name, names.SIDECARS)
    is_hidden = names.is_hidden(member.name) and not _UNSAFE.search(member.name)
    if is_hidden or not (audio or sidecar):
        shard.ignored[names.extension_of(member.name)] += 1
        if member.problem and member.problem[0] == "truncated_archive":
            shard.damage = member.problem
    elif audio:
        shard.audio.append(member)
        if member.problem and member.problem[0] == "truncated_archive":  # more may have followed
            shard.damage = (member.problem[0], f"{member.name}: {member.problem[1]}")
    elif sidecar and member.problem is None:
        shard.sidecars.setdefault(_clean(sidecar[0]), {}).setdefault(sidecar[1], member)
    elif member.problem and member.problem[0] != "unsafe_name":
        shard.damage = (member.problem[0], f"{member.name}: {member.problem[1]}")


def _read_spans(ref: RecordingRef, spans: list[tuple[int, int]], fetch: Fetch) -> list[bytes]:
    """Return the bytes of each (offset, size). One request fetches them all if they lie close together."""
    start, end = min(offset for offset, _ in spans), max(offset + size for offset, size in spans)
    if is_gzip(ref.source_uri, ref.version):
        read = [_unpack(ref, offset, size) for offset, size in spans]
    elif end - start - sum(size for _, size in spans) <= SPAN_BYTES:
        whole = fetch(ref.source_uri, start, end)
        read = [whole[offset - start : offset - start + size] for offset, size in spans]
    else:
        read = [fetch(ref.source_uri, offset, offset + size) for offset, size in spans]
    if any(len(data) < size for data, (_, size) in zip(read, spans, strict=True)):
        raise BadRecording("truncated_archive", f"{ref.source_uri}: shorter than when it was listed")
    return read


def _unpack(ref: RecordingRef, offset: int, size: int) -> bytes:
    """Return unpacked bytes. The archive stays open, so recordings read in its order need one pass over it."""
    key = (ref.source_uri, ref.version)
    opened: tuple[tuple[str, str], GzipArchive] | None = getattr(_local, "open", None)
    _local.open = None  # after an error the next call opens it again
    if opened and (opened[0] != key or opened[1].at > offset):
        opened[1].close()
        opened = None
    archive = opened[1] if opened else GzipArchive(ref.source_uri)
    data = archive.read(offset, size)
    _local.open = (key, archive)
    return data
