"""Files on the web: every answer has a limit of time and bytes, and no name or redirect leads to this machine."""

from __future__ import annotations

import errno
import socket
from functools import lru_cache
from typing import Any

import aiohttp
from fsspec.implementations.http import HTTPFileSystem

from pipeline.schemas import BadRecording
from pipeline.sources.access import trust

CONNECT_SECONDS = 10.0
SILENT_SECONDS = 30.0  # without a byte
ANSWER_SECONDS = 300.0  # for the whole answer
CHUNK_BYTES = 1 << 20
OWN_NETWORK = "an address of this machine or its own network"


class LimitedWeb(HTTPFileSystem):
    """fsspec's files on the web. A range takes as many bytes as it is long, whatever the server sends."""

    most_bytes = 512 << 20  # of a file that is read whole

    async def _cat_file(self, url: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        first = start or 0
        ranged = {"Range": f"bytes={first}-{'' if end is None else end - 1}"} if start or end is not None else {}
        most = self.most_bytes if end is None else end - first
        session = await self.set_session()
        async with session.get(self.encode_url(url), headers=ranged, **options) as answer:
            self._raise_not_found_for_status(answer, url)
            skip = 0 if answer.status == 206 else first  # the server sends the file from its beginning
            body = bytearray()
            async for chunk in answer.content.iter_chunked(CHUNK_BYTES):
                body += chunk[skip:]
                skip = max(0, skip - len(chunk))
                if end is None and len(body) > most:
                    raise BadRecording("too_large", f"{url}: more than {most:,} bytes")
                if end is not None and len(body) >= most:
                    break
        return bytes(body[:most])


@lru_cache(maxsize=2)
def file_system(may_reach_own_network: bool) -> LimitedWeb:
    """The file system of http:// and https:// that can, or cannot, reach this machine and its own network."""

    async def client(**options: Any) -> aiohttp.ClientSession:
        options.pop("loop", None)
        connector = aiohttp.TCPConnector(socket_factory=None if may_reach_own_network else _guarded_socket)
        limits = aiohttp.ClientTimeout(ANSWER_SECONDS, sock_connect=CONNECT_SECONDS, sock_read=SILENT_SECONDS)
        return aiohttp.ClientSession(connector=connector, timeout=limits, **options)

    return LimitedWeb(get_client=client, skip_instance_cache=True)


def _guarded_socket(address: Any) -> socket.socket:
    """A socket for an address that a name or a redirect has led to. Raises PermissionError if it is not allowed."""
    family, kind, protocol, _, place = address
    if trust.is_own_network(str(place[0])):
        raise PermissionError(errno.EACCES, f"{place[0]}: {OWN_NETWORK}: {trust.ALLOWED}")
    return socket.socket(family, kind, protocol)
