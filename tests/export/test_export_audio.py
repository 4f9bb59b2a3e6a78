"""Training sets with audio, each read back by its own library; NeMo's against its documented form."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from jobs.export import main
from pipeline.config import SourceConfig
from pipeline.schemas import SAMPLE_RATE
from pipeline.sources.formats import list_recordings, read_recording
from tests.support.labelled import WORDS, archive, sound, transcribed
from tests.support.small_s3 import SmallS3

TEXT = " ".join(WORDS)
GOOD = [(number, start) for number in (0, 1, 2, 4) for start in (0, 1000)]  # r3 is broken after it was transcribed


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five recordings with two segments each."""
    folder = tmp_path_factory.mktemp("export")
    transcribed(str(archive(folder / "in", 5)), str(folder / "out"))
    (folder / "in/r3.wav").write_bytes(b"no audio" * 100)
    return folder / "out"


def export(output: Path, target: Path, *words: str) -> Path:
    """Export two recordings a shard, so that there are three shards."""
    settings = ["export.tasks=1", "export.shard_rows=3", "export.max_lost_fraction=0.5", *words]
    assert main([f"input.uri={output}", f"output.uri={target}", *settings]) == 0
    lines = [json.loads(line) for line in (target / "problems.jsonl").read_text().splitlines()]
    assert [(line["recording_id"], line["reason"]) for line in lines] == [("r3.wav", "source_changed")] * 2
    return target


def expected(number: int, start_ms: int) -> np.ndarray:
    return sound(number)[start_ms * 16 : (start_ms + 900) * 16]


def check(audio: bytes, row: dict[str, Any], number: int, start_ms: int) -> None:
    """The audio is that of the segment, to the sample, and the row says where it is from."""
    samples, rate = soundfile.read(io.BytesIO(audio), dtype="int16")
    assert rate == SAMPLE_RATE
    np.testing.assert_array_equal(samples, expected(number, start_ms))
    assert (row["recording_id"], row["start_ms"], row["text"]) == (f"r{number}.wav", start_ms, TEXT)
    assert row["source_uri"].endswith(f"/in/r{number}.wav")
    assert (row["model"], row["model_revision"], row["denoise_seed"], row["steps"]) == ("tiny", "abc123", 0, 3)
    assert (row["source_bytes"], row["confidence_source"]) == (44 + 2 * len(sound(number)), "raw")


def test_nemo_has_tars_with_sharded_manifests(output: Path, tmp_path: Path) -> None:
    folder = export(output, tmp_path / "set", "export.format=nemo") / "train"
    rows = [json.loads(line) for line in (folder / "manifest.json").read_text().splitlines()]
    assert [row["shard_id"] for row in rows] == [0] * 4 + [1] * 2 + [2] * 2
    sharded = [path.read_text() for path in sorted((folder / "sharded_manifests").glob("manifest_*.json"))]
    assert "".join(sharded) == (folder / "manifest.json").read_text()
    for row, (number, start) in zip(rows, GOOD, strict=True):
        with tarfile.open(folder / f"audio_{row['shard_id']}.tar") as tar:
            member = tar.extractfile(row["audio_filepath"])
            assert member
            check(member.read(), row, number, start)
        assert (row["duration"], row["lang"]) == (0.9, "en")


