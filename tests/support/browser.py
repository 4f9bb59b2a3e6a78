"""A headless Chromium for tests of pages: what it logs and requests, how wide it lays out; installed if missing."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import debian

PACKAGE = "chromium"
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-default-browser-check"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # whatever a page asks for, nothing leaves this machine
    "--remote-debugging-pipe",
)
DESKTOP, PHONE = (1280, 900), (390, 844)  # CSS pixels


class Browser:
    """Speaks the DevTools protocol over the browser's file descriptors 3 and 4: JSON messages that end with NUL."""

    def __init__(self, profile: Path) -> None:
        (commands, self._write), (self._read, events) = os.pipe(), os.pipe()
        far = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 100) for descriptor in (commands, events)]  # not 3 or 4 already
        program = [PACKAGE, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        script = f'exec "$@" 3<&{far[0]} 4>&{far[1]}'
        with (profile.parent / "chromium.log").open("wb") as log:
            self._process = subprocess.Popen(
                ["bash", "-c", script, "bash", *program], pass_fds=far, stdout=log, stderr=log
            )
        for descriptor in (commands, events, *far):
            os.close(descriptor)
        self._buffer = b""
        self._number = 0
        self.events: list[dict[str, Any]] = []

    def close(self) -> None:
        try:
            self.call("Browser.close")
            self._process.wait(10)
        except (OSError, RuntimeError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        os.close(self._write)
        os.close(self._read)

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """The answer to one command; what happens meanwhile goes to `events`. RuntimeError says what was wrong."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        os.write(self._write, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") != self._number:
                self.events.append(answer)
            elif "error" in answer:
                raise RuntimeError(f"{method}: {answer['error']['message']}")
            else:
                found: dict[str, Any] = answer["result"]
                return found

    def open(self, url: str, size: tuple[int, int] = DESKTOP, *, dark: bool = False) -> Tab:
        """A page that is loaded, in a tab of this size."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = Tab(self, target, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            tab.call(f"{domain}.enable")
        width, height = size
        small = size == PHONE
        tab.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1 + small, mobile=small
        )
        tab.call("Emulation.setScrollbarsHidden", hidden=True)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        tab.call("Emulation.setEmulatedMedia", features=[scheme])
        tab.call("Page.navigate", url=url)
        tab.wait("Page.loadEventFired")
        return tab

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            if not (read := os.read(self._read, 1 << 16)):
                raise RuntimeError("the browser has ended")
            self._buffer += read
        first, self._buffer = self._buffer.split(b"\0", 1)
        answer: dict[str, Any] = json.loads(first)
        return answer

    def pump(self) -> None:
        """Wait for one more event."""
        self.events.append(self._next())


class Tab:
    """One page. `call` is a DevTools command to it."""

    def __init__(self, browser: Browser, target: str, session: str) -> None:
        self._browser, self._target, self._session = browser, target, session

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **parameters)

    def wait(self, method: str) -> None:
        while not self._events(method):
            self._browser.pump()

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression, awaited if it is a promise."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(str(found["exceptionDetails"]))
        return found["result"].get("value")

    def complaints(self) -> list[str]:
        """Errors and warnings of the console, blocked requests and uncaught exceptions."""
        texts = [event["entry"]["text"] for event in self._events("Log.entryAdded")]
        texts += [str(event["args"]) for event in self._events("Runtime.consoleAPICalled")]
        return texts + [str(event["exceptionDetails"]) for event in self._events("Runtime.exceptionThrown")]

    def requests(self) -> list[str]:
        """All addresses the page has asked for, its own first."""
        return [event["request"]["url"] for event in self._events("Network.requestWillBeSent")]

    def screenshot(self, file: Path, *, whole: bool = True) -> None:
        """PNG of the page, whole or as much as is seen."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        self._browser.call("Target.closeTarget", targetId=self._target)

    def _events(self, method: str) -> list[dict[str, Any]]:
        mine = [event for event in self._browser.events if event.get("sessionId") == self._session]
        return [event["params"] for event in mine if event["method"] == method]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for the tests of a module, with a profile of its own."""
    debian.install((PACKAGE,), (PACKAGE,))
    running = Browser(tmp_path_factory.mktemp("browser") / "profile")
    try:
        yield running
    finally:
        running.close()
