"""Plain audio files, recognised by their extension. Files and tables beside them are their text and metadata."""

from __future__ import annotations

import json
import logging
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby

from pipeline.config import SourceConfig
from pipeline.schemas import BadRecording, Recording, RecordingRef
from pipeline.sources.access import fields, metadata_tables, names, remote
from pipeline.sources.access.columns import reject_columns
from pipeline.sources.access.companions import Unattached, describe_sidecars, files_and_settings, settings_of
from pipeline.sources.access.languages import fixed_language
from pipeline.sources.access.listing import File, list_files
from pipeline.sources.access.metadata_tables import Described, MetadataTables

log = logging.getLogger(__name__)


def list_recordings(source: SourceConfig, ignored: Counter[str] | None = None) -> Iterator[RecordingRef]:
    """Yield one ref per audio file. Ids are paths below the root, with the extension.

    Companion files are those of the tar reader: a.txt, a.lab, a.json, a.lang and a.cls beside a.wav, also as a.wav.txt,
    in any case. A metadata.csv, .tsv or .jsonl describes the files of its folder and below. Other files, and companion
    files of no audio, are counted in `ignored`, by extension, and in the log. Memory: the files of one folder whose
    names are equal up to the first dot, and the rows of the tables. Raises ConfigError if nothing is there, if the
    settings name a column for audio or id, and if a table cannot be read.
    """
    reject_columns(source, "files", "audio_column", "id_column")
    others: Counter[str] = Counter() if ignored is None else ignored
    tables, unattached = MetadataTables(), Unattached(source.uri)
    not_read = Unattached(source.uri, metadata_tables.NOT_READ)
    for _, group in groupby(list_files(source.uri), key=_up_to_first_dot):
        neighbours = list(group)
        audio = [file for file in neighbours if names.split_name(file.name) or file.named]
        companions: dict[str, dict[str, File]] = defaultdict(dict)
        for file in neighbours:
            if file not in audio and (split := names.split_name(file.name, names.SIDECARS)):
                companions[split[0]].setdefault(split[1], file)
        stems = {file.name.rpartition(".")[0] for file in audio}
        used: set[str] = set()
        for file in audio:
            keys = names.companions(file.name, companions, stems)
            used.update(keys)
            found = {extension: item for key in keys for extension, item in companions[key].items()}
            yield _ref(source, file, list(found.values()), tables.row(file))
        alone = [item for key, found in companions.items() if key not in used for item in found.values()]
        unattached.add(item.uri for item in alone)
        others.update(names.extension_of(item.name) for item in alone)
        for file in neighbours:
            if file not in audio and not names.split_name(file.name, names.SIDECARS) and not tables.is_table(file):
                others[names.extension_of(file.name)] += 1
        not_read.add(file.uri for file in neighbours if tables.is_passed_over(file))
    if others:
        counted = ", ".join(f"{count} .{extension}" for extension, count in others.most_common(10))
        log.info("%s: %d files that are not audio were ignored: %s", source.uri, others.total(), counted)
    unattached.add(tables.unused())
    unattached.say()
    not_read.say()


def files_of(ref: RecordingRef) -> list[str]:
    """The URIs of the audio and of the files beside it. `ref.version` has the version of each, one a line."""
    folder = ref.source_uri.rpartition("/")[0]
    return [ref.source_uri, *(f"{folder}/{name}" for name, _, _ in files_and_settings(ref)[0])]


def read_recording(ref: RecordingRef) -> Recording:
    """Read the file, and the companion files beside it. What a table says counts more than what they say.

    Raises BadRecording: "bad_metadata" or "unsupported_language" as `describe_sidecars`, and as `remote.read_audio`.
    """
    described = fields.Fields(ref.language, ref.reference, ref.metadata)
    companions, settings = files_and_settings(ref)
    versions: list[str] = []
    if companions:
        folder = ref.source_uri.rpartition("/")[0]
        payloads = {}
        for name, _, size in companions:
            payloads[name.rpartition(".")[2].lower()], version = remote.read_versioned(f"{folder}/{name}", size)
            versions.append(version)
        beside = describe_sidecars(payloads, ref.source_uri, **settings)
        reference = beside.reference if ref.reference is None else ref.reference
        described = fields.Fields(beside.language, reference, _joined(beside.metadata, ref.metadata))
    audio, version = remote.read_audio(ref.source_uri, ref.size)
    return Recording(audio, *described, "\n".join([version, *versions]))


def _ref(source: SourceConfig, file: File, companions: list[File], described: Described | None) -> RecordingRef:
    ref = RecordingRef(
        recording_id=file.name,
        format="files",
        source_uri=file.uri,
        size=file.size,
        version="\n".join(item.version for item in (file, *companions)),
        language=fixed_language(source),
    )
    try:
        if big := [item.uri for item in companions if item.size > fields.MAX_TEXT_BYTES]:
            ref = replace(ref, version=file.version)
            raise BadRecording("bad_metadata", f"{big[0]}: more than {fields.MAX_TEXT_BYTES:,} bytes")
        if described is not None:
            columns, text = described.columns, source.text_column
            ref = replace(
                ref,
                **fields.describe(columns, language=source.language, text=text, drop=[described.column])._asdict(),
            )
        if not companions:
            return ref
        pointers = tuple((item.uri.rpartition("/")[2], 0, item.size) for item in companions)
        return replace(ref, sidecars=pointers + settings_of(source, ref.language))
    except BadRecording as err:
        return replace(ref, problem=err.reason, problem_detail=err.detail, **err.described)


def _joined(*texts: str | None) -> str | None:
    """Return one JSON object of several; of a key that is in several, the last one counts."""
    columns = {key: value for text in texts if text for key, value in json.loads(text).items()}
    return fields.to_json(columns)


def _up_to_first_dot(file: File) -> str:
    """Return the path up to the first dot of the file's own name. An audio file and its .txt have it in common."""
    folder, slash, name = file.name.rpartition("/")
    return f"{folder}{slash}{name.partition('.')[0]}"
