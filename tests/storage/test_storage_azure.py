"""Tests of the bucket storage on Azurite, Microsoft's emulator of Azure: one winner, ranges, lists, faults."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pipeline.config import ConfigError
from pipeline.storage import patience
from pipeline.storage.base import Storage, open_storage, race_probe
from pipeline.storage.errors import StorageError
from tests.support.azurite import KEY
from tests.support.faults import faults_before
from tests.support.storages import check_kept_files, check_missing, check_puts, check_versions, fill

pytestmark = pytest.mark.timeout(300)  # the first test starts, or installs, the emulator


@pytest.fixture
def storage(container: str) -> Storage:
    return open_storage(container)


def test_azure_passes_the_race_probe(storage: Storage) -> None:
    race_probe(storage, rounds=10)
    assert list(storage.list("")) == []


def test_put_replaces_and_put_if_absent_does_not(storage: Storage) -> None:
    patience.retries.clear()
    check_puts(storage)
    assert patience.retries == {}


def test_missing_keys_raise_file_not_found(storage: Storage) -> None:
    check_missing(storage)


def test_open_reads_ranges_and_notices_a_replaced_object(storage: Storage) -> None:
    body = bytes(range(256)) * 40_000
    storage.put("k", body)
    with storage.open("k") as stream:
        stream.seek(1000)
        assert stream.read(7) == body[1000:1007]
        storage.put("k", b"other")
        stream.seek(8_000_000)
        with pytest.raises(OSError, match="ConditionNotMet"):
            stream.read(100)


def test_keys_are_listed_in_order_by_any_prefix(storage: Storage, tmp_path: Path) -> None:
    names = [f"data/{number:02x}-{attempt}" for number in range(16) for attempt in "ab"]
    for name in [*names, "data2/x", "a.txt"]:
        storage.put(name, b"")
    assert list(storage.list("")) == sorted([*names, "data2/x", "a.txt"])
    assert list(storage.list("data/")) == names
    assert list(storage.list("data/0a")) == ["data/0a-a", "data/0a-b"]
    assert list(storage.list("data/0a-b")) == ["data/0a-b"]
    assert list(storage.list("nothing")) == []


def test_the_version_of_an_object_changes_when_it_is_written_again(storage: Storage) -> None:
    check_versions(storage)
    check_kept_files(storage)


def test_replace_puts_in_order_then_deletes_the_rest(storage: Storage) -> None:
    fill(storage, "old", 3)
    fill(storage, "new", 2)
    assert [storage.get(key) for key in storage.list("transcripts/")] == [b"new", b"new"]


def test_lost_and_refused_requests_are_repeated(
    azurite: str, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "FIRST_SECONDS", 0.01)
    patience.retries.clear()
    parts = urlsplit(azurite)
    with faults_before(azurite) as faults:
        monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", faults.endpoint + parts.path)
        shaky = open_storage(storage.uri)
        faults.plan = ["lose"]
        assert shaky.put_if_absent("k", b"mine")
        faults.plan = [503, "reset", 500, "cut"]
        assert shaky.get("k") == b"mine"
        faults.plan = ["reset"]
        assert not shaky.put_if_absent("k", b"theirs")
    assert storage.get("k") == b"mine"
    assert patience.retries.total() == 6


def test_output_errors_are_in_one_line_without_secrets(container: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_SECONDS", 0.001)

    def message(uri: str, kind: type[Exception] = ConfigError) -> str:
        with pytest.raises(kind) as error:
            open_storage(uri)
        text = str(error.value)
        assert text.startswith(f"output.uri: {uri}" if kind is ConfigError else uri)
        assert "\n" not in text
        assert KEY not in text
        return text

    assert "no bucket; write az://bucket/prefix" in message("az:///out")
    assert "ContainerNotFound" in message("az://no-such-container/out")
    with monkeypatch.context() as patch:
        patch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "d3Jvbmc=")
        assert "AuthorizationFailure" in message(container, StorageError)
    with monkeypatch.context() as patch:
        patch.setenv("AZURE_STORAGE_ENDPOINT", "http://127.0.0.1:1/devstoreaccount1")
        assert "no answer from 127.0.0.1:1" in message(container, StorageError)
    with monkeypatch.context() as patch:
        patch.delenv("AZURE_STORAGE_ACCOUNT_NAME")
        assert "Account must be specified" in message(container)
