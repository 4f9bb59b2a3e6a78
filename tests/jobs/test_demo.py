"""`make demo`: what the repository ships, and what its two commands show, with the embedded model as it is."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tarfile
from collections import Counter, defaultdict
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import pyarrow.parquet as pq
import pytest

from pipeline.config import LANGUAGES
from pipeline.evaluation.result import Counts
from pipeline.evaluation.score import char_counts, word_counts
from pipeline.output.stitch import join_words
from pipeline.text.normalise_multilingual import multilingual

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "pipeline/assets/sample"
PEOPLE = ROOT / "pipeline/assets/people"
DEAD = {"empty_file": 1, "not_audio": 1, "truncated_archive": 1}
DAMAGED = {"truncated_audio": 2}  # as far as they go


def demo(output: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jobs.transcribe", "--config", "configs/demo.yaml", f"output.uri={output}"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "out"


@pytest.fixture(scope="module")
def done(output: Path) -> subprocess.CompletedProcess[str]:
    return demo(output)


def rows(output: Path, table: str) -> list[dict[str, Any]]:
    return pq.read_table(output / table).to_pylist()


def test_the_sample_archive_has_every_kind_of_audio() -> None:
    seen: defaultdict[str, set[object]] = defaultdict(set)
    for shard in ("shard-000", "shard-001", "shard-002"):
        with tarfile.open(SAMPLE / f"{shard}.tar") as archive:
            for member in archive:
                name, _, extension = member.name.rpartition(".")
                content = archive.extractfile(member)
                assert content is not None
                if extension == "json":
                    seen["language"].add(json.load(content)["language"])
                    continue
                with av.open(BytesIO(content.read())) as container:
                    track = container.streams.audio[0]
                    seen["extension"].add(extension)
                    seen["rate"].add(track.codec_context.sample_rate)
                    seen["channels"].add(track.codec_context.channels)
                    minutes = (container.duration or 0) / av.time_base / 60
                    seen["long"] |= {name} if minutes > 3 else set()
    assert seen["language"] == set(LANGUAGES)
    assert seen["extension"] == {"flac", "wav", "mp3", "ogg", "opus", "m4a"}
    assert seen["rate"] == {8_000, 16_000, 44_100, 48_000}
    assert seen["channels"] == {1, 2}
    (long,) = seen["long"]
    assert str(long).endswith("long")


@pytest.mark.timeout(600)
def test_it_ends_with_the_table_the_summary_line_and_the_path(
    done: subprocess.CompletedProcess[str], output: Path
) -> None:
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["recording", "language", "text", "confidence"]
    assert lines[-2].startswith("45 recordings, ")
    dead, damaged = (", ".join(f"{reason} {count}" for reason, count in some.items()) for some in (DEAD, DAMAGED))
    assert f", 3 dead letters ({dead}), 2 damaged ({damaged}), pipeline_rtfx " in lines[-2]
    assert lines[-1] == str(output)
    assert "units" in done.stderr
    assert "RTFx" in done.stderr


@pytest.mark.timeout(600)
def test_every_recording_is_there_once(done: subprocess.CompletedProcess[str], output: Path) -> None:
    transcribed = {row["recording_id"] for row in rows(output, "transcripts")}
    letters = rows(output, "dead_letters")
    assert len(transcribed) == 42
    damaged = {row["recording_id"]: row["problem"] for row in rows(output, "transcripts") if row["problem"]}
    assert Counter(damaged.values()) == DAMAGED
    assert Counter(row["reason"] for row in letters) == DEAD
    assert transcribed.isdisjoint(row["recording_id"] for row in letters)
    silent = [row["text"] for row in rows(output, "transcripts") if row["recording_id"].endswith("silence")]
    assert silent == [""]
    assert json.loads((output / "_run/accounting.json").read_text())["closed"]


@pytest.mark.timeout(600)
def test_the_embedded_model_hears_every_language(done: subprocess.CompletedProcess[str], output: Path) -> None:
    """Phrases and voices that training never saw, through every codec, as the published table has them."""
    texts: defaultdict[str, list[dict[str, str]]] = defaultdict(list)
    spoken: dict[str, tuple[str, str]] = {}
    for row in rows(output, "transcripts"):
        if row["reference"]:
            spoken[row["recording_id"]] = (row["language"], row["reference"])
            texts[row["recording_id"]] += [{"text": row["text"]}] if row["text"] else []
    total, moved = Counts(), Counts()
    for language in LANGUAGES:
        names = [name for name, (spoken_language, _) in spoken.items() if spoken_language == language]
        references = [spoken[name][1] for name in names]
        answers = [join_words(texts[name]) for name in names]
        own = errors(references, answers, language)
        assert (own.rate or 0) <= 0.45, language  # six utterances or seven: few words
        total += own
        moved += errors(references, [*answers[1:], answers[0]], language)
    assert (total.rate or 0) <= 0.25
    assert (moved.rate or 0) > 0.8  # the text comes from the audio


def errors(references: list[str], answers: list[str], language: str) -> Counts:
    """Words; of Mandarin characters, whatever the spaces."""
    pairs = zip(references, answers, strict=True)
    if language == "zh":
        return sum((char_counts(*(text.replace(" ", "") for text in pair)) for pair in pairs), Counts())
    return sum((word_counts(*pair) for pair in pairs), Counts())


@pytest.mark.timeout(600)
def test_a_second_demo_finds_everything_committed(done: subprocess.CompletedProcess[str], output: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in output.glob("commits/*/*")}
    again = demo(output)
    assert again.returncode == 0
    assert "Ray" not in again.stderr
    assert again.stdout == done.stdout
    assert {path: path.stat().st_mtime_ns for path in output.glob("commits/*/*")} == before


@pytest.mark.timeout(600)
def test_its_second_part_hears_what_people_say(tmp_path: Path) -> None:
    """The config for one's own audio, with Whisper, on the recordings of people that the repository ships."""
    planned = subprocess.run(["make", "-n", "demo"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    arguments = ["--config", "configs/transcribe-local.yaml", "source.uri=pipeline/assets/people"]
    assert " ".join(arguments) in " ".join(planned.replace("\\", " ").split())
    command = [sys.executable, "-m", "jobs.transcribe", *arguments, f"output.uri={tmp_path}"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr[-3000:]
    with (PEOPLE / "metadata.csv").open(encoding="utf-8", newline="") as stream:
        spoken = {row["file_name"]: row["text"] for row in csv.DictReader(stream)}
    heard: defaultdict[str, list[dict[str, str]]] = defaultdict(list)
    for row in rows(tmp_path, "transcripts"):
        assert row["reference"] == spoken[row["recording_id"]]
        heard[row["recording_id"]].append({"text": row["text"]})
    assert sorted(heard) == sorted(spoken) == sorted(path.name for path in PEOPLE.glob("*.flac"))
    pairs = ((multilingual(text), multilingual(join_words(heard[name]))) for name, text in spoken.items())
    assert (sum((word_counts(*pair) for pair in pairs), Counts()).rate or 0) <= 0.15
