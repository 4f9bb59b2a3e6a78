"""What this process has read before: it tells one file that is missing or forbidden from a store that is out of reach.

A store answers "forbidden" both for a single object and for keys that were revoked, and a file below a mount that is
gone looks like a file that was deleted. So the nearest file that could be read is tried again.
"""

from __future__ import annotations

import os
import threading
from itertools import takewhile

import fsspec

FOLDERS = 64  # so many folders are remembered, those read last

_lock = threading.Lock()
_read: dict[str, str] = {}  # by folder the URI of the file in it that was read last


def remember(uri: str) -> None:
    """Note that the file at `uri` could be read."""
    folder = uri.rpartition("/")[0]
    with _lock:
        _read.pop(folder, None)
        _read[folder] = uri
        if len(_read) > FOLDERS:
            del _read[next(iter(_read))]


def still_readable(uri: str, errors: tuple[type[BaseException], ...]) -> bool:
    """Return whether the nearest file of the same bucket that was read before can be read now; False without one.

    errors: that the file system raises.
    """
    scheme, _, rest = uri.partition("://")
    nearest = _nearest(uri, f"{scheme}://{rest.partition('/')[0]}/")
    if nearest is None:
        return False
    try:
        fs, path = fsspec.url_to_fs(nearest)
        fs.cat_file(path, start=0, end=1)
    except errors:
        return False
    return True


def lost_folder(uri: str) -> str | None:
    """Return the nearest folder in which this process has read, if it is gone or empty now. None: it is not.

    Of a file on a local disk or mount only.
    """
    nearest = _nearest(uri, "/") if uri.startswith("/") else None
    folder = nearest.rpartition("/")[0] or "/" if nearest else None
    try:
        if folder is None or next(os.scandir(folder), None):
            return None
    except OSError:
        pass
    return folder


def _nearest(uri: str, start: str) -> str | None:
    """Return the URI read before that has most folders in common with `uri`, of those that begin with `start`."""
    wanted = uri.split("/")

    def common(other: str) -> int:
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(wanted, other.split("/"), strict=False)))

    with _lock:
        candidates = [read for read in _read.values() if read.startswith(start)]
    return max(reversed(candidates), key=common, default=None)
