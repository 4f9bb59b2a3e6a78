"""Plain audio files, told by their extension; a .txt of the same name beside one is its reference."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from itertools import groupby

from pipeline.config import LANGUAGES, ConfigError, SourceConfig
from pipeline.schemas import Recording, RecordingRef
from pipeline.sources.access import fields, names, remote
from pipeline.sources.access.listing import File, list_files

log = logging.getLogger(__name__)


def list_recordings(source: SourceConfig) -> Iterator[RecordingRef]:
    """One ref per audio file; ids are paths below the root with the extension. Other files are counted in the log.

    Memory: the files of one folder that share their name up to its first dot. Raises ConfigError where nothing is
    there, and for a language or text column: plain files have none.
    """
    reject_columns(source, "files")
    others: Counter[str] = Counter()
    for _, group in groupby(list_files(source.uri), key=_first_stem):
        found = list(group)
        texts = {_stem(file): file for file in found if file.name.endswith(".txt")}
        for file in found:
            if names.split_name(file.name) or file.named:
                yield _ref(source, file, texts.get(_stem(file)))
            elif not file.name.endswith(".txt"):
                others[file.name.rpartition("/")[2].rpartition(".")[2]] += 1
    if others:
        log.info("%s: %d files that are no audio were ignored: %s", source.uri, others.total(), others.most_common(10))


def read_recording(ref: RecordingRef) -> Recording:
    """The file and the reference beside it.

    Raises BadRecording: "bad_metadata" for a reference that is no UTF-8, and as `remote.read_audio`.
    """
    reference = ref.reference
    for extension, _, size in ref.sidecars:
        name = f"{ref.source_uri.rpartition('.')[0]}.{extension}"
        reference = fields.from_bytes(remote.read_file(name, size), name).strip()
    return Recording(remote.read_audio(ref.source_uri, ref.size), ref.language, reference, ref.metadata)


def reject_columns(source: SourceConfig, format_name: str) -> None:
    """Raises ConfigError where the source section asks for columns that this format does not have."""
    for key in ("audio_column", "id_column", "text_column"):
        if getattr(source, key):
            raise ConfigError(f"source.{key}: format {format_name} has no columns")
    if source.language and source.language not in LANGUAGES:
        raise ConfigError(f"source.language: {source.language}: format {format_name} has no columns")


def _ref(source: SourceConfig, file: File, text: File | None) -> RecordingRef:
    too_big = text is not None and text.size > fields.MAX_TEXT_BYTES
    return RecordingRef(
        recording_id=file.name,
        format="files",
        source_uri=file.uri,
        size=file.size,
        version=file.version,
        sidecars=(("txt", 0, text.size),) if text and not too_big else (),
        language=source.language,
        problem="bad_metadata" if text and too_big else None,
        problem_detail=f"{text.uri}: more than {fields.MAX_TEXT_BYTES:,} bytes" if text and too_big else None,
    )


def _stem(file: File) -> str:
    return file.name.rpartition(".")[0]


def _first_stem(file: File) -> str:
    """The path up to the first dot of the file's own name: an audio file and its .txt are neighbours under it."""
    folder, slash, name = file.name.rpartition("/")
    return f"{folder}{slash}{name.partition('.')[0]}"
