"""The page over HTTP: the search at "/", the audio of a segment, by ranges, at "/audio". Both want the token."""

from __future__ import annotations

import hmac
import ipaddress
import logging
import re
import secrets
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import duckdb

from pipeline.browse.clips import Clips, NoAudio
from pipeline.browse.page import render
from pipeline.browse.query import Query
from pipeline.browse.search import Found, Tables
from pipeline.browse.settings import BrowseConfig
from pipeline.config import ConfigError, public
from pipeline.schemas import BadRecording
from pipeline.storage.base import OutputError, Storage

IDLE_SECONDS = 60  # a connection without a request for so long is closed
HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",  # the address has the token
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_ROW = re.compile(r"\d{1,18}")
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")

log = logging.getLogger(__name__)


class PageServer(ThreadingHTTPServer):
    """Serves the page of one output. Nothing that a request says, and no transcript, is logged."""

    daemon_threads = True

    def __init__(self, config: BrowseConfig, storage: Storage) -> None:
        """Listen. Raises ConfigError if there are no transcripts or the address cannot be had."""
        self.uri, self.host, self.token = storage.uri, config.server.host, secrets.token_urlsafe(24)
        self.tables, self.clips = Tables(storage), Clips(storage)
        try:
            super().__init__((config.server.host, config.server.port), _Handler)
        except (OSError, OverflowError) as err:
            address = f"{config.server.host}:{config.server.port}"
            raise ConfigError(
                f"server.port: {address}: {getattr(err, 'strerror', None) or err}; server.port=0 takes a free one"
            ) from None

    @property
    def address(self) -> str:
        """What a browser opens."""
        return f"http://{self.host}:{self.server_port}/?token={self.token}"

    def page(self, parameters: dict[str, str]) -> tuple[HTTPStatus, str]:
        """The page for these parameters, or one that says why there is none."""
        query, status, error = Query(), HTTPStatus.OK, ""
        found, languages = Found([], 0, 0.0), list[str]()
        try:
            query = Query.of(parameters)
            found, languages = self.tables.find(query), self.tables.languages()
        except ConfigError as err:
            status, error = HTTPStatus.BAD_REQUEST, str(err)
        except (duckdb.Error, OSError) as err:
            log.warning("the tables cannot be read: %s", type(err).__name__)
            status, error = HTTPStatus.SERVICE_UNAVAILABLE, f"the tables cannot be read: {public(str(err))}"
        return status, render(self.uri, self.token, query, found, languages, error)

    def audio(self, parameters: dict[str, str]) -> tuple[HTTPStatus, bytes | str]:
        """The clip that the parameters name, or one line that says why there is none."""
        part, row, label = (parameters.get(name, "") for name in ("part", "row", "id"))
        try:
            return HTTPStatus.OK, self.clips.clip(part, int(row) if _ROW.fullmatch(row) else -1, label)
        except (NoAudio, BadRecording, ConfigError, OutputError, OSError) as err:
            return HTTPStatus.NOT_FOUND, public(" ".join(str(err).split()))

    def handle_error(self, *_: Any) -> None:
        """Say what kind of error it was, unless the browser has left. Its text may have a transcript in it."""
        kind = sys.exc_info()[0]
        if kind and not issubclass(kind, ConnectionError | TimeoutError):
            log.error("a request failed: %s", kind.__name__)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS
    server: PageServer

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        parameters = dict(parse_qsl(address.query))
        token = parameters.get("token", "").encode("utf-8", "replace")
        if not is_own_name(self.headers.get("Host", ""), self.server.host):
            self._answer(HTTPStatus.FORBIDDEN, "this host name is not that of the page")
        elif not hmac.compare_digest(token, self.server.token.encode()):
            self._answer(
                HTTPStatus.FORBIDDEN, "the token is missing or wrong: open the address that jobs.browse has printed"
            )
        elif address.path == "/":
            self._answer(*self.server.page(parameters), kind="text/html; charset=utf-8")
        elif address.path == "/audio":
            status, content = self.server.audio(parameters)
            if isinstance(content, bytes):
                self._send_range(content)
            else:
                self._answer(status, content)
        else:
            self._answer(HTTPStatus.NOT_FOUND, "there is no such page")

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the line of a request has the token and what somebody looks for."""

    def version_string(self) -> str:
        return "fullcanvas"

    def _send_range(self, content: bytes) -> None:
        wanted = byte_range(self.headers.get("Range"), len(content))
        headers = {"Accept-Ranges": "bytes"}
        if wanted is None:
            self._send(HTTPStatus.OK, content, "audio/wav", headers)
        elif not wanted:
            where = {"Content-Range": f"bytes */{len(content)}"}
            self._send(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, b"", "text/plain", headers | where)
        else:
            where = {"Content-Range": f"bytes {wanted.start}-{wanted.stop - 1}/{len(content)}"}
            part = content[wanted.start : wanted.stop]
            self._send(HTTPStatus.PARTIAL_CONTENT, part, "audio/wav", headers | where)

    def _answer(self, status: HTTPStatus, text: str, kind: str = "text/plain; charset=utf-8") -> None:
        self._send(status, text.encode("utf-8", "replace"), kind, {})

    def _send(self, status: HTTPStatus, body: bytes, kind: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (HEADERS | headers | {"Content-Type": kind, "Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def byte_range(header: str | None, size: int) -> range | None:
    """The bytes that a Range header asks for of so many; an empty range: there are none. None: all, in one answer.

    Of a header with several ranges, or one that is none, all are sent, as RFC 9110 (14.2) allows.
    """
    match = _RANGE.fullmatch((header or "").strip())
    if not match or match[1] == match[2] == "":
        return None
    if not match[1]:
        return range(max(0, size - int(match[2])), size)
    start, stop = int(match[1]), min(size, int(match[2]) + 1) if match[2] else size
    if match[2] and int(match[2]) < start:
        return None
    return range(start, stop) if start < size else range(0)


def is_own_name(host: str, own: str) -> bool:
    """Whether a Host header names this machine: localhost, the name that it listens on, or any IP address.

    A page from elsewhere whose name was bound to this machine (DNS rebinding) has a name of its own.
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
        if name in ("localhost", own.lower()):
            return True
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
