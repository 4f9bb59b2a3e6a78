"""WebDataset: tar shards of audio members with sidecars; listed by their headers, read by range."""

from __future__ import annotations

import logging
import posixpath
import re
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import BinaryIO

from pipeline.config import LANGUAGES, SourceConfig
from pipeline.schemas import BadRecording, Recording, RecordingRef
from pipeline.sources.access import fields, names, remote, tar
from pipeline.sources.access.listing import File, list_files, version_now
from pipeline.sources.access.streams import Gunzip, Ranges
from pipeline.sources.access.tar import BLOCK, Member, walk
from pipeline.storage.base import in_order

ENDINGS = (".tar", ".tar.gz", ".tgz")
REMOTE_WALKS = 16  # shards whose headers are fetched at once
SPAN_BYTES = 1 << 20  # audio and sidecars with at most so much between them are fetched in one request
_LANGUAGE, _TEXT = "language:", "text:"  # pseudo sidecars: which key to take, for `read_recording`
_UNSAFE = re.compile(r"^[/\\]|^[A-Za-z]:[/\\]|(^|[/\\])\.\.([/\\]|$)|\0")

log = logging.getLogger(__name__)
_local = threading.local()  # the gzip stream this thread reads from


@dataclass(slots=True)
class _Shard:
    """What the headers of one shard say."""

    audio: list[Member] = field(default_factory=list)
    sidecars: dict[str, dict[str, Member]] = field(default_factory=dict)  # key -> extension -> member
    damage: tuple[str, str] | None = None
    ignored: Counter[str] = field(default_factory=Counter)  # by extension


def list_recordings(source: SourceConfig) -> Iterator[RecordingRef]:
    """One ref per audio member, shard by shard; ids are "<shard without .tar>/<member without extension>".

    A cut member has the problem "truncated_archive"; an archive that cannot be read further gives one more ref,
    "<shard>!archive". Memory: the headers of one shard (of 16 where they are remote). Raises ConfigError where there is
    no shard.
    """
    fs, _ = remote.open_fs(source.uri)
    shards = _named_shards(source.uri)
    for refs in in_order(partial(_list_shard, source), shards, 1 if remote.is_local(fs) else REMOTE_WALKS):
        yield from refs


def read_recording(ref: RecordingRef) -> Recording:
    """The member and its sidecars. Raises BadRecording: "truncated_archive", "bad_metadata", "unsupported_language",
    "corrupt_archive" where another member lies there since the archive was listed, and as `remote.read_range`.
    """
    if is_gzip(ref.source_uri) and ref.size > remote.MAX_RECORDING_BYTES:
        raise BadRecording("too_large", f"{ref.source_member}: {ref.size:,} bytes in a packed archive")
    settings = dict(extension.split(":", 1) for extension, _, _ in ref.sidecars if ":" in extension)
    sidecars = [sidecar for sidecar in ref.sidecars if ":" not in sidecar[0]]
    spans = [(offset, size) for _, offset, size in sidecars]
    audio: bytes | BinaryIO
    if is_gzip(ref.source_uri):
        (audio,) = _read_spans(ref, [(ref.offset or 0, ref.size)])
        return Recording(audio, ref.language, ref.reference, ref.metadata)
    offset = ref.offset or 0
    large = ref.size > remote.WHOLE_BYTES
    member, *texts = _read_spans(ref, [(offset - BLOCK, BLOCK + (0 if large else ref.size)), *spans])
    _check_header(ref, member[:BLOCK])
    audio = remote.read_audio(ref.source_uri, ref.size, offset) if large else member[BLOCK:]
    payloads = {extension: text for (extension, _, _), text in zip(sidecars, texts, strict=True)}
    language = ref.language or (f"column:{settings['language']}" if "language" in settings else None)
    found = describe_sidecars(payloads, f"{ref.source_member}", language=language, text=settings.get("text"))
    return Recording(audio, *found)


def _check_header(ref: RecordingRef, block: bytes) -> None:
    """An archive that was rewritten has other members at the places of the plan. Raises BadRecording.

    Of names that a header has no room for, only the size is compared. Sparse files have no header there: then the
    version says that all is well.
    """
    name = ref.source_member or ""
    found, size = tar.name_and_size(block) or ("", -1)
    same = size == ref.size and (found == name or len(name) > tar.NAME_BYTES or not name.isascii())
    if not same and ref.version != version_now(ref.source_uri):
        detail = f"{ref.source_uri}: rewritten since it was listed, {ref.source_member} is not where it was"
        raise BadRecording("corrupt_archive", detail)


def is_gzip(uri: str) -> bool:
    return uri.partition("::")[0].lower().endswith((".gz", ".tgz"))


def describe_sidecars(
    payloads: dict[str, bytes], name: str, *, language: str | None = None, text: str | None = None
) -> fields.Fields:
    """Sidecars by extension as fields: the keys of .json, then .txt as "text", .lang as "language" and .cls as "cls".

    A .cls that is the name of a known language is one. Raises as `fields.describe`.
    """
    columns = dict(fields.from_json(payloads["json"], f"{name}: .json")) if "json" in payloads else {}
    asked = (text, language and language.removeprefix(fields.COLUMN))
    for extension, known in (("txt", fields.TEXT_NAMES), ("lang", fields.LANGUAGE_NAMES), ("cls", ("cls",))):
        if extension in payloads:
            value = fields.from_bytes(payloads[extension], f"{name}: .{extension}").strip()
            has = any(columns.get(key) not in (None, "") for key in known)
            columns[extension if has or extension in asked else known[0]] = value
    if language is None and fields.is_language(columns.get("cls")) and not any(map(columns.get, fields.LANGUAGE_NAMES)):
        columns["language"] = columns.pop("cls")
    return fields.describe(columns, language=language, text=text)


