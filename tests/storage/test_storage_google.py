"""Tests of gs:// on a small server that answers as Google's documentation says.

No emulator on a package registry knows the requests that obstore sends. So nothing here shows how Google's store
behaves.
"""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from urllib.parse import unquote, urlsplit

import pytest

from pipeline.config import ConfigError
from pipeline.storage import patience
from pipeline.storage.base import Storage, open_storage, race_probe
from tests.support.small_s3 import SmallS3, etag_of
from tests.support.storages import check_puts, check_versions, fill


class SmallGoogle(SmallS3):
    """A `SmallS3` with PUT, DELETE and the condition `x-goog-if-generation-match: 0`."""

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        store, base = self, super()._handler()

        class Handler(base):  # type: ignore[misc, valid-type]
            def do_PUT(self) -> None:  # noqa: N802
                data = self.rfile.read(int(self.headers["Content-Length"]))
                with store.lock:
                    absent = self.headers.get("x-goog-if-generation-match") == "0"
                    if absent and self.key() in store.objects:
                        self.answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
                        return
                    store.objects[self.key()] = data
                self.answer(200, b"", {"ETag": etag_of(data)})

            def do_DELETE(self) -> None:  # noqa: N802
                gone = store.objects.pop(self.key(), None) is None
                self.answer(404 if gone else 204, b"")

            def key(self) -> str:
                return unquote(urlsplit(self.path).path).removeprefix("/b/")

        return Handler


@pytest.fixture
def google(monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallGoogle]:
    monkeypatch.setattr(patience, "FIRST_SECONDS", 0.001)
    store = SmallGoogle()
    monkeypatch.setenv("GOOGLE_BASE_URL", store.url)
    monkeypatch.setenv("GOOGLE_BEARER_TOKEN", "token")
    yield store
    store.close()


@pytest.fixture
def storage(google: SmallGoogle) -> Storage:
    return open_storage("gs://b/out")


def test_one_of_racing_writers_wins(storage: Storage) -> None:
    race_probe(storage)
    assert list(storage.list("")) == []


def test_put_replaces_and_put_if_absent_does_not(storage: Storage) -> None:
    check_puts(storage)


def test_objects_are_read_by_range_listed_and_deleted(storage: Storage) -> None:
    body = bytes(range(256)) * 10
    storage.put("data/0a-x", body)
    storage.put("data/0b-x", b"")
    with storage.open("data/0a-x") as stream:
        stream.seek(100)
        assert stream.read(5) == body[100:105]
    assert list(storage.list("data/0a")) == ["data/0a-x"]
    assert list(storage.list("data/")) == ["data/0a-x", "data/0b-x"]
    storage.delete("data/0a-x")
    storage.delete("data/0a-x")
    with pytest.raises(FileNotFoundError):
        storage.get("data/0a-x")


def test_tables_are_replaced(storage: Storage) -> None:
    check_versions(storage)
    fill(storage, "old", 3)
    fill(storage, "new", 2)
    assert [storage.get(key) for key in storage.list("transcripts/")] == [b"new", b"new"]


def test_a_missing_bucket_is_an_error_in_one_line(google: SmallGoogle) -> None:
    with pytest.raises(ConfigError, match=r"^output\.uri: gs://none/out/: NoSuchBucket: the bucket does not exist"):
        open_storage("gs://none/out")
