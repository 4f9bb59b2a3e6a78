"""What a failed request to an object store means: one line for a person, and whether a retry can help.

obstore gives status and error code only as parts of its messages, so they are read from the text.
"""

from __future__ import annotations

import errno
import re

from obstore.exceptions import AlreadyExistsError, BaseError

from pipeline.storage.errors import NO_BUCKET, failure, kind_of
from pipeline.storage.patience import Failure

TRANSIENT = {409, 429, 500, 502, 503, 504}  # 409: two conditional puts met; the next attempt shows who won
TRANSIENT_CODES = {"RequestTimeout", "SlowDown", "InternalError"}
STATUS = re.compile(r"status code: (\d{3})|code: (\d{3})\b")
HOST = re.compile(r"https?://([^/\s]+)")
CODE = re.compile(r"<Code>(\w+)</Code>")
MESSAGE = re.compile(r"<Message>(.*?)</Message>", re.DOTALL)
CAUSES = (  # in the part of a message that obstore adds for its developers, why nothing answered
    ("dns error", "the name of the host is unknown"),
    ("ConnectionRefused", "the connection is refused"),
    ("InvalidCertificate", "its TLS certificate is not valid"),
    ("CorruptMessage", "it does not speak TLS"),
    ("TimedOut", "no answer in time"),
)


def judge(error: Exception, name: str) -> Failure | None:
    """Return what an error of obstore means: FileNotFoundError or StorageError about the object `name`.

    None: it is not from obstore.
    """
    if not isinstance(error, (BaseError, FileNotFoundError)):
        return None
    text = said_by(error)
    status, code = status_of(text), code_of(text)
    if status is None and "HTTP error" in text:
        host = HOST.search(text)
        cause = next((f": {words}" for sign, words in CAUSES if sign in str(error)), "")
        message = f"no answer from {host[1]}{cause}" if host else "the answer broke off"
        return Failure(failure(name, message, "unreachable"), "ConnectionError")
    if status is None:
        return Failure(failure(name, " ".join(text.split()), "refused"), None)
    transient = status in TRANSIENT or code in TRANSIENT_CODES
    return Failure(_as_oserror(status, code, text, name), (code or str(status)) if transient else None)


def exists_already(error: AlreadyExistsError) -> bool:
    """Return whether a conditional put was refused because the object exists. A 409 can mean that two puts met."""
    text = said_by(error)
    return status_of(text) != 409 or code_of(text) == "BlobAlreadyExists"  # Azure answers 409, the others 412


def said_by(error: Exception) -> str:
    """Return the message of an error of obstore, without what it adds for its own developers."""
    return str(error).split("\n\nDebug source", 1)[0]


def status_of(text: str) -> int | None:
    """Return the HTTP status in a message of obstore; None if the store did not answer."""
    match = STATUS.search(text)
    return int(match[1] or match[2]) if match else None


def code_of(text: str) -> str:
    """Return the error code in the store's answer, for example "SlowDown"; "" if there is none."""
    match = CODE.search(text)
    return match[1] if match else ""


def _as_oserror(status: int, code: str, text: str, name: str) -> OSError:
    said = MESSAGE.search(text)
    silent = "the bucket does not exist" if code in NO_BUCKET else "refused"
    message = f"{code or status}: {(' '.join(said[1].split()) if said else '') or silent}"
    kind = kind_of(status, code)
    if kind is None and status == 404:
        return FileNotFoundError(errno.ENOENT, message, name)
    return failure(name, message, kind or ("unreachable" if status in TRANSIENT else "refused"))
