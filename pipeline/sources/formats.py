"""The table of formats. Each format can do two things: list its recordings lazily, and read one of them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from typing import NamedTuple

from pipeline.config import ConfigError, SourceConfig
from pipeline.schemas import ARCHIVE, BadRecording, Recording, RecordingRef
from pipeline.sources import files, huggingface, manifest, parquet, webdataset
from pipeline.sources.access import metadata_tables, names, streams, trust
from pipeline.sources.access.languages import language_of_path
from pipeline.sources.access.lines import kind_of
from pipeline.sources.access.listing import File, Planned, check_version, find_file, list_files
from pipeline.sources.access.streams import is_called_gzip, is_gzip
from pipeline.sources.access.tar_index import ENDING as INDEX
from pipeline.sources.corpora import commonvoice, fleurs, joined, librispeech, mls, voxpopuli
from pipeline.sources.corpora.splits import is_corpus
from pipeline.storage.errors import failure

DETECTION_FILES = 1000  # files whose names decide what source.format=auto is

log = logging.getLogger(__name__)


class _Format(NamedTuple):
    list_recordings: Callable[..., Iterator[RecordingRef]]  # of source; `planned` if it skips, `ignored` if it counts
    read_recording: Callable[..., Recording]  # of a ref; of a member of an archive also `fetch`
    content: str  # what it lists, for the message that there is none
    files: Callable[[RecordingRef], list[str]] = lambda ref: [ref.source_uri]  # ref.version has the version of each
    skips: bool = False  # listing opens each object, and need not open those that an earlier plan has
    counts: bool = False  # listing counts the files that it leaves out


_FORMATS = {
    "webdataset": _Format(
        webdataset.list_recordings,
        webdataset.read_recording,
        "audio in .tar, .tar.gz, .tgz files",
        skips=True,
        counts=True,
    ),
    "parquet": _Format(
        parquet.list_recordings, parquet.read_recording, "rows in .parquet files", skips=True, counts=True
    ),
    "files": _Format(files.list_recordings, files.read_recording, "audio files", files.files_of, counts=True),
    "manifest": _Format(manifest.list_recordings, manifest.read_recording, "lines in .jsonl, .csv or .tsv files"),
    "librispeech": _Format(librispeech.list_recordings, librispeech.read_recording, "audio files"),
    "huggingface": _Format(huggingface.list_recordings, huggingface.read_recording, "rows", lambda _: []),
    "fleurs": _Format(fleurs.list_recordings, joined.read_recording, "rows in the table"),
    "commonvoice": _Format(commonvoice.list_recordings, joined.read_recording, "rows in the table"),
    "voxpopuli": _Format(voxpopuli.list_recordings, joined.read_recording, "rows in the table"),
    "mls": _Format(mls.list_recordings, joined.read_recording, "lines in transcripts.txt"),
}
SKIPPING = tuple(name for name, kind in _FORMATS.items() if kind.skips)  # one object has many recordings
RELEASES = ("fleurs", "commonvoice", "voxpopuli", "mls", "huggingface")  # they do not grow; listing loads all of it
_BY_PLACE = ("parquet", "huggingface")  # a row's number says which recording it is
_CORPORA = {
    "fleurs": fleurs.LAYOUT,
    "commonvoice": commonvoice.LAYOUT,
    "voxpopuli": voxpopuli.LAYOUT,
    "mls": mls.LAYOUT,
}


def list_recordings(
    source: SourceConfig, planned: Planned | None = None, ignored: Counter[str] | None = None
) -> Iterator[RecordingRef]:
    """Yield the recordings of a source, lazily and in a stable order. A recording that cannot be read has a `problem`.

    Ids are those of the source, and a manifest may have one twice. Languages are known here, except those in sidecars,
    which are read together with the audio. Raises ConfigError, when it is called, if there is no recording.
    planned: of an earlier plan of this source. Recordings in archives and tables that it has are left out, and these
    objects are not opened; then there may be no recording. ignored: counts the files that are left out because of their
    names, by extension, where the format can tell.
    """
    trust.apply(source)
    include, exclude = (_matcher(key, getattr(source, key)) for key in ("include", "exclude"))
    name = detect_format(source.uri) if source.format == "auto" else source.format
    if source.split is not None and name not in (*_CORPORA, "huggingface"):
        raise ConfigError(f"source.split: format {name} has no splits; source.uri says what is read")
    more: dict[str, object] = {"planned": planned} if _FORMATS[name].skips else {}
    more |= {"ignored": ignored} if _FORMATS[name].counts else {}
    listed = _with_languages(source, _FORMATS[name].list_recordings(source, **more))
    if planned is None:
        listed = _first_now(listed, f"source.uri: {source.uri}: no {_FORMATS[name].content} (format {name})")
    if include is None and exclude is None:
        return listed
    chosen = (
        ref
        for ref in listed
        if (include is None or include(ref.recording_id) or _has_unknown_ids(ref))
        and not (exclude and exclude(ref.recording_id))
    )
    if planned is not None:
        return chosen
    return _first_now(chosen, f"source.{'include' if include else 'exclude'}: no recording of {source.uri} is left")


def write_indexes(source: SourceConfig) -> Iterator[tuple[str, bool]]:
    """Do what `webdataset.write_indexes` does. Raises ConfigError if the source has another format."""
    trust.apply(source)
    name = detect_format(source.uri) if source.format == "auto" else source.format
    if name != "webdataset":
        raise ConfigError(f"source.format: {source.uri} is {name}; only .tar shards have an index")
    return webdataset.write_indexes(source.uri)


def read_recording(ref: RecordingRef) -> Recording:
    """Read the encoded audio and what the source says about it.

    The versions of the files are compared with the plan: what was read belongs to that version, or it is not used. A
    store that does not say that version together with the bytes is asked for it afterwards. Raises BadRecording with a
    reason of schemas.REASONS, StorageError if the store does not answer any more, refuses the keys or is gone.
    """
    if ref.problem is not None:
        raise BadRecording(ref.problem, ref.problem_detail or "")
    try:
        read = _FORMATS[ref.format].read_recording(ref)
    except BadRecording:
        check_versions(ref)  # bytes of another version may look like anything
        raise
    except ConfigError as err:  # what could be opened when it was planned
        raise failure(ref.source_uri, str(err).removeprefix("source.uri: "), "gone") from None
    try:
        if read.version != ref.version:
            check_versions(ref)
    except BaseException:
        read.close()
        raise
    return read


def check_versions(ref: RecordingRef) -> None:
    """Raise BadRecording("source_changed") if a file of the recording was written again after it was planned."""
    for uri, version in zip(_FORMATS[ref.format].files(ref), ref.version.split("\n"), strict=False):
        check_version(uri, version)


def are_read_forwards(ref: RecordingRef) -> bool:
    """Return whether recordings beside this one are read in their order, by one thread, with a file that stays open."""
    return ref.format in _BY_PLACE or (ref.source_member is not None and is_called_gzip(ref.source_uri))


def read_neighbours(refs: Sequence[RecordingRef]) -> dict[int, Recording]:
    """Read members of one plain archive by one request, or rows of one table. Returns them by their index in `refs`.

    A version that the store has not said with the bytes is compared once, afterwards. What cannot be read is left out:
    `read_recording` says why.
    """
    first, read = refs[0], _FORMATS[refs[0].format].read_recording
    fetched = None
    if not are_read_forwards(first):
        if is_gzip(first.source_uri, first.version):  # and is not called so
            return {}
        fetched = webdataset.fetched(refs)
        read = partial(read, fetch=fetched.read)
    done: dict[int, Recording] = {}
    try:
        for index, ref in enumerate(refs):
            with suppress(BadRecording):
                done[index] = read(ref)
        versions = {fetched.version} if fetched else {recording.version for recording in done.values()}
        if versions != {first.version}:
            check_versions(first)
    except BaseException:
        for recording in done.values():
            recording.close()
        raise
    return done


def as_it_is_now(ref: RecordingRef) -> RecordingRef:
    """The recording with versions and size of its files as they are now, where its name says which recording it is.

    In archives and tables a place says that. A file of them that was written again may have another recording there, so
    the version stays the planned one.
    """
    if not ref.version or ref.source_member is not None or ref.offset is not None or ref.format in _BY_PLACE:
        return ref
    planned = ref.version.split("\n")
    now = [find_file(uri) for uri, _ in zip(_FORMATS[ref.format].files(ref), planned, strict=False)]
    versions = [file.version if file else old for file, old in zip(now, planned, strict=False)]
    size = now[0].size if now[0] else ref.size
    return replace(ref, version="\n".join(versions), size=size)


def is_there(ref: RecordingRef) -> bool:
    """Return whether a recording whose file was missing when it was listed has its file now."""
    return ref.problem == "missing_file" and ref.source_member is None and find_file(ref.source_uri) is not None


def detect_format(uri: str) -> str:
    """Return the format of what is at `uri`, by the names of its first thousand files. The log says which it is.

    A corpus is looked for if a name hints at one. Raises ConfigError if nothing is there, or if no format fits.
    """
    first = list(islice(list_files(uri), DETECTION_FILES))
    counts = Counter(_kind(file.name) for file in first)
    name = _most_common_format(counts)
    if name not in ("huggingface", "parquet", "librispeech"):
        name = next((corpus for corpus, layout in _CORPORA.items() if is_corpus(uri, first, layout)), name)
    if name is None:
        raise ConfigError(f"source.format: cannot detect what {uri} is; set it to one of {', '.join(_FORMATS)}")
    if name not in ("librispeech", *_CORPORA):  # tables, archives and audio all belong to such a corpus
        others = {kind: counts[kind] for kind in ("webdataset", "parquet", "files", "manifest") if counts[kind]}
        others.pop(name, None)
        if name == "files" and "manifest" in others:
            others["manifest"] -= _descriptions(first)
        others = {kind: count for kind, count in others.items() if count}
        if others:
            log.warning("source.format: auto: %s also has files of other formats, which are not read: %s", uri, others)
    counted = ", ".join(f"{count} of {kind}" for kind, count in counts.most_common())
    log.info("source.format: auto: %s is read as %s (its first %d files: %s)", uri, name, counts.total(), counted)
    return name


def _descriptions(files: list[File]) -> int:
    """Return how many of these files are tables or companion files that describe audio files among them."""
    stems = {stem for file in files if (split := names.split_name(file.name)) for stem in (split[0], file.name)}
    return sum(
        file.name.rpartition("/")[2].lower() in metadata_tables.NAMES
        or (file.name.lower().endswith(".json") and file.name.rpartition(".")[0] in stems)
        for file in files
    )


def _most_common_format(counts: Counter[str]) -> str | None:
    """Return the format that most names are of; None if there is none."""
    if counts["huggingface"]:
        return "huggingface"
    audio = max(("webdataset", "parquet", "files"), key=lambda kind: counts[kind])
    if counts[audio]:
        return "librispeech" if audio == "files" and counts["librispeech"] else audio
    return "manifest" if counts["manifest"] else None


def _kind(name: str) -> str:
    """Return the format that a file of this name belongs to; "nothing" if to none."""
    last = name.rpartition("/")[2].lower()
    if last.endswith(INDEX):
        return "nothing"
    if last in ("dataset_dict.json", "state.json") or last.endswith(".arrow"):
        return "huggingface"
    if last.endswith(streams.ENDINGS):
        return "webdataset"
    if last.endswith(".trans.txt"):
        return "librispeech"
    if last.endswith((".parquet", ".pq")):
        return "parquet"
    if names.split_name(last):
        return "files"
    return "manifest" if kind_of(last) else "nothing"


def _first_now(refs: Iterator[RecordingRef], message: str) -> Iterator[RecordingRef]:
    """Return the same refs after fetching the first one. Raises ConfigError(message) if there is none."""
    first = next(refs, None)
    if first is None:
        raise ConfigError(message)
    return chain([first], refs)


def _with_languages(source: SourceConfig, refs: Iterator[RecordingRef]) -> Iterator[RecordingRef]:
    """Yield the same refs, with the language that their path says if source.language=path:REGEX is set.

    The path is that of the file, in an archive followed by that of the member. The log says once how many paths do not
    match.
    """
    find = language_of_path(source)
    if find is None:
        yield from refs
        return
    unmatched = 0
    for ref in refs:
        try:
            language = find(f"{ref.source_uri}/{ref.source_member or ''}".rstrip("/"))
        except BadRecording as err:
            detail = f"{ref.source_uri}: {err.detail}"
            yield ref if ref.problem else replace(ref, problem=err.reason, problem_detail=detail)
        else:
            unmatched += language is None
            yield replace(ref, language=language)
    if unmatched:
        log.warning("source.language: %s: %d recordings have no language in their path", source.language, unmatched)


def _has_unknown_ids(ref: RecordingRef) -> bool:
    """Return whether the ref is a damaged archive or a bad line. Its ids are unknown, so `include` must not drop it."""
    line = (ref.source_member or "").removeprefix("line ")
    return ref.problem is not None and ref.recording_id.endswith((ARCHIVE, f":{line}") if line else ARCHIVE)


def _matcher(key: str, pattern: str | None) -> Callable[[str], object] | None:
    """Return what matches ids by the pattern of source.`key`. Raises ConfigError if the pattern is not valid."""
    if pattern is None:
        return None
    try:
        return names.glob_regex(pattern, within_folder=False).fullmatch
    except ValueError as err:
        raise ConfigError(f"source.{key}: {pattern!r}: {err}") from None
