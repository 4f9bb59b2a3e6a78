"""Sources: every format has two verbs, list the recordings lazily and read one; here they are told apart."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain, islice
from typing import NamedTuple

from pipeline.config import ConfigError, SourceConfig
from pipeline.schemas import BadRecording, Recording, RecordingRef, UnreachableError
from pipeline.sources import files, huggingface, manifest, parquet, webdataset
from pipeline.sources.access import names
from pipeline.sources.access.lines import kind_of
from pipeline.sources.access.listing import list_files
from pipeline.sources.corpora import commonvoice, fleurs, librispeech, mls, voxpopuli
from pipeline.sources.corpora.splits import is_corpus

DETECTION_FILES = 1000  # how many files `auto` looks at

log = logging.getLogger(__name__)


class _Format(NamedTuple):
    list_recordings: Callable[[SourceConfig], Iterator[RecordingRef]]
    read_recording: Callable[[RecordingRef], Recording]
    what: str  # that it looks for


_FORMATS = {
    "webdataset": _Format(webdataset.list_recordings, webdataset.read_recording, "audio in .tar, .tar.gz, .tgz files"),
    "parquet": _Format(parquet.list_recordings, parquet.read_recording, "rows in .parquet files"),
    "files": _Format(files.list_recordings, files.read_recording, "audio files"),
    "manifest": _Format(manifest.list_recordings, manifest.read_recording, "lines in .jsonl, .csv or .tsv files"),
    "librispeech": _Format(librispeech.list_recordings, librispeech.read_recording, "audio files"),
    "huggingface": _Format(huggingface.list_recordings, huggingface.read_recording, "rows"),
    "fleurs": _Format(fleurs.list_recordings, fleurs.read_recording, "rows in the table"),
    "commonvoice": _Format(commonvoice.list_recordings, commonvoice.read_recording, "rows in the table"),
    "voxpopuli": _Format(voxpopuli.list_recordings, voxpopuli.read_recording, "rows in the table"),
    "mls": _Format(mls.list_recordings, mls.read_recording, "lines in transcripts.txt"),
}
_CORPORA = {
    "fleurs": fleurs.LAYOUT,
    "commonvoice": commonvoice.LAYOUT,
    "voxpopuli": voxpopuli.LAYOUT,
    "mls": mls.LAYOUT,
}


def list_recordings(source: SourceConfig) -> Iterator[RecordingRef]:
    """The recordings of a source, lazily and in a stable order; what cannot be read has a `problem`.

    Ids are as the source has them: a manifest may give one twice. Languages are resolved except where they stand in
    sidecars, which are read with the audio. Raises ConfigError, at once, where nothing is found.
    """
    include, exclude = (_matcher(key, getattr(source, key)) for key in ("include", "exclude"))
    name = detect_format(source.uri) if source.format == "auto" else source.format
    if source.split is not None and name not in (*_CORPORA, "huggingface"):
        raise ConfigError(f"source.split: format {name} has no splits; source.uri tells what is read")
    found = _at_once(
        _one_line(_FORMATS[name].list_recordings(source)),
        f"source.uri: {source.uri}: no {_FORMATS[name].what} (format {name})",
    )
    if include is None and exclude is None:
        return found
    taken = (
        ref
        for ref in found
        if (include is None or include(ref.recording_id) or _is_nameless(ref))
        and not (exclude and exclude(ref.recording_id))
    )
    return _at_once(taken, f"source.{'include' if include else 'exclude'}: no recording of {source.uri} is left")


def read_recording(ref: RecordingRef) -> Recording:
    """The encoded audio and what the source says about it. Raises BadRecording with a reason of schemas.REASONS."""
    if ref.problem is not None:
        raise BadRecording(ref.problem, ref.problem_detail or "")
    return _FORMATS[ref.format].read_recording(ref)


def detect_format(uri: str) -> str:
    """The format of what is at `uri`, by the names of its first thousand files; says so in the log.

    Official corpora are looked for where a name hints at one. Raises ConfigError where nothing is there or nothing is
    known.
    """
    first = list(islice(list_files(uri), DETECTION_FILES))
    counts = Counter(_kind(file.name) for file in first)
    audio = max(("webdataset", "parquet", "files"), key=lambda kind: counts[kind])
    found: str | None = None
    if counts["huggingface"]:
        found = "huggingface"
    elif counts[audio]:
        found = "librispeech" if audio == "files" and counts["librispeech"] else audio
    elif counts["manifest"]:
        found = "manifest"
    if found not in ("huggingface", "parquet", "librispeech"):
        found = next((name for name, layout in _CORPORA.items() if is_corpus(uri, first, layout)), found)
    if found is None:
        raise ConfigError(f"source.format: cannot tell what {uri} is; set it to one of {', '.join(_FORMATS)}")
    others = {kind: counts[kind] for kind in ("webdataset", "parquet", "files", "manifest") if counts[kind]}
    whole = ("librispeech", *_CORPORA)  # to which tables, archives and audio belong
    if left := {kind: count for kind, count in others.items() if kind != found and found not in whole}:
        log.warning("source.format: auto: %s also holds files of other formats, not read: %s", uri, left)
    seen = ", ".join(f"{count} of {kind}" for kind, count in counts.most_common())
    log.info("source.format: auto: %s is read as %s (its first %d files: %s)", uri, found, counts.total(), seen)
    return found


def _kind(name: str) -> str:
    """Which format a file of this name speaks for; "nothing" for none."""
    last = name.rpartition("/")[2].lower()
    if last in ("dataset_dict.json", "state.json") or last.endswith(".arrow"):
        return "huggingface"
    if last.endswith(webdataset.ENDINGS):
        return "webdataset"
    if last.endswith(".trans.txt"):
        return "librispeech"
    if last.endswith((".parquet", ".pq")):
        return "parquet"
    if names.split_name(last):
        return "files"
    return "manifest" if kind_of(last) else "nothing"


def _at_once(refs: Iterator[RecordingRef], nothing: str) -> Iterator[RecordingRef]:
    """The same refs, the first of them fetched now. Raises ConfigError(nothing) where there is none."""
    first = next(refs, None)
    if first is None:
        raise ConfigError(nothing)
    return chain([first], refs)


def _one_line(refs: Iterator[RecordingRef]) -> Iterator[RecordingRef]:
    """The same refs; a store that does not answer ends them with a ConfigError: a plan with holes is none."""
    try:
        yield from refs
    except UnreachableError as err:
        raise ConfigError(f"source.uri: {err}") from None


def _is_nameless(ref: RecordingRef) -> bool:
    """A cut archive or a bad manifest line: which ids were in it is unknown, so `include` does not drop it."""
    line = (ref.source_member or "").removeprefix("line ")
    return ref.problem is not None and ref.recording_id.endswith(("!archive", f":{line}") if line else "!archive")


def _matcher(key: str, pattern: str | None) -> Callable[[str], object] | None:
    if pattern is None:
        return None
    try:
        return names.glob_regex(pattern, within_folder=False).fullmatch
    except ValueError as err:
        raise ConfigError(f"source.{key}: {pattern!r}: {err}") from None
