"""A whole run over each source format, which auto detects: all that the source says reaches the tables.

The formats whose readers need something of their own in the workers run on Ray, the others through the same stages.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from pipeline.config import RunConfig
from pipeline.run import transcribe
from pipeline.schemas import SAMPLE_RATE
from tests.sources.test_sources_librispeech import write as write_tree
from tests.sources.test_sources_manifest import cut, write_lines
from tests.sources.test_sources_parquet import AUDIO
from tests.sources.test_sources_webdataset import write_tar
from tests.support import corpora
from tests.support.archives import settings, wav
from tests.support.audio_files import encoded

pytestmark = pytest.mark.timeout(600)
ON_RAY = ("webdataset", "huggingface")

SECONDS = 1.2
WAV, FLAC, OPUS = (encoded(kind, SECONDS) for kind in ("wav", "flac", "opus"))
DE, ZH = ("de", "die brücke ist rosa"), ("zh", "星期二我去商店")


@dataclass(frozen=True)
class Archive:
    """What a run is started with, and what must be in its transcripts: (language, reference, metadata) by id."""

    uri: Path
    expected: dict[str, tuple[str, str | None, dict[str, Any] | None]]
    language: str = "null"
    seconds: float | None = None
    dead: dict[str, str] = field(default_factory=dict)  # id -> reason


def webdataset(root: Path) -> Archive:
    sidecar = json.dumps({"lang": "de-DE", "text": DE[1], "speaker": 7}).encode()
    members = [("de/a.1.json", sidecar), ("x.wav", WAV), ("de/a.1.flac", FLAC)]
    write_tar(root / "s-0.tar", [*members, ("x.txt", ZH[1].encode()), ("x.lang", b"cmn")])
    write_tar(root / "s-1.tar.gz", [("x.wav", WAV), ("x.json", sidecar)])
    return Archive(
        root, {"s-0/de/a.1": (*DE, {"speaker": 7}), "s-0/x": (*ZH, None), "s-1/x": (*DE, {"speaker": 7})}, seconds=3.6
    )


def parquet(root: Path) -> Archive:
    cells = [{"bytes": data, "path": name} for data, name in ((FLAC, "a.flac"), (WAV, None))]
    columns = {"audio": pa.array(cells, AUDIO), "sentence": [DE[1], ZH[1]], "locale": ["de", "zh-CN"], "age": [7, None]}
    root.mkdir()
    pq.write_table(pa.table(columns), root / "train.parquet", row_group_size=1)
    return Archive(root, {"train/0": (*DE, {"age": 7, "path": "a.flac"}), "train/1": (*ZH, {"age": None})}, seconds=2.4)


def manifest(root: Path) -> Archive:
    write_tree(root, {"wav/a.wav": WAV, "b.opus": OPUS})
    path = write_lines(
        root / "m.jsonl",
        {
            "id": "one",
            "audio_filepath": "wav/a.wav",
            "text": DE[1],
            "language": "de",
            "duration": SECONDS,
            "mood": "🙂",
        },
        "{",
        {"audio_filepath": str(root / "wav/a.wav"), "text": ZH[1], "lang": "zh", "offset": 0.25, "duration": 0.5},
        {"id": "gone", "audio_filepath": "gone.wav"},
    )
    part = f"{root / 'wav/a.wav'}#250-750ms"
    dead = {"m.jsonl:2": "bad_metadata", "gone": "missing_file"}
    return Archive(path, {"one": (*DE, {"mood": "🙂"}), part: (*ZH, None)}, seconds=1.7, dead=dead)


def lhotse(root: Path) -> Archive:
    root.mkdir()
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, (80_000, 2))
    soundfile.write(root / "call.wav", noise, 8000)
    words = {"start": 0.5, "text": ZH[1], "language": "Chinese", "speaker": "bert"}
    path = write_lines(
        root / "cuts.jsonl.gz",
        cut(id="whole", start=8.5, duration=1.5),
        cut(id="left", start=2.5, duration=1.25, channel=1, type="MonoCut", supervisions=[words], custom=None),
    )
    whole = ("de", "guten tag", {"speaker": "anna", "custom": {"snr": 20}})
    return Archive(path, {"whole": whole, "left": (*ZH, {"speaker": "bert", "custom": None})}, seconds=2.75)


def librispeech(root: Path) -> Archive:
    chapter = "dev-clean/84/121123/84-121123"
    write_tree(
        root,
        {
            f"{chapter}-0000.flac": FLAC,
            f"{chapter}-0001.flac": FLAC,
            f"{chapter}.trans.txt": b"84-121123-0000 GO DO YOU HEAR\n84-121123-0001 BUT IN\n84-121123-0002 LOST\n",
        },
    )
    place = {"speaker": "84", "chapter": "121123", "subset": "dev-clean"}
    expected = {"84-121123-0000": ("en", "GO DO YOU HEAR", place), "84-121123-0001": ("en", "BUT IN", place)}
    return Archive(root, expected, "en", seconds=2.4, dead={"84-121123-0002": "missing_file"})


def huggingface(root: Path) -> Archive:
    import datasets

    cells = [{"bytes": data, "path": name} for data, name in ((FLAC, "a.flac"), (WAV, "b.wav"))]
    data = pa.table({"audio": pa.array(cells, AUDIO), "text": [DE[1], ZH[1]], "lang": [1, 0], "key": ["a", "b"]})
    saved = datasets.Dataset(data).cast_column("audio", datasets.Audio(sampling_rate=16_000))
    saved = saved.cast_column("lang", datasets.ClassLabel(names=["mandarin", "german"]))
    datasets.DatasetDict({"train": saved, "test": saved.select([0])}).save_to_disk(root)
    expected = {"a": (*DE, {"path": "a.flac"}), "b": (*ZH, {"path": "b.wav"})}
    expected["test/0"] = (*DE, {"key": "a", "path": "a.flac"})  # an earlier row has its key
    return Archive(root, expected, seconds=3.6)


def files(root: Path) -> Archive:
    write_tree(root, {"x/a.wav": WAV, "x/a.txt": DE[1].encode(), "b.opus": OPUS, "notes.md": b"#"})
    return Archive(root, {"x/a.wav": (*DE, None), "b.opus": ("de", None, None)}, "de")


def fleurs(root: Path) -> Archive:
    corpora.write(root, corpora.fleurs("de_de") | corpora.fleurs("en_us", packed=False))
    expected: dict[str, tuple[str, str | None, dict[str, Any] | None]] = {
        f"{folder}/{name.removesuffix('.wav')}": (folder[:2], text, metadata)
        for folder in ("de_de", "en_us")
        for name, (number, raw, text, gender) in corpora.FLEURS.items()
        for metadata in [{"raw_transcription": raw, "sentence_id": number, "gender": gender, "split": "test"}]
    }
    seconds = 2 * sum(corpora.seconds("en-us", text) for _, _, text, _ in corpora.FLEURS.values())
    return Archive(root, expected, seconds=seconds)


def config_for(archive: Archive, out: Path, model: Path, *more: str) -> RunConfig:
    return settings(archive.uri, out, model, "source.format=auto", f"source.language={archive.language}", *more)


def table(config: RunConfig, name: str) -> list[dict[str, Any]]:
    return pq.read_table(Path(config.output.uri) / name).to_pylist()


def books(config: RunConfig) -> dict[str, Any]:
    totals = dict(json.loads((Path(config.output.uri) / "_run/accounting.json").read_text()))
    assert totals["closed"], totals
    return totals


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("webdataset", webdataset),
        ("parquet", parquet),
        ("manifest", manifest),
        ("manifest", lhotse),
        ("librispeech", librispeech),
        ("huggingface", huggingface),
        ("files", files),
        ("fleurs", fleurs),
    ],
    ids=["webdataset", "parquet", "jsonl", "lhotse", "librispeech", "huggingface", "files", "fleurs"],
)
def test_all_that_a_source_says_is_in_the_tables(
    name: str,
    build: Callable[[Path], Archive],
    tmp_path: Path,
    small_model_dir: Path,
    caplog: pytest.LogCaptureFixture,
    request: pytest.FixtureRequest,
) -> None:
    from pipeline.in_process import transcribe_here  # imports torch

    archive = build(tmp_path / "in")
    config = config_for(archive, tmp_path / "out", small_model_dir)
    if name in ON_RAY:
        request.getfixturevalue("local_ray")
    with caplog.at_level(logging.INFO):
        (transcribe if name in ON_RAY else transcribe_here)(config)
    assert f"{archive.uri} is read as {name} " in caplog.text
    rows = table(config, "transcripts")
    assert {row["recording_id"] for row in rows} == set(archive.expected)
    for row in rows:
        metadata = row["metadata"] and json.loads(row["metadata"])
        assert (row["language"], row["reference"], metadata) == archive.expected[row["recording_id"]]
        assert row["text"] is not None
    letters = table(config, "dead_letters")
    assert {row["recording_id"]: row["reason"] for row in letters} == archive.dead
    assert len(letters) == len(archive.dead)
    totals = books(config)
    assert totals["recordings_transcribed"] == len(archive.expected)
    if archive.seconds is not None:  # opus is as long as its packets
        assert totals["seconds_in"] == archive.seconds


@pytest.mark.usefixtures("local_ray")
def test_both_sides_of_a_call_are_transcribed_and_counted(tmp_path: Path, small_model_dir: Path) -> None:
    wav(tmp_path / "in/mono.wav", 1.5)
    sides = np.random.default_rng(0).integers(-8000, 8000, (round(2.5 * SAMPLE_RATE), 2), dtype=np.int16)
    soundfile.write(tmp_path / "in/call.wav", sides, SAMPLE_RATE, subtype="PCM_16")
    archive = Archive(tmp_path / "in", {}, "en")
    config = config_for(archive, tmp_path / "out", small_model_dir, "source.channels=split")
    transcribe(config)
    rows = [(row["recording_id"], row["channel"], row["start_ms"]) for row in table(config, "transcripts")]
    assert {row[:2] for row in rows} == {("call.wav", 0), ("call.wav", 1), ("mono.wav", 0)}
    first, second = ([at for name, channel, at in rows if (name, channel) == ("call.wav", side)] for side in (0, 1))
    assert first == second == sorted(first)
    assert first[0] == 0
    totals = books(config)
    assert totals["seconds_in"] == totals["seconds_transcribed"] == 2 * 2.5 + 1.5
    assert (totals["recordings_transcribed"], totals["segments"]) == (2, len(rows))
    assert table(config, "dead_letters") == []
