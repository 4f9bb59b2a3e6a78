"""Tests of making a client: the store names the region of its bucket, impossible names are refused."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

import pytest

from pipeline.storage.base import open_storage
from pipeline.storage.connect import CannotConnect, connect_store
from tests.support.small_s3 import SmallS3


class RegionalS3(SmallS3):
    """A store that names the region of its bucket. regions: for which requests for objects were signed."""

    def __init__(self) -> None:
        self.regions: set[str] = set()
        super().__init__()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        store, base = self, super()._handler()

        class Handler(base):  # type: ignore[misc, valid-type]
            def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
                if not self.path.startswith("/b?") and self.path != "/b":
                    store.regions.add(self.headers["Authorization"].split("/")[2])
                super().answer(status, body, (headers or {}) | {"x-amz-bucket-region": "eu-central-1"})

        return Handler


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[RegionalS3]:
    store = RegionalS3()
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_PROFILE", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-west-2")
    yield store
    store.close()


def test_requests_are_signed_for_the_region_that_the_store_names(s3: RegionalS3) -> None:
    s3.objects["out/k"] = b"1"
    assert open_storage("s3://b/out", create=False).get("k") == b"1"
    assert s3.regions == {"eu-central-1"}


@pytest.mark.parametrize("bucket", ["not a bucket", "", "a/b", "ä"])
def test_an_impossible_name_of_a_bucket_is_refused_before_any_request(bucket: str) -> None:
    with pytest.raises(CannotConnect, match="Invalid bucket name"):
        connect_store("s3", bucket, 1)
