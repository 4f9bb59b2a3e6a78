"""One line of a finding, and a check that can neither hang, nor raise, nor tell a secret."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal

from pipeline.config import ConfigError
from pipeline.storage.base import OutputError

State = Literal["ok", "warn", "FAIL"]
Check = Callable[[], Iterable["Row"]]
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
class Row:
    """What a check has found. node: the address of the node of a cluster, empty for the machine that asks."""

    check: str
    state: State
    found: str
    advice: str = ""
    node: str = ""


def guarded(name: str, check: Check, *, seconds: float) -> list[Row]:
    """The rows of a check, at most `seconds` later, without secrets. An exception or the end of its time is a FAIL row
    behind those it has yielded until then; a check that hangs stays behind as a daemon thread."""
    rows: list[Row] = []
    thread = threading.Thread(target=_into, args=(rows, name, check), name=f"{THREAD}{name}", daemon=True)
    thread.start()
    thread.join(seconds)
    found = list(rows)
    if thread.is_alive():
        found.append(Row(name, "FAIL", f"no answer within {seconds:g} s", "look what it waits for: disk, network, GPU"))
    return [replace(row, found=without_secrets(row.found), advice=without_secrets(row.advice)) for row in found]


def is_hung() -> bool:
    """Whether a check is still running: the end of the process would wait for the threads that it has started."""
    return any(thread.name.startswith(THREAD) for thread in threading.enumerate())


def without_secrets(text: str) -> str:
    """Text in one line, without the keys and tokens of this process and without passwords in addresses."""
    secrets = {os.environ.get(name, "") for name in SECRETS} | {_stored_token()}
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= 6:
            text = text.replace(secret, "***")
    return re.sub(r"://[^/@\s]*@", "://***@", " ".join(text.split()))


def size(count: float) -> str:
    """Bytes with three digits or so: "81.2 GB", "34 kB"; a GB is 10^9."""
    for unit, bytes_ in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= bytes_:
            return f"{count / bytes_:.{1 if unit == 'GB' else 0}f} {unit}"
    return f"{count:.0f} bytes"


def _into(rows: list[Row], name: str, check: Check) -> None:
    try:
        for row in check():
            rows.append(row)  # one by one: those before an exception stay
    except (ConfigError, OutputError) as err:
        rows.append(Row(name, "FAIL", str(err)))
    except BaseException as err:  # noqa: BLE001 - whatever it is, of native code too, hides no other check
        rows.append(Row(name, "FAIL", f"the check broke: {type(err).__name__}: {err}"))


def _stored_token() -> str:
    """The token of `hf auth login`; it may stand in no variable."""
    try:
        from huggingface_hub import get_token

        return get_token() or ""
    except Exception:  # noqa: BLE001 - no token that could be told
        return ""
