"""A check of the doctor cannot hang, raise or show a secret."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from pipeline.config import ConfigError
from pipeline.doctor.rows import Result, guarded, is_hung, size, without_secrets


def test_a_check_that_hangs_fails_in_time_and_keeps_its_rows() -> None:
    end = threading.Event()

    def check() -> Iterator[Result]:
        yield Result("disk", "ok", "the first is well")
        end.wait()

    rows = guarded("disk", check, seconds=0.2)
    assert [(row.check, row.state) for row in rows] == [("disk", "ok"), ("disk", "FAIL")]
    assert "no answer within 0.2 s" in rows[1].finding
    assert is_hung()
    end.set()
    deadline = time.monotonic() + 60
    while is_hung() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_hung()


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ConfigError("model.name: x: no config.json"), "model.name: x: no config.json"),
        (ZeroDivisionError("division\nby zero"), "the check broke: ZeroDivisionError: division by zero"),
        (SystemExit(3), "the check broke: SystemExit: 3"),
    ],
)
def test_a_check_that_raises_is_a_row_behind_those_before(error: BaseException, says: str) -> None:
    def check() -> Iterator[Result]:
        yield Result("a", "ok", "")
        raise error

    rows = guarded("gpu", check, seconds=5)
    assert rows == [Result("a", "ok", ""), Result("gpu", "FAIL", says)]


def test_no_secret_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghij")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "")
    row = Result("hub", "FAIL", "refused hf_abcdefghij at https://me:pass@proxy:80/x", "wJalrXUtnFEMI")
    (shown,) = guarded("hub", lambda: [row], seconds=5)
    assert shown == Result("hub", "FAIL", "refused *** at https://***@proxy:80/x", "***")
    assert without_secrets("a@b.c s3://bucket/a@b") == "a@b.c s3://bucket/a@b"


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 bytes"), (33_400, "33 kB"), (5e6, "5 MB"), (81.23e9, "81.2 GB"), (1e12, "1000.0 GB")]
)
def test_sizes_are_short(count: float, text: str) -> None:
    assert size(count) == text
