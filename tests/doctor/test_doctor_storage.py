"""The doctor on source and output: local folders and a small S3 that refuses, or lets every writer win."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import s3fs

from pipeline.config import StorageConfig
from pipeline.doctor import storage_check
from pipeline.doctor.rows import Result, guarded
from pipeline.doctor.settings import DoctorConfig, DoctorOutput, DoctorSource
from pipeline.planning.plan import ensure_plan
from pipeline.storage.base import open_storage
from tests.support.archives import archive, wav
from tests.support.small_s3 import SmallS3, etag_of

SECRET = "wJalrXUtnFEMIK7MDENG"  # pragma: allowlist secret


class CarelessS3(SmallS3):
    """Takes puts, whatever their condition says: as stores do that do not know If-None-Match."""

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        store, base = self, super()._handler()

        class Handler(base):  # type: ignore[misc, valid-type]
            def do_PUT(self) -> None:  # noqa: N802
                data = self.rfile.read(int(self.headers["Content-Length"]))
                store.objects[self.key()] = data
                self.answer(200, b"", {"ETag": etag_of(data)})

            def do_DELETE(self) -> None:  # noqa: N802
                store.objects.pop(self.key(), None)
                self.answer(204, b"")

            def key(self) -> str:
                return unquote(urlsplit(self.path).path).removeprefix("/b/")

        return Handler


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[CarelessS3]:
    store = CarelessS3()
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "AWS_ENDPOINT_URL": store.url,
        "AWS_ACCESS_KEY_ID": "AKIAKEY",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/nonexistent",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    yield store
    s3fs.S3FileSystem.clear_instance_cache()
    store.close()


def settings(source: Path | str = "", output: Path | str = "", **storage: Any) -> DoctorConfig:
    return DoctorConfig(
        source=DoctorSource(uri=str(source)), output=DoctorOutput(uri=str(output)), storage=StorageConfig(**storage)
    )


def only(check: Any, config: DoctorConfig) -> Result:
    (row,) = guarded("check", lambda: check(config), seconds=60)
    return row


def test_the_first_recording_of_a_source_is_read_and_decoded(tmp_path: Path) -> None:
    row = only(storage_check.source, settings(archive(tmp_path, 2)))
    assert row.state == "ok"
    assert row.finding.startswith("r000.wav: 80 kB read in ")


def test_a_bad_recording_before_good_ones_is_a_warning(tmp_path: Path) -> None:
    archive(tmp_path, 2)
    (tmp_path / "a.wav").write_bytes(b"")
    row = only(storage_check.source, settings(tmp_path))
    assert row.state == "warn"
    assert "1 before it cannot be used: a.wav: read, but it is not usable audio" in row.finding


def test_a_missing_source_and_one_without_any_audio_fail(tmp_path: Path) -> None:
    missing = only(storage_check.source, settings(tmp_path / "none"))
    assert (missing.state, missing.advice) == ("FAIL", storage_check.KEYS)
    assert missing.finding.startswith("source.uri: ")
    (tmp_path / "a.wav").write_bytes(b"")
    silent = only(storage_check.source, settings(tmp_path))
    assert silent.state == "FAIL"
    assert "none of the first 1 recordings can be used" in silent.finding


def test_an_output_that_was_not_there_is_probed_and_not_there_afterwards(tmp_path: Path) -> None:
    config = settings(output=tmp_path / "deep" / "out")
    assert only(storage_check.output, config).state == "ok"
    assert only(storage_check.race, config).state == "ok"
    assert list(tmp_path.iterdir()) == []


def test_an_output_with_content_keeps_it(tmp_path: Path) -> None:
    (tmp_path / "_run").mkdir()
    (tmp_path / "_run" / "plan.parquet").write_bytes(b"x")
    assert only(storage_check.output, settings(output=tmp_path)).state == "ok"
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["plan.parquet"]


@pytest.mark.parametrize("uri", ["/proc/fullcanvas", "/dev/null/out", "ftp://bucket/out"])
def test_an_output_that_cannot_be_written_fails(uri: str) -> None:
    row = only(storage_check.output, settings(output=uri))
    assert row.state == "FAIL"
    assert row.finding.startswith(f"output.uri: {uri}: ")


def test_a_store_where_every_writer_wins_fails_the_race_and_nothing_else(s3: CarelessS3) -> None:
    config = settings(output="s3://b/out")
    assert only(storage_check.output, config).state == "ok"
    race = only(storage_check.race, config)
    assert race.state == "FAIL"
    assert "9 of 9 writers of one key won" in race.finding
    assert s3.objects == {}
    single = only(storage_check.race, settings(output="s3://b/out", single_writer=True))
    assert single.state == "warn"


def test_a_store_that_refuses_fails_and_its_keys_are_not_shown(s3: CarelessS3) -> None:
    s3.objects["raw/a.wav"] = b"x"
    s3.fail = {"": deque([403] * 50), "raw": deque([403] * 50)}
    for row in (
        only(storage_check.source, settings("s3://b/raw")),
        only(storage_check.output, settings(output="s3://b/out")),
    ):
        assert row.state == "FAIL"
        assert SECRET not in str(row)
        assert "AKIAKEY" not in str(row)


def test_what_is_not_given_is_not_checked() -> None:
    for check in (storage_check.source, storage_check.output):
        assert only(check, settings()).finding.endswith("is not given: not checked")
    assert list(storage_check.race(settings())) == []


def test_the_source_is_compared_with_the_plan_of_an_output_that_is_there(tmp_path: Path) -> None:
    source, output = archive(tmp_path / "in", 3), tmp_path / "out"
    config = DoctorConfig(source=DoctorSource(uri=str(source)), output=DoctorOutput(uri=str(output)))
    assert list(storage_check.growth(config)) == []  # nothing is planned
    storage = open_storage(str(output))
    ensure_plan(storage, config.source, config.plan, part_rows=10, fingerprint={})
    assert [row.state for row in storage_check.growth(config)] == ["ok"]
    (source / "r000.wav").unlink()
    wav(source / "new.wav", 1.0)
    (row,) = storage_check.growth(config)
    assert (row.check, row.state, row.advice) == ("source plan", "warn", "plan.update=true")
    assert "1 new, 0 changed, 1 gone" in row.finding
    assert list(storage.list("_run/round-")) == []
