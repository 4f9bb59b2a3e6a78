"""Plain audio files, recognised by their extension. A .txt of the same name beside one is its reference."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from itertools import groupby

from pipeline.config import SourceConfig
from pipeline.schemas import Recording, RecordingRef
from pipeline.sources.access import fields, names, remote
from pipeline.sources.access.columns import reject_columns
from pipeline.sources.access.listing import File, list_files

log = logging.getLogger(__name__)


def list_recordings(source: SourceConfig) -> Iterator[RecordingRef]:
    """Yield one ref per audio file. Ids are paths below the root, with the extension. The log counts other files.

    Memory: the files of one folder whose names are equal up to the first dot. Raises ConfigError if nothing is there,
    and if the settings name a column: plain files have none.
    """
    reject_columns(source, "files")
    others: Counter[str] = Counter()
    for _, group in groupby(list_files(source.uri), key=_up_to_first_dot):
        neighbours = list(group)
        texts = {_stem(file): file for file in neighbours if file.name.endswith(".txt")}
        for file in neighbours:
            if names.split_name(file.name) or file.named:
                yield _ref(source, file, texts.get(_stem(file)))
            elif not file.name.endswith(".txt"):
                others[file.name.rpartition("/")[2].rpartition(".")[2]] += 1
    if others:
        counted = others.most_common(10)
        log.info("%s: %d files that are not audio were ignored: %s", source.uri, others.total(), counted)


def files_of(ref: RecordingRef) -> list[str]:
    """The URIs of the audio and of the files beside it. `ref.version` has the version of each, one a line."""
    stem = ref.source_uri.rpartition(".")[0]
    return [ref.source_uri, *(f"{stem}.{extension}" for extension, _, _ in ref.sidecars)]


def read_recording(ref: RecordingRef) -> Recording:
    """Read the file, and the reference beside it.

    Raises BadRecording: "bad_metadata" if the reference is not UTF-8, and as `remote.read_audio`.
    """
    reference = ref.reference
    for extension, _, size in ref.sidecars:
        name = f"{ref.source_uri.rpartition('.')[0]}.{extension}"
        reference = fields.from_bytes(remote.read_file(name, size), name).strip()
    return Recording(remote.read_audio(ref.source_uri, ref.size), ref.language, reference, ref.metadata)


def _ref(source: SourceConfig, file: File, text: File | None) -> RecordingRef:
    is_too_big = text is not None and text.size > fields.MAX_TEXT_BYTES
    return RecordingRef(
        recording_id=file.name,
        format="files",
        source_uri=file.uri,
        size=file.size,
        version=f"{file.version}\n{text.version}" if text and not is_too_big else file.version,
        sidecars=(("txt", 0, text.size),) if text and not is_too_big else (),
        language=source.language,
        problem="bad_metadata" if text and is_too_big else None,
        problem_detail=f"{text.uri}: more than {fields.MAX_TEXT_BYTES:,} bytes" if text and is_too_big else None,
    )


def _stem(file: File) -> str:
    return file.name.rpartition(".")[0]


def _up_to_first_dot(file: File) -> str:
    """Return the path up to the first dot of the file's own name. An audio file and its .txt have it in common."""
    folder, slash, name = file.name.rpartition("/")
    return f"{folder}{slash}{name.partition('.')[0]}"
