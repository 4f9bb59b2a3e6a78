"""The folder of the Ray that a run starts on this machine: sockets, logs, spilled data. It is cleared by age."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pipeline.config import ConfigError
from pipeline.flow import reaper
from pipeline.storage.scratch import changed_within

SOCKET_BYTES = 107  # the longest address of a Unix socket
NAMED_BYTES = 66  # what Ray puts below its folder: "/session_2026-11-29_06-28-06_024868_1234567/sockets/plasma_store"
NAME_DIGITS = 8
LEFT_OVER_SECONDS = 3600.0  # Ray writes to its logs every minute; a folder that nobody writes to is left over


@contextlib.contextmanager
def ray_folder() -> Iterator[Path]:
    """Make a folder for one start of Ray.

    Processes that still use it some seconds after the block, or after the end of this process, are killed. The folder
    stays, for its logs; a start that comes an hour later or more deletes it.

    Raises ConfigError if no path is short enough, and OSError, with the path, if the folder cannot be made.
    """
    home = sessions_folder()
    clear_left_over(home)
    folder = home / secrets.token_hex(NAME_DIGITS // 2)
    folder.mkdir(mode=0o700)
    command = [sys.executable, "-I", reaper.__file__, str(folder)]
    quiet = subprocess.DEVNULL  # whoever reads the output of this process must not wait for the other one
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, start_new_session=True)
    assert process.stdin
    with process.stdin:
        yield folder


def sessions_folder() -> Path:
    """The folder of this user for all starts: in RAY_TMPDIR, TMPDIR or /tmp, the first whose path is short enough.

    Raises as `ray_folder`.
    """
    name = f"fullcanvas-{os.getuid()}"
    places = [os.environ.get("RAY_TMPDIR"), tempfile.gettempdir(), "/tmp"]
    short = [Path(place, name) for place in places if place and is_short(Path(place, name)) and Path(place).is_dir()]
    for folder in short:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        if folder.is_dir() and folder.stat().st_uid == os.getuid() and os.access(folder, os.W_OK):
            return folder
    why = f"{short[0]}: cannot be written, or belongs to somebody else" if short else f"{places[1]}: too long"
    most = SOCKET_BYTES - NAMED_BYTES - NAME_DIGITS - len(name) - 2
    raise ConfigError(f"TMPDIR: {why}: set RAY_TMPDIR to a folder whose path has at most {most} bytes")


def is_short(folder: Path) -> bool:
    """Whether the addresses of Ray's sockets below this folder are short enough for the operating system."""
    return len(os.fsencode(folder)) + 1 + NAME_DIGITS + NAMED_BYTES <= SOCKET_BYTES


def clear_left_over(home: Path, older_than_seconds: float = LEFT_OVER_SECONDS) -> int:
    """Delete the folders of starts in which nobody has written or made a file for so long. Returns how many."""
    cleared = 0
    for folder in home.iterdir():
        if not changed_within(folder, older_than_seconds) and not reaper.holders(str(folder)):
            shutil.rmtree(folder, ignore_errors=True)
            cleared += 1
    return cleared
