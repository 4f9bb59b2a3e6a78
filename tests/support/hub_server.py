"""A hub of our own on this machine: what huggingface_hub asks for over HTTP, gated repositories too."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_somebody_with_access"  # pragma: allowlist secret


@dataclass
class Hub:
    """Repositories by name: their one commit and their files. gated: names that need TOKEN."""

    repositories: dict[str, tuple[str, Path]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)
    address: str = ""


@contextmanager
def serving() -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def log_message(self, *args: object) -> None:
            pass

        def answer(self, *, body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append(f"{self.command} {path}")
            name = next((name for name in hub.repositories if f"/{name}/" in f"{path}/"), None)
            if name is None:
                return self.refuse(404, "RepoNotFound", "Repository not found")
            commit, folder = hub.repositories[name]
            rest = path.split(name, 1)[1].strip("/").split("/")
            if rest[0] in ("revision", "tree", "resolve") and rest[1] != commit:
                return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {rest[1]}")
            files = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}
            if rest[0] in ("resolve", "auth-check"):
                allowed = self.headers.get("Authorization") == f"Bearer {TOKEN}"
                if name in hub.gated and not allowed:
                    status = 403 if self.headers.get("Authorization") else 401
                    return self.refuse(status, "GatedRepo", f"Access to model {name} is restricted")
                if rest[0] == "auth-check":
                    return self.send(200, b"{}", {}, body)
                if "/".join(rest[2:]) not in files:
                    return self.refuse(404, "EntryNotFound", "Entry not found")
                content = files["/".join(rest[2:])].read_bytes()
                digest = hashlib.sha256(content).hexdigest()
                return self.send(200, content, {"ETag": f'"{digest}"', "X-Repo-Commit": commit}, body)
            if rest[0] == "tree":
                tree = [
                    {
                        "type": "file",
                        "path": p,
                        "size": f.stat().st_size,
                        "oid": hashlib.sha1(f.read_bytes()).hexdigest(),
                    }
                    for p, f in files.items()
                ]
                return self.send(200, json.dumps(tree).encode(), {}, body)
            info = {
                "id": name,
                "sha": commit,
                "siblings": [{"rfilename": p, "size": f.stat().st_size} for p, f in files.items()],
                "gated": name in hub.gated,
            }
            return self.send(200, json.dumps(info).encode(), {}, body)

        def refuse(self, status: int, code: str, message: str) -> None:
            headers = {"X-Error-Code": code, "X-Error-Message": message}
            self.send(status, json.dumps({"error": message}).encode(), headers, True)

        def send(self, status: int, content: bytes, headers: dict[str, str], body: bool) -> None:
            self.send_response(status)
            for key, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            if body and self.command != "HEAD":
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
