"""A distant S3 for benchmarks: its objects are in the memory of a process of its own, each answer comes after a delay.

It has what source and output need: whole objects, ranges, conditional puts, deletes, and listings in pages.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import re
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import md5
from multiprocessing.connection import Connection
from pathlib import Path
from unittest import mock
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import fsspec

BUCKET = "bench"
PAGE_KEYS = 1000
STAMP = "2026-01-01T00:00:00.000Z"
HTTP_STAMP = "Thu, 01 Jan 2026 00:00:00 GMT"
Answer = tuple[int, bytes, dict[str, str]]  # status, body, headers


@dataclass(frozen=True, slots=True)
class DistantStore:
    """uri: of its bucket."""

    uri: str
    _pipe: Connection

    def requests(self) -> Counter[str]:
        """How many requests it has answered since the last call, by method; LIST: pages of a listing."""
        self._pipe.send("count")
        counted: Counter[str] = self._pipe.recv()
        return counted


@contextlib.contextmanager
def distant_store(
    delay_seconds: float, folder: Path | None = None, made_up: Callable[[], Iterable[str]] = tuple
) -> Iterator[DistantStore]:
    """Run the store. Within the block the environment leads all clients of this process to it.

    folder: its files are there at the beginning. made_up: and objects of these keys, one byte each.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(delay_seconds, folder, made_up, theirs), daemon=True)
    process.start()
    try:
        environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ours.recv()}",
            "AWS_ACCESS_KEY_ID": "bench",
            "AWS_SECRET_ACCESS_KEY": "bench",  # pragma: allowlist secret
            "AWS_REGION": "us-east-1",
        }
        with mock.patch.dict(os.environ, environment):
            for name in ("AWS_ENDPOINT_URL_S3", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
                os.environ.pop(name, None)
            yield DistantStore(f"s3://{BUCKET}", ours)
    finally:
        fsspec.get_filesystem_class("s3").clear_instance_cache()  # a later store has another port
        process.kill()
        process.join()


class _Objects:
    """Objects by key, and the answers to requests."""

    def __init__(self, folder: Path | None, made_up: Iterable[str]) -> None:
        one = b"0"
        self._objects = dict.fromkeys(made_up, (one, _etag(one)))  # content and etag
        if folder is not None:
            for path in filter(Path.is_file, folder.rglob("*")):
                content = path.read_bytes()
                self._objects[path.relative_to(folder).as_posix()] = content, _etag(content)
        self._keys = sorted(self._objects)
        self.counted: Counter[str] = Counter()

    def answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Answer:
        """The answer to one request."""
        parts = urlsplit(target)
        key = unquote(parts.path).lstrip("/").partition("/")[2]
        self.counted[method if key else "LIST"] += 1
        if method == "PUT":
            if "if-none-match" in headers and key in self._objects:
                return 412, b"<Error><Code>PreconditionFailed</Code></Error>", {}
            return 200, b"", {"ETag": self._put(key, body)}
        if method == "DELETE":
            if self._objects.pop(key, None):
                self._keys.pop(bisect_left(self._keys, key))
            return 204, b"", {}
        if not key:
            return 200, self._page(parse_qs(parts.query)).encode(), {}
        if key not in self._objects:
            return 404, b"<Error><Code>NoSuchKey</Code></Error>", {}
        content, etag = self._objects[key]
        described = {"ETag": etag, "Last-Modified": HTTP_STAMP}
        if found := re.fullmatch(r"bytes=(\d+)-(\d+)", headers.get("range", "")):
            start, end = int(found[1]), min(int(found[2]) + 1, len(content))
            return 206, content[start:end], described | {"Content-Range": f"bytes {start}-{end - 1}/{len(content)}"}
        return 200, content, described

    def _put(self, key: str, content: bytes) -> str:
        """Returns the etag."""
        if key not in self._objects:
            insort(self._keys, key)
        self._objects[key] = content, _etag(content)
        return self._objects[key][1]

    def _page(self, query: dict[str, list[str]]) -> str:
        """A page of a listing without folders."""
        prefix = query.get("prefix", [""])[0]
        after = query.get("continuation-token", query.get("start-after", [""]))[0]
        most = min(PAGE_KEYS, int(query.get("max-keys", [PAGE_KEYS])[0]))
        begin = max(bisect_left(self._keys, prefix), bisect_right(self._keys, after))
        keys = [key for key in self._keys[begin : begin + most + 1] if key.startswith(prefix)]
        more, keys = len(keys) > most, keys[:most]
        entries = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(self._objects[key][0])}</Size>"
            f"<ETag>{escape(self._objects[key][1])}</ETag><LastModified>{STAMP}</LastModified></Contents>"
            for key in keys
        )
        token = f"<NextContinuationToken>{escape(keys[-1])}</NextContinuationToken>" if more else ""
        return (
            f"<ListBucketResult><Name>{BUCKET}</Name><KeyCount>{len(keys)}</KeyCount>"
            f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{entries}</ListBucketResult>"
        )


def _etag(content: bytes) -> str:
    return f'"{md5(content).hexdigest()}"'


def _serve(delay_seconds: float, folder: Path | None, made_up: Callable[[], Iterable[str]], pipe: Connection) -> None:
    asyncio.run(_serve_until_killed(delay_seconds, _Objects(folder, made_up()), pipe))


async def _serve_until_killed(delay_seconds: float, objects: _Objects, pipe: Connection) -> None:

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                method, target, _ = first.split(" ")
                headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                await asyncio.sleep(delay_seconds)
                status, content, own = objects.answer(method, target, headers, body)
                shown = "".join(f"{name}: {value}\r\n" for name, value in own.items())
                head = f"HTTP/1.1 {status} -\r\nContent-Length: {len(content)}\r\n{shown}\r\n"
                writer.write(head.encode() + (b"" if method == "HEAD" else content))
                await writer.drain()

    def report() -> None:
        pipe.recv()
        pipe.send(objects.counted)
        objects.counted = Counter()

    server = await asyncio.start_server(connection, "127.0.0.1", 0)
    asyncio.get_running_loop().add_reader(pipe.fileno(), report)
    pipe.send(server.sockets[0].getsockname()[1])
    await asyncio.Event().wait()