def _named_shards(uri: str) -> Iterator[tuple[str, File]]:
    """Shards with their names, which are unique: a.tar is "a"; a.tar.gz beside it keeps its ending."""
    taken: set[str] = set()
    for file in list_files(uri):
        ending = next((end for end in ENDINGS if file.name.lower().endswith(end)), None)
        if ending or file.named:
            name = file.name[: -len(ending)] if ending else file.name
            name = file.name if name in taken else name
            taken.add(name)
            yield name, file


def _list_shard(source: SourceConfig, named: tuple[str, File]) -> list[RecordingRef]:
    name, file = named
    shard = _walk_shard(file)
    refs = [_ref(source, name, file, shard, member) for member in shard.audio]
    if shard.damage:
        reason, detail = shard.damage
        archive = RecordingRef(f"{name}!archive", "webdataset", file.uri, version=file.version)
        refs.append(
            replace(archive, problem=reason, problem_detail=detail if file.uri in detail else f"{file.uri}: {detail}")
        )
    if shard.ignored:
        log.info("%s: ignored other members: %s", file.uri, dict(shard.ignored.most_common(10)))
    return refs


def _ref(source: SourceConfig, shard_name: str, file: File, shard: _Shard, member: Member) -> RecordingRef:
    unsafe = _UNSAFE.search(member.name)
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
        language=source.language if source.language in LANGUAGES else None,
    )
    try:
        if unsafe:
            raise BadRecording("unsafe_name", f"{member.name!r:.300} leads out of the archive")
        if member.problem:
            raise BadRecording(member.problem[0], f"{member.name}: {member.problem[1]}")
        sidecars = shard.sidecars.get(name, {}) | shard.sidecars.get(key, {})
        if big := [found.name for found in sidecars.values() if found.size > fields.MAX_TEXT_BYTES]:
            raise BadRecording("bad_metadata", f"{big[0]}: more than {fields.MAX_TEXT_BYTES:,} bytes")
        if is_gzip(file.uri):
            payloads = {extension: found.data or b"" for extension, found in sidecars.items()}
            language, reference, metadata = describe_sidecars(
                payloads, member.name, language=source.language, text=source.text_column
            )
            return replace(ref, language=language, reference=reference, metadata=metadata)
        pointers = [(extension, found.offset, found.size) for extension, found in sidecars.items()]
        if source.language and not ref.language:
            pointers.append((f"{_LANGUAGE}{source.language.removeprefix(fields.COLUMN)}", 0, 0))
        if source.text_column:
            pointers.append((f"{_TEXT}{source.text_column}", 0, 0))
        return replace(ref, sidecars=tuple(pointers))
    except BadRecording as err:
        return replace(ref, problem=err.reason, problem_detail=err.detail)


def _clean(name: str) -> str:
    return name if _UNSAFE.search(name) else posixpath.normpath(name)


def _walk_shard(file: File) -> _Shard:
    shard = _Shard()
    packed = is_gzip(file.uri)

    def keep(name: str, size: int) -> bool:
        return packed and size <= fields.MAX_TEXT_BYTES and names.split_name(name, names.SIDECARS) is not None

    try:
        data = Gunzip(file.uri) if packed else Ranges(file.uri, file.size)
        try:
            for member in walk(data, keep):
                _take(shard, member)
        finally:
            data.close()
    except BadRecording as err:
        shard.damage = (err.reason, err.detail)
    return shard


def _take(shard: _Shard, member: Member) -> None:
    if not member.name:
        shard.damage = member.problem
        return
    audio = names.split_name(member.name)
    sidecar = names.split_name(member.name, names.SIDECARS)
    hidden = names.is_hidden(member.name) and not _UNSAFE.search(member.name)
    if hidden or not (audio or sidecar):
        shard.ignored[member.name.rpartition("/")[2].rpartition(".")[2]] += 1
        if member.problem and member.problem[0] == "truncated_archive":
            shard.damage = member.problem
    elif audio:
        shard.audio.append(member)
    elif sidecar and member.problem is None:
        shard.sidecars.setdefault(_clean(sidecar[0]), {}).setdefault(sidecar[1], member)
    elif member.problem and member.problem[0] != "unsafe_name":
        shard.damage = (member.problem[0], f"{member.name}: {member.problem[1]}")


def _read_spans(ref: RecordingRef, spans: list[tuple[int, int]]) -> list[bytes]:
    """(offset, size) each as bytes, in one request where they lie together."""
    start, end = min(offset for offset, _ in spans), max(offset + size for offset, size in spans)
    if is_gzip(ref.source_uri):
        parts = [_unpack(ref, offset, size) for offset, size in spans]
    elif end - start - sum(size for _, size in spans) <= SPAN_BYTES:
        whole = remote.read_range(ref.source_uri, start, end)
        parts = [whole[offset - start : offset - start + size] for offset, size in spans]
    else:
        parts = [remote.read_range(ref.source_uri, offset, offset + size) for offset, size in spans]
    if any(len(part) < size for part, (_, size) in zip(parts, spans, strict=True)):
        raise BadRecording("truncated_archive", f"{ref.source_uri}: shorter than when it was listed")
    return parts


def _unpack(ref: RecordingRef, offset: int, size: int) -> bytes:
    """Unpacked bytes. The stream stays open: recordings in the order of the archive cost one pass over it."""
    key = (ref.source_uri, ref.version)
    held: tuple[tuple[str, str], Gunzip] | None = getattr(_local, "held", None)
    _local.held = None
    if held and (held[0] != key or held[1].at > offset):
        held[1].close()
        held = None
    stream = held[1] if held else Gunzip(ref.source_uri)
    data = stream.read(offset, size)
    _local.held = (key, stream)
    return data
