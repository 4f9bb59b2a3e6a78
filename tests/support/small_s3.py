"""A small S3 on loopback: listing in pages, HEAD, GET by range, PUT (also conditional), DELETE, errors on demand."""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest
import s3fs

from pipeline.storage import patience

PAGE = 1000
CODES = {403: "AccessDenied", 503: "SlowDown"}


def etag_of(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'


class SmallS3:
    """A store with one bucket, "b".

    objects: bytes by key. fail: by key, the statuses of the next answers. log: method, key and range of each request.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.fail: dict[str, deque[int]] = {}
        self.fail_ranges: deque[int] = deque()  # statuses of the next GETs by range of any object; 200: it succeeds
        self.log: list[tuple[str, str, str | None]] = []
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def page(self, query: dict[str, list[str]]) -> str:
        prefix, flat = query.get("prefix", [""])[0], "delimiter" in query
        after = query.get("continuation-token", query.get("start-after", [""]))[0]
        keys = sorted(key for key in list(self.objects) if key.startswith(prefix) and key > after)
        folders: list[str] = []
        if flat:
            below = [key for key in keys if "/" in key[len(prefix) :]]
            folders = sorted({prefix + key[len(prefix) :].partition("/")[0] + "/" for key in below})
            keys = [key for key in keys if "/" not in key[len(prefix) :]]
        more = len(keys) > PAGE
        keys = keys[: int(query.get("max-keys", [str(PAGE)])[0])][:PAGE]
        entries = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(self.objects[key])}</Size><ETag>{escape(etag_of(self.objects[key]))}</ETag>"
            "<LastModified>2024-01-01T00:00:00.000Z</LastModified></Contents>"
            for key in keys
        )
        entries += "".join(
            f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in folders if name > after
        )
        token = f"<NextContinuationToken>{escape(keys[-1])}</NextContinuationToken>" if more else ""
        return (
            f"<ListBucketResult><Name>b</Name><KeyCount>{len(keys)}</KeyCount>"
            f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{entries}</ListBucketResult>"
        )

    def next_failure(self, key: str, *, is_ranged: bool) -> int | None:
        """Return the status that this request is to fail with; None: it succeeds."""
        failures = self.fail_ranges if self.fail_ranges and is_ranged else self.fail.get(key)
        status = failures.popleft() if failures else 200
        return None if status == 200 else status

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        store = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_args: object) -> None:
                pass

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
                query = parse_qs(parts.query)
                store.log.append((self.command, key or f"?{query.get('prefix', [''])[0]}", self.headers.get("Range")))
                is_ranged = self.command == "GET" and self.headers.get("Range") is not None
                failure = store.next_failure(key, is_ranged=is_ranged)
                if failure is not None:
                    self.answer(failure, f"<Error><Code>{CODES[failure]}</Code></Error>".encode())
                elif bucket != "b":
                    self.answer(404, b"<Error><Code>NoSuchBucket</Code></Error>")
                elif not key:
                    self.answer(200, store.page(query).encode())
                elif key not in store.objects:
                    self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
                else:
                    self.serve(store.objects[key])

            def do_PUT(self) -> None:
                key = unquote(urlsplit(self.path).path).lstrip("/").partition("/")[2]
                data = self.rfile.read(int(self.headers["Content-Length"]))
                store.log.append((self.command, key, None))
                if (failure := store.next_failure(key, is_ranged=False)) is not None:
                    return self.answer(failure, f"<Error><Code>{CODES[failure]}</Code></Error>".encode())
                with store.lock:
                    exists = self.headers.get("If-None-Match") == "*" and key in store.objects
                    if not exists:
                        store.objects[key] = data
                if exists:
                    return self.answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
                return self.answer(200, b"", {"ETag": etag_of(data)})

            def do_DELETE(self) -> None:
                key = unquote(urlsplit(self.path).path).lstrip("/").partition("/")[2]
                store.log.append((self.command, key, None))
                store.objects.pop(key, None)
                self.answer(204, b"")

            def serve(self, data: bytes) -> None:
                wanted, etag = self.headers.get("Range"), {"ETag": etag_of(data)}
                if self.headers.get("If-Match", etag["ETag"]) != etag["ETag"]:
                    return self.answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
                if not wanted:
                    return self.answer(200, data, etag)
                first, _, last = wanted.removeprefix("bytes=").partition("-")
                start, end = int(first), min(int(last) + 1 if last else len(data), len(data))
                if start >= len(data):
                    return self.answer(416, b"<Error><Code>InvalidRange</Code></Error>")
                return self.answer(
                    206, data[start:end], etag | {"Content-Range": f"bytes {start}-{end - 1}/{len(data)}"}
                )

            def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Last-Modified", formatdate(1_700_000_000, usegmt=True))
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

        return Handler


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallS3]:
    """The store, and the environment and the patience with which sources are read from it."""
    store = SmallS3()
    for key, value in {
        "AWS_ENDPOINT_URL": store.url,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",  # pragma: allowlist secret
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/nonexistent",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
    }.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "")  # a job with storage.endpoint sets it here: later tests get it not
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    monkeypatch.setattr(patience, "FIRST_SECONDS", 0.001)
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)  # those of remote.py are under test
    s3fs.S3FileSystem.clear_instance_cache()
    yield store
    s3fs.S3FileSystem.clear_instance_cache()
    store.close()
