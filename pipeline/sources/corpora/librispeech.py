"""LibriSpeech: SPEAKER/CHAPTER/*.flac with one *.trans.txt per chapter."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from pipeline.config import SourceConfig
from pipeline.schemas import BadRecording, Recording, RecordingRef
from pipeline.sources.access import fields, names, remote
from pipeline.sources.access.columns import reject_columns
from pipeline.sources.access.languages import fixed_language
from pipeline.sources.access.listing import File, list_files

TRANSCRIPTS = ".trans.txt"


def list_recordings(source: SourceConfig) -> Iterator[RecordingRef]:
    """Yield one ref per utterance, chapter by chapter. Ids are the names of the files, such as "84-121123-0000".

    The metadata is speaker and chapter, and the subset, such as "dev-clean", if source.uri is a folder above it. An
    utterance with a transcript and no audio has the problem "missing_file". If the transcripts of a chapter cannot be
    read, its utterances have the problem "bad_metadata". Memory: one chapter. Raises ConfigError if nothing is there.
    """
    reject_columns(source, "librispeech", "audio_column", "id_column", "text_column", "language")
    for folder, group in groupby(list_files(source.uri), key=_folder):
        chapter = list(group)
        audio = [file for file in chapter if names.split_name(file.name)]
        texts: dict[str, str] = {}
        problem = detail = None
        try:
            for file in chapter:
                if file.name.endswith(TRANSCRIPTS):
                    texts |= _transcripts(file)
        except BadRecording as err:
            problem, detail = "bad_metadata", err.detail
        for file in audio:
            utterance = file.name.removeprefix(folder).lstrip("/").rpartition(".")[0]
            yield RecordingRef(
                recording_id=utterance,
                format="librispeech",
                source_uri=file.uri,
                size=file.size,
                version=file.version,
                language=fixed_language(source),
                reference=texts.pop(utterance, None),
                metadata=fields.to_json(_place(folder, utterance)),
                problem=problem,
                problem_detail=detail,
            )
        for utterance, text in texts.items():
            uri = f"{chapter[0].uri.rpartition('/')[0]}/{utterance}.flac"
            yield RecordingRef(
                recording_id=utterance,
                format="librispeech",
                source_uri=uri,
                language=fixed_language(source),
                reference=text,
                metadata=fields.to_json(_place(folder, utterance)),
                problem="missing_file",
                problem_detail=f"{uri}: the transcripts name it, but it does not exist",
            )


def read_recording(ref: RecordingRef) -> Recording:
    """Read the audio file. Raises BadRecording as `remote.read_audio`."""
    audio, version = remote.read_audio(ref.source_uri, ref.size)
    return Recording(audio, ref.language, ref.reference, ref.metadata, version)


def _transcripts(file: File) -> dict[str, str]:
    """Return the texts of lines "UTTERANCE TEXT". Raises BadRecording("bad_metadata") if the file is not UTF-8."""
    lines = fields.from_bytes(remote.read_file(file.uri, file.size), file.uri).splitlines()
    return {utterance: text.strip() for utterance, _, text in (line.partition(" ") for line in lines) if utterance}


def _place(folder: str, utterance: str) -> dict[str, str]:
    """Return speaker and chapter by the name of the utterance, else by its folders; the subset is the folder above."""
    parts = folder.split("/")
    speaker, chapter = utterance.split("-")[:2] if utterance.count("-") == 2 else ("", *parts)[-2:]
    place = {"speaker": speaker, "chapter": chapter}
    return place | ({"subset": parts[-3]} if len(parts) >= 3 else {})


def _folder(file: File) -> str:
    return file.name.rpartition("/")[0]
