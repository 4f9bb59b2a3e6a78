"""The error of a store, mount or disk that fails: no recording is at fault, so it ends the job with exit code 3."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pipeline.config import public

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}  # the disk takes no more
LOST = {errno.EIO, errno.ESTALE, errno.ENOTCONN}  # the disk has failed, or its mount is gone

# Error codes of S3, Ceph, Google and Azure about the keys themselves. They are the same for every object.
BAD_KEYS = {
    *("ExpiredToken", "InvalidToken", "TokenRefreshRequired", "InvalidAccessKeyId", "SignatureDoesNotMatch"),
    *("RequestExpired", "RequestTimeTooSkewed", "AccountProblem", "AllAccessDisabled", "NotSignedUp"),
    *("InvalidSecurity", "AuthorizationHeaderMalformed", "AuthenticationFailed", "ExpiredTokenException", "401"),
}
NO_BUCKET = {"NoSuchBucket", "ContainerNotFound"}
ARCHIVED = {"InvalidObjectState"}  # the object is in cold storage: only this one cannot be read

Kind = Literal["keys", "denied", "unreachable", "gone", "full", "refused"]
REMEDIES: dict[Kind, str] = {
    "keys": "give valid keys, then the same command goes on",
    "denied": "give valid keys with the right to it, then the same command goes on",
    "unreachable": "once it answers again, the same command goes on",
    "gone": "once it is back (mounted, restored), the same command goes on",
    "full": "make room or raise the quota, then the same command goes on",
    "refused": "the same command goes on where the store takes this request",
}


class StorageError(OSError):
    """A store, a mount or a disk fails, and no recording is at fault. The job ends with exit code 3.

    The message is one line: the address, what is wrong, how to go on. kind: of the failure, a key of REMEDIES.
    """

    def __init__(self, line: str, kind: Kind = "unreachable") -> None:
        super().__init__(line)
        self.kind = kind

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.kind)


def failure(address: str, what: str, kind: Kind) -> StorageError:
    """The StorageError about an address, without secrets. what: that is wrong, in a few words."""
    return StorageError(public(" ".join(f"{address}: {what}; {REMEDIES[kind]}".split())), kind)


def storage_error(error: BaseException) -> StorageError | None:
    """The failure of a store, mount or disk that an error says; None if it says something else."""
    if isinstance(error, StorageError):
        return error
    if not isinstance(error, OSError) or error.errno not in FULL | LOST:
        return None
    return failure(str(error.filename or "here"), reason(error), "full" if error.errno in FULL else "gone")


@contextlib.contextmanager
def naming(folder: Path) -> Iterator[None]:
    """Errors of the disk in the block name `folder`, where the operating system does not say which file it was."""
    try:
        yield
    except OSError as err:
        if err.errno in FULL | LOST and err.filename is None:
            err.filename = str(folder)
        raise


def kind_of(status: int | None, code: str) -> Kind | None:
    """What the answer of a store says about the whole store. None: it concerns the object alone, or may pass.

    status: of HTTP, if it is known. code: the store's own, such as "ExpiredToken"; "" if it gives none.
    """
    if code in NO_BUCKET:
        return "gone"
    if code in BAD_KEYS or status == 401:
        return "keys"
    if code in ARCHIVED:
        return None
    return "denied" if status == 403 or code in ("AccessDenied", "403", "AuthorizationFailure") else None


def reason(error: OSError) -> str:
    """What the operating system or the store said, in one line."""
    return " ".join((error.strerror or str(error)).split())
