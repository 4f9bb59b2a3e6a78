"""The row that a check yields, and how a check runs so that it cannot hang, raise or show a secret."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal

from pipeline.config import ConfigError
from pipeline.storage.base import OutputError
from pipeline.storage.errors import StorageError

State = Literal["ok", "warn", "FAIL"]
Check = Callable[[], Iterable["Result"]]
THREAD = "doctor: "
SECRETS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "RAY_AUTH_TOKEN",
)


@dataclass(frozen=True, slots=True)
class Result:
    """One result of a check."""

    check: str
    state: State
    finding: str
    advice: str = ""  # what to do
    node: str = ""  # address of the node of a cluster; empty: the machine that runs the doctor


def guarded(name: str, check: Check, *, seconds: float) -> list[Result]:
    """Run a check and return its rows, without secrets, after at most `seconds`.

    If it raises or takes longer, a FAIL row follows the rows that it has yielded. A check that hangs goes on in a
    daemon thread.
    """
    rows: list[Result] = []
    thread = threading.Thread(target=_into, args=(rows, name, check), name=f"{THREAD}{name}", daemon=True)
    thread.start()
    thread.join(seconds)
    results = list(rows)
    if thread.is_alive():
        results.append(
            Result(name, "FAIL", f"no answer within {seconds:g} s", "find out what it waits for: disk, network, GPU")
        )
    return [replace(row, finding=without_secrets(row.finding), advice=without_secrets(row.advice)) for row in results]


def is_hung() -> bool:
    """Whether a check is still running. A normal end of the process would wait for the threads that it started."""
    return any(thread.name.startswith(THREAD) for thread in threading.enumerate())


def without_secrets(text: str) -> str:
    """The text in one line, with *** for the keys and tokens of this process and for passwords in addresses."""
    secrets = {os.environ.get(name, "") for name in SECRETS} | {_stored_token()}
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= 6:
            text = text.replace(secret, "***")
    return re.sub(r"://[^/@\s]*@", "://***@", " ".join(text.split()))


def size(count: float) -> str:
    """A number of bytes for people: "81.2 GB", "34 kB". A GB is 10^9 bytes."""
    for unit, bytes_ in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= bytes_:
            return f"{count / bytes_:.{1 if unit == 'GB' else 0}f} {unit}"
    return f"{count:.0f} bytes"


def _into(rows: list[Result], name: str, check: Check) -> None:
    try:
        for row in check():
            rows.append(row)  # one by one: those before an exception stay
    except (ConfigError, OutputError, StorageError) as err:
        rows.append(Result(name, "FAIL", str(err)))
    except BaseException as err:  # noqa: BLE001 - no error, of native code either, may hide the other checks
        rows.append(Result(name, "FAIL", f"the check broke: {type(err).__name__}: {err}"))


def _stored_token() -> str:
    """The token of `hf auth login`, which is in no environment variable."""
    try:
        from huggingface_hub import get_token

        return get_token() or ""
    except Exception:  # noqa: BLE001 - then there is no token that could be shown
        return ""
