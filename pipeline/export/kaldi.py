"""A Kaldi data directory for each split: wav.scp, segments, text, utt2spk, spk2utt."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

from pipeline.config import ConfigError
from pipeline.export.layout import Format, Target, file_of, part_key, provenance_row, write_lines
from pipeline.export.origin import Item
from pipeline.labels.splits import stable_hash
from pipeline.storage.base import Storage

PROVENANCE = "provenance.jsonl"


def write_segments(items: Iterable[Item], target: Target) -> dict[str, Path]:
    """One WAV file for each row, which Kaldi reads without a tool, and the lines about it.

    Raises ConfigError if the output is in a store, from which Kaldi reads nothing.
    """
    if "://" in target.uri.removeprefix("file://"):
        raise ConfigError(f"output.uri: {target.uri}: Kaldi reads audio from local files only; give a local folder")
    lines, rows, files = _Lines(), [], {}
    for item in items:
        utterance = lines.add(item)
        key = f"{target.shard.split}/wav/{target.shard.name}/{utterance}.wav"
        files[key] = target.folder / f"{utterance}.wav"
        files[key].write_bytes(item.audio)
        lines.of["wav.scp"].append(f"{utterance} {target.uri.removeprefix('file://').rstrip('/')}/{key}")
        rows.append(provenance_row(item))
    return files | lines.write(target) | _provenance(rows, target)


def write_reference(items: Iterable[Item], target: Target) -> dict[str, Path]:
    """wav.scp names whole recordings, of which segments are cut. What is no local WAV file is read by ffmpeg.

    Raises ConfigError if one is in a store, from which neither reads.
    """
    lines, rows = _Lines(), []
    for item in items:
        utterance, label = lines.add(item), item.label
        recording = quote(label.recording_id)
        lines.of["wav.scp"].append(f"{recording} {_input(file_of(item))}")
        lines.of["segments"].append(f"{utterance} {recording} {label.start_ms / 1000:.3f} {label.end_ms / 1000:.3f}")
        rows.append(provenance_row(item))
    return lines.write(target) | _provenance(rows, target)


def write_speakers(storage: Storage, split: str) -> None:
    """spk2utt, from utt2spk."""
    utterances: dict[str, list[str]] = {}
    for line in storage.get(f"{split}/utt2spk").decode().splitlines():
        utterance, speaker = line.split()
        utterances.setdefault(speaker, []).append(utterance)
    lines = (f"{speaker} {' '.join(names)}\n" for speaker, names in sorted(utterances.items()))
    storage.put(f"{split}/spk2utt", "".join(lines).encode())


class _Lines:
    """The lines of the files of a directory."""

    def __init__(self) -> None:
        self.of: dict[str, list[str]] = {name: [] for name in ("wav.scp", "segments", "text", "utt2spk")}

    def add(self, item: Item) -> str:
        """Add text and speaker of a row. Returns its utterance id, which begins with the speaker, as Kaldi sorts."""
        label = item.label
        speaker = _speaker(label.speaker) if label.speaker else label.label_id
        utterance = f"{speaker}-{label.label_id}" if label.speaker else label.label_id
        self.of["text"].append(f"{utterance} {' '.join(label.text.split())}")
        self.of["utt2spk"].append(f"{utterance} {speaker}")
        return utterance

    def write(self, target: Target) -> dict[str, Path]:
        """The parts of these files."""
        files = {}
        for name, lines in self.of.items():
            if lines:
                files[part_key(target.shard, name)] = target.folder / name
                (target.folder / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return files


def _speaker(name: str) -> str:
    """A name of a speaker that Kaldi can sort. Where letters are replaced, a hash keeps two speakers apart."""
    plain = re.sub(r"[^\w.]+", "_", name)
    return plain if plain == name else f"{plain}_{stable_hash(name).hex()[:8]}"


def _provenance(rows: list[dict[str, object]], target: Target) -> dict[str, Path]:
    return {part_key(target.shard, PROVENANCE): write_lines(target.folder / PROVENANCE, rows)}


def _input(path: str) -> str:
    """How wav.scp names a file: by its path, or by a command that writes it as WAV."""
    if "://" in path and not path.startswith(("http://", "https://")):
        raise ConfigError(f"export.audio: {path}: Kaldi and ffmpeg do not read from there; export.audio=segments does")
    if path.lower().endswith(".wav") and "://" not in path:
        return path
    return f"ffmpeg -nostdin -v error -i {shlex.quote(path)} -f wav -ar 16000 -ac 1 - |"


FORMAT = Format(segments=write_segments, reference=write_reference, audio="WAV", sort=True, finish=write_speakers)
