"""A proxy in front of an object store that causes the faults of networks and servers on demand."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

RESET = struct.pack("ii", 1, 0)  # SO_LINGER that turns close(2) into a reset


class Faults:
    """What the proxy does.

    plan: one entry for each of the next requests; all later ones pass. An entry is a status to answer with, "reset",
    "lose" (the request is done, its answer lost), "cut" (half the answer) or "pass". seen: the requests so far, as
    "METHOD path". endpoint: the address of the proxy.
    """

    def __init__(self, backend: str) -> None:
        self.backend = urlsplit(backend).netloc
        self.plan: list[int | str] = []
        self.seen: list[str] = []
        self.lock = threading.Lock()
        self.endpoint = ""


def _handler(faults: Faults) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with faults.lock:
                faults.seen.append(f"{self.command} {urlsplit(self.path).path}")
                fault = faults.plan.pop(0) if faults.plan else "pass"
            if isinstance(fault, int):
                self.send_response(fault)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if fault == "reset":
                self._reset()
                return
            backend = http.client.HTTPConnection(faults.backend, timeout=60)
            headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
            backend.request(self.command, self.path, body=body, headers=headers)
            answer = backend.getresponse()
            content = answer.read()
            backend.close()
            if fault == "lose":
                self._reset()
                return
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                    self.send_header(name, value)
            length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
            self.send_header("Content-Length", length or "0")
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if fault == "cut" else content)
            if fault == "cut":
                self._reset()

        def _reset(self) -> None:
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self.close_connection = True
            self.connection.close()

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = handle_any

    return Handler


@contextmanager
def faults_before(backend: str) -> Iterator[Faults]:
    """Run the proxy on a free port of loopback."""
    faults = Faults(backend)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(faults))
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # the resets are intended
    faults.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield faults
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
