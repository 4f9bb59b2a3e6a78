"""LibriSpeech trees: SPEAKER/CHAPTER/*.flac with one *.trans.txt per chapter."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from pipeline.config import SourceConfig
from pipeline.schemas import BadRecording, Recording, RecordingRef
from pipeline.sources.access import fields, names, remote
from pipeline.sources.access.listing import File, list_files
from pipeline.sources.files import reject_columns

TRANSCRIPTS = ".trans.txt"


def list_recordings(source: SourceConfig) -> Iterator[RecordingRef]:
    """One ref per utterance, chapter by chapter; ids are the names of the files ("84-121123-0000").

    The metadata has speaker and chapter, and the subset ("dev-clean") where the source is above it. An utterance with a
    transcript and without audio has the problem "missing_file"; those of a chapter whose transcripts cannot be read,
    "bad_metadata". Memory: one chapter. Raises ConfigError where nothing is there.
    """
    reject_columns(source, "librispeech")
    for folder, group in groupby(list_files(source.uri), key=_folder):
        found = list(group)
        audio = [file for file in found if names.split_name(file.name)]
        texts: dict[str, str] = {}
        problem = detail = None
        try:
            for file in found:
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
                language=source.language,
                reference=texts.pop(utterance, None),
                metadata=fields.to_json(_place(folder, utterance)),
                problem=problem,
                problem_detail=detail,
            )
        for utterance, text in texts.items():
            uri = f"{found[0].uri.rpartition('/')[0]}/{utterance}.flac"
            yield RecordingRef(
                recording_id=utterance,
                format="librispeech",
                source_uri=uri,
                language=source.language,
                reference=text,
                metadata=fields.to_json(_place(folder, utterance)),
                problem="missing_file",
                problem_detail=f"{uri}: in the transcripts, but not there",
            )


def read_recording(ref: RecordingRef) -> Recording:
    """The audio file. Raises BadRecording as `remote.read_audio`."""
    return Recording(remote.read_audio(ref.source_uri, ref.size), ref.language, ref.reference, ref.metadata)


def _transcripts(file: File) -> dict[str, str]:
    """Lines "UTTERANCE TEXT" by utterance. Raises BadRecording("bad_metadata") where the file is no UTF-8."""
    lines = fields.from_bytes(remote.read_file(file.uri, file.size), file.uri).splitlines()
    return {utterance: text.strip() for utterance, _, text in (line.partition(" ") for line in lines) if utterance}


def _place(folder: str, utterance: str) -> dict[str, str]:
    """Speaker and chapter from the utterance's own name, else from its folders; the subset from the folder above."""
    parts = folder.split("/")
    speaker, chapter = utterance.split("-")[:2] if utterance.count("-") == 2 else ("", *parts)[-2:]
    place = {"speaker": speaker, "chapter": chapter}
    return place | ({"subset": parts[-3]} if len(parts) >= 3 else {})


def _folder(file: File) -> str:
    return file.name.rpartition("/")[0]