def test_webdataset_reads_its_shards(output: Path, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    folder = export(output, tmp_path / "set", "export.format=webdataset") / "train"
    shards = [str(path) for path in sorted(folder.glob("shard-*.tar"))]
    assert len(shards) == 3
    samples = list(webdataset.WebDataset(shards, shardshuffle=False))
    for sample, (number, start) in zip(samples, GOOD, strict=True):
        assert sample["txt"].decode() == TEXT
        check(sample["flac"], json.loads(sample["json"]), number, start)


def test_datasets_loads_the_folder_with_its_audio(output: Path, tmp_path: Path) -> None:
    from datasets import Audio, load_dataset

    folder = export(output, tmp_path / "set", "export.format=huggingface")
    loaded = load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert list(loaded) == ["train"]
    assert loaded["train"].features["audio"] == Audio(sampling_rate=SAMPLE_RATE)
    rows = list(loaded["train"].cast_column("audio", Audio(decode=False)))
    for row, (number, start) in zip(rows, GOOD, strict=True):
        check(row["audio"]["bytes"], row, number, start)


@pytest.mark.parametrize("audio", ["segments", "reference"])
def test_lhotse_reads_the_kaldi_directory(audio: str, output: Path, tmp_path: Path) -> None:
    kaldi = pytest.importorskip("lhotse.kaldi")
    words = ["export.format=kaldi", f"export.audio={audio}"]
    if audio == "reference":  # no audio is read, so the broken recording is not noticed
        assert main([f"input.uri={output}", f"output.uri={tmp_path / 'set'}", "export.shard_rows=3", *words]) == 0
        whole = [(number, start) for number in range(5) for start in (0, 1000)]
    else:
        export(output, tmp_path / "set", *words)
        whole = GOOD
    folder = tmp_path / "set/train"
    rows = {row["id"]: row for row in map(json.loads, (folder / "provenance.jsonl").read_text().splitlines())}
    if audio == "reference":
        (folder / "wav.scp").write_text(
            "".join(line for line in (folder / "wav.scp").read_text().splitlines(True) if not line.startswith("r3"))
        )
        lines = [line for line in (folder / "segments").read_text().splitlines(True) if " r3.wav " not in line]
        (folder / "segments").write_text("".join(lines))
        whole = GOOD
    recordings, supervisions, _ = kaldi.load_kaldi_data_dir(folder, sampling_rate=SAMPLE_RATE)
    assert len(recordings) == (8 if audio == "segments" else 4)
    found = set()
    for one in supervisions:
        row = rows[one.id.rpartition("-")[2]]
        samples = recordings[one.recording_id].load_audio(offset=one.start, duration=one.duration)
        number, start = int(row["recording_id"][1]), row["start_ms"]
        np.testing.assert_array_equal(np.rint(samples[0] * 32768), expected(number, start))
        assert (one.text, one.speaker) == (TEXT, f"s{number % 2}")
        found.add((number, start))
    assert found == set(whole)
    speakers = dict(line.split(" ", 1) for line in (folder / "spk2utt").read_text().splitlines())
    assert {name: len(names.split()) for name, names in speakers.items()} == (
        {"s0": 6, "s1": 2} if audio == "segments" else {"s0": 6, "s1": 4}
    )
    for name in ("wav.scp", "text", "utt2spk", "spk2utt"):
        lines = (folder / name).read_bytes().splitlines()
        assert lines == sorted(set(lines))


def test_two_speakers_of_kaldi_are_not_one(tmp_path: Path) -> None:
    def change(row: dict[str, Any]) -> dict[str, Any]:
        return row | {"metadata": json.dumps({"speaker": "anna b" if row["recording_id"] == "r0.wav" else "anna-b"})}

    transcribed(str(archive(tmp_path / "in", 2)), str(tmp_path / "out"), change=change)
    words = ["export.format=kaldi", "export.audio=reference", f"output.uri={tmp_path / 'set'}"]
    assert main([f"input.uri={tmp_path / 'out'}", *words]) == 0
    speakers = [line.split() for line in (tmp_path / "set/train/spk2utt").read_text().splitlines()]
    assert [len(line) for line in speakers] == [3, 3]
    assert all(name.startswith(f"{speaker}-") for speaker, *names in speakers for name in names)


@pytest.mark.parametrize(
    ("source", "more", "says"),
    [
        ("s3://b/in", ["export.audio=reference"], "export.audio: s3://b/in/r0.wav: Kaldi and ffmpeg do not read"),
        ("{}/in", ["output.uri=s3://b/set"], "output.uri: s3://b/set: Kaldi reads audio from local files only"),
    ],
)
def test_kaldi_gets_no_address_of_a_store(
    source: str, more: list[str], says: str, s3: SmallS3, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    s3.objects["in/r0.wav"] = (archive(tmp_path / "in", 1) / "r0.wav").read_bytes()
    transcribed(source.format(tmp_path), str(tmp_path / "out"), f"storage.endpoint={s3.url}")
    words = ["export.format=kaldi", "export.tasks=1", f"storage.endpoint={s3.url}", f"input.uri={tmp_path / 'out'}"]
    assert main([*words, f"output.uri={tmp_path / 'set'}", *more]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(says)


def test_lhotse_reads_its_shar(output: Path, tmp_path: Path) -> None:
    lhotse = pytest.importorskip("lhotse")
    folder = export(output, tmp_path / "set", "export.format=lhotse") / "train"
    cuts = list(lhotse.CutSet.from_shar(in_dir=folder))
    for cut, (number, start) in zip(cuts, GOOD, strict=True):
        np.testing.assert_array_equal(np.rint(cut.load_audio()[0] * 32768), expected(number, start))
        (supervision,) = cut.supervisions
        assert (supervision.text, supervision.speaker, supervision.language) == (TEXT, f"s{number % 2}", "en")
        assert supervision.custom["source_uri"].endswith(f"/in/r{number}.wav")
        assert [(word.symbol, word.start) for word in supervision.alignment["word"]][1] == ("morning", 0.2)


def test_lhotse_reads_cuts_that_point_into_the_source(tmp_path: Path) -> None:
    lhotse = pytest.importorskip("lhotse")
    transcribed(str(archive(tmp_path / "in", 2)), str(tmp_path / "out"))
    words = ["export.format=lhotse", "export.audio=reference", f"output.uri={tmp_path / 'set'}"]
    assert main([f"input.uri={tmp_path / 'out'}", *words]) == 0
    cuts = list(lhotse.CutSet.from_file(tmp_path / "set/train/cuts.jsonl"))
    assert [(cut.recording.id, cut.start) for cut in cuts] == [
        ("r0.wav", 0),
        ("r0.wav", 1),
        ("r1.wav", 0),
        ("r1.wav", 1),
    ]
    np.testing.assert_array_equal(np.rint(cuts[3].load_audio()[0] * 32768), expected(1, 1000))
    assert cuts[3].supervisions[0].text == TEXT


def test_cuts_leave_out_what_cannot_be_read_and_what_does_not_say_its_length(output: Path, tmp_path: Path) -> None:
    folder = export(output, tmp_path / "set", "export.format=lhotse", "export.audio=reference") / "train"
    cuts = [json.loads(line) for line in (folder / "cuts.jsonl").read_text().splitlines()]
    assert [(cut["recording"]["id"], cut["start"]) for cut in cuts] == [(f"r{at}.wav", ms / 1000) for at, ms in GOOD]
    (tmp_path / "in").mkdir()
    soundfile.write(buffer := io.BytesIO(), sound(0), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    flac = bytearray(buffer.getvalue())
    flac[21] &= 0xF0  # the number of samples in STREAMINFO, as a pipe leaves it
    flac[22:26] = bytes(4)
    (tmp_path / "in/r0.flac").write_bytes(flac)
    transcribed(str(tmp_path / "in"), str(tmp_path / "out"))
    words = ["export.format=lhotse", "export.audio=reference", f"output.uri={tmp_path / 'none'}"]
    assert main([f"input.uri={tmp_path / 'out'}", *words]) == 1
    lines = [json.loads(line) for line in (tmp_path / "none/problems.jsonl").read_text().splitlines()]
    assert [line["reason"] for line in lines] == ["unsupported_audio"] * 2
    assert "its header does not say its length" in lines[0]["error"]


def test_one_channel_of_several_is_cut_by_itself(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in/call.wav", np.stack([sound(0), sound(1)], axis=1), SAMPLE_RATE, subtype="PCM_16")

    def of_channel(row: dict[str, Any]) -> dict[str, Any]:
        return row | {"channel": 1 - row["segment_index"]}

    transcribed(str(tmp_path / "in"), str(tmp_path / "out"), "source.channels=split", change=of_channel)
    words = ["export.format=nemo", "export.tasks=1", f"input.uri={tmp_path / 'out'}", f"output.uri={tmp_path / 'set'}"]
    assert main(words) == 0
    rows = [json.loads(line) for line in (tmp_path / "set/train/manifest.json").read_text().splitlines()]
    with tarfile.open(tmp_path / "set/train/audio_0.tar") as tar:
        for row in rows:
            member = tar.extractfile(row["audio_filepath"])
            assert member
            samples, _ = soundfile.read(io.BytesIO(member.read()), dtype="int16")
            np.testing.assert_array_equal(samples, expected(row["channel"], row["start_ms"]))
    assert [(row["channel"], row["start_ms"]) for row in rows] == [(0, 1000), (1, 0)]


@pytest.mark.parametrize(("name", "below"), [("webdataset", "train"), ("huggingface", "data")])
def test_an_export_is_a_source_with_texts_for_training(name: str, below: str, output: Path, tmp_path: Path) -> None:
    folder = export(output, tmp_path / "set", f"export.format={name}")
    source = SourceConfig(uri=str(folder / below), language="column:language")
    read = [read_recording(ref) for ref in list_recordings(source)]
    assert [(one.reference, one.language) for one in read] == [(TEXT, "en")] * len(GOOD)


@pytest.mark.timeout(600)
def test_too_many_rows_without_audio_fail_the_job_which_cuts_in_tasks_of_ray(
    output: Path, local_ray: None, tmp_path: Path
) -> None:
    words = ["export.format=nemo", "export.shard_rows=3", f"input.uri={output}", f"output.uri={tmp_path / 'set'}"]
    assert main(words) == 1
    assert len(list((tmp_path / "set/train").glob("audio_*.tar"))) == 3
    assert (
        "Rows without audio, each with its recording in problems.jsonl: source_changed"
        in (tmp_path / "set/DATA_CARD.md").read_text()
    )
