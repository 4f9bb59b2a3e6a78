"""The table of formats: auto detects one and logs it, include and exclude filter, mistakes are one line."""

from __future__ import annotations

import io
import json
import logging
import tarfile
from pathlib import Path
from typing import get_args

import pytest

from pipeline.config import ConfigError, SourceConfig
from pipeline.schemas import BadRecording, RecordingRef
from pipeline.sources.formats import detect_format, list_recordings, read_recording


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def tar(path: Path, *names: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as out:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(name)
            out.addfile(info, io.BytesIO(name.encode()))


def ids(uri: Path | str, **keys: str) -> list[str]:
    return [ref.recording_id for ref in list_recordings(SourceConfig(uri=str(uri), **keys))]


@pytest.mark.parametrize(
    ("names", "format_name"),
    [
        (["s-0.tar", "s-1.tar.gz", "index.json"], "webdataset"),
        (["a.parquet", "README.md"], "parquet"),
        (["x/a.flac", "y/b.WAV", "train.tsv"], "files"),
        (["84/121/84-121-0.flac", "84/121/84-121.trans.txt"], "librispeech"),
        (["cuts.jsonl.gz"], "manifest"),
        (["dataset_info.json", "state.json", "data-00000-of-00001.arrow"], "huggingface"),
        (["dataset_dict.json", "train/state.json", "train/x.arrow"], "huggingface"),
        (["data/en_us/test.tsv", "data/en_us/audio/test.tar.gz", "README.md"], "fleurs"),
        (["test.tsv", "audio/test/1.wav"], "files"),  # no folder of a language
        (["cv-corpus-9/de/test.tsv", "cv-corpus-9/de/clips/a.mp3", "cv-corpus-9/de/reported.tsv"], "commonvoice"),
        (["de/test.tsv", "clips/a.mp3"], "files"),
        (["de/test.tsv", "de/a.mp3"], "files"),
        (["de/test.tsv"], "manifest"),
        (["asr_test.tsv", "2009/20090112-0900-PLENARY-1-en_1.ogg"], "voxpopuli"),
        (["en/asr_test.tsv", "en/test/test_part_0.tar.gz"], "voxpopuli"),
        (["mls_german/test/transcripts.txt", "mls_german/test/audio/1/2/1_2_3.flac"], "mls"),
        (["test/audio/1/2/1_2_3.flac"], "files"),
        (["data/en_us/test.tsv", "data/en_us/audio/test.tar.gz", "en/0.parquet", "en/1.parquet"], "parquet"),
    ],
)
def test_auto_detects_the_format_and_logs_it(
    tmp_path: Path, names: list[str], format_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, *names)
    with caplog.at_level(logging.INFO):
        assert detect_format(str(tmp_path)) == format_name
    assert f"{tmp_path} is read as {format_name}" in caplog.text
    assert caplog.text.count("\n") <= 2


def test_auto_detects_the_corpus_of_a_table_by_the_audio_beside_it(tmp_path: Path) -> None:
    touch(tmp_path, "de/test.tsv", "de/clips/a.mp3", "hi_in/test.tsv", "hi_in/audio/test.tar.gz", "x/test.tsv")
    formats = {name: detect_format(f"{tmp_path}/{name}/test.tsv") for name in ("de", "hi_in", "x")}
    assert formats == {"de": "commonvoice", "hi_in": "fleurs", "x": "manifest"}
    assert detect_format(f"{tmp_path}/de/clips") == detect_format(f"{tmp_path}/de/clips/*.mp3") == "files"


def test_source_split_is_an_error_for_formats_without_splits(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav")
    with pytest.raises(
        ConfigError, match=r"^source\.split: format files has no splits; source\.uri says what is read$"
    ):
        ids(tmp_path, split="test")


def test_auto_warns_of_files_that_it_does_not_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "a.wav", "b.wav", "c.tar")
    assert detect_format(str(tmp_path)) == "files"
    assert "not read: {'webdataset': 1}" in caplog.text


def test_auto_lists_and_reads_each_format(tmp_path: Path) -> None:
    touch(tmp_path, "plain/a.wav")
    (tmp_path / "m.jsonl").write_text(json.dumps({"audio_filepath": "plain/a.wav"}))
    tar(tmp_path / "s.tar", "plain/a.wav")
    for uri in ("plain", "m.jsonl", "s.tar"):
        (ref,) = list_recordings(SourceConfig(uri=str(tmp_path / uri)))
        assert read_recording(ref).audio == b"plain/a.wav"


def test_include_and_exclude_are_globs_on_ids(tmp_path: Path) -> None:
    touch(tmp_path, "de/a.wav", "de/b.wav", "fr/a.wav")
    assert ids(tmp_path, include="de/*") == ["de/a.wav", "de/b.wav"]
    assert ids(tmp_path, include="*a.wav") == ["de/a.wav", "fr/a.wav"]
    assert ids(tmp_path, exclude="**/b.*") == ["de/a.wav", "fr/a.wav"]
    assert ids(tmp_path, include="*/{a,b}.wav", exclude="fr*") == ["de/a.wav", "de/b.wav"]
    with pytest.raises(ConfigError, match=r"^source\.include: no recording of .* is left$"):
        ids(tmp_path, include="es/*")
    with pytest.raises(ConfigError, match=r"^source\.exclude: '\[z-a\]': not a valid pattern"):
        ids(tmp_path, exclude="[z-a]")


def test_include_does_not_hide_damage(tmp_path: Path) -> None:
    (tmp_path / "s.tar").write_bytes(b"garbage" * 100)
    (tmp_path / "m.jsonl").write_text('{"id": "de-1", "audio_filepath": "a.wav"}\n{"id": "de-2", \n{"id": "fr-1"}\n')
    assert ids(tmp_path / "s.tar", include="de*") == ["s!archive"]
    assert ids(tmp_path / "m.jsonl", include="de*") == ["de-1", "m.jsonl:2"]
    assert ids(tmp_path / "m.jsonl", include="de*", exclude="m.jsonl:*") == ["de-1"]


@pytest.mark.parametrize("form", get_args(SourceConfig.model_fields["format"].annotation))
@pytest.mark.parametrize("uri", ["gone", "gone/*.tar", "empty"])
def test_an_empty_source_is_an_error_in_one_line_at_once(tmp_path: Path, form: str, uri: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"^source\.(uri|format): [^\n]+$"):
        list_recordings(SourceConfig(uri=str(tmp_path / uri), format=form))


@pytest.mark.parametrize("uri", ["nosuch://bucket/x", "s3://", "memory://nothing/*.tar", "{a..", "x::y"])
def test_urls_that_cannot_be_opened_are_an_error_in_one_line(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"^source\.[a-z]+: [^\n]+$"):
        list_recordings(SourceConfig(uri=uri))


def test_a_recording_with_a_problem_is_not_read() -> None:
    ref = RecordingRef("a", "files", "/nowhere", problem="unsafe_name", problem_detail="because")
    with pytest.raises(BadRecording, match=r"^unsafe_name: because$"):
        read_recording(ref)


def test_listing_is_lazy(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", "1.wav")
    tar(tmp_path / "b.tar", "2.wav")
    refs = list_recordings(SourceConfig(uri=str(tmp_path)))
    (tmp_path / "b.tar").unlink()
    first, second = refs
    assert (first.problem, second.problem) == (None, "missing_file")


def test_the_path_says_the_language_in_every_format(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "files/de/a.wav", "files/german/b.wav", "files/zh-HK/c.wav", "files/unknown/d.wav")
    tar(tmp_path / "shards/s-0.tar", "de/a.wav", "fr/b.wav", "fr/b.lang")
    (tmp_path / "m.jsonl").write_text(
        json.dumps({"audio_filepath": "files/de/a.wav", "lang": "nl"}) + "\n" + json.dumps({"audio_filepath": "x.wav"})
    )

    def languages(uri: str, regex: str) -> list[str | None]:
        refs = list(list_recordings(SourceConfig(uri=str(tmp_path / uri), language=f"path:{regex}")))
        return [ref.problem or read_recording(ref).language for ref in refs if ref.source_uri != f"{tmp_path}/x.wav"]

    assert languages("files", "/([^/]+)/[^/]+$") == ["de", "de", None, "unsupported_language"]
    assert languages("shards", "/(de|fr)/") == ["de", "fr"]
    assert languages("m.jsonl", "/(de|fr)/") == ["de"]
    assert "1 recordings have no language in their path" in caplog.text
