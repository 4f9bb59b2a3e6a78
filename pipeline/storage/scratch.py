"""Private folders on this machine for files on their way. What a killed process leaves, a later one removes."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from pipeline.storage.errors import naming

PREFIX = "fullcanvas-scratch-"  # of their names, in the system's folder for temporary files


@contextlib.contextmanager
def scratch_folder(purpose: str = "") -> Iterator[Path]:
    """Make a folder, which is removed at the end of the block. purpose: a part of its name."""
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}{purpose}") as folder, naming(Path(folder)):
        yield Path(folder)


def sweep_scratch(older_than_seconds: float) -> int:
    """Remove the folders of killed processes in which nothing has changed for so long. Returns how many.

    Those of other users stay.
    """
    return sweep_folder(Path(tempfile.gettempdir()), older_than_seconds, prefix=PREFIX)


def sweep_folder(folder: Path, older_than_seconds: float, *, prefix: str = "") -> int:
    """Remove what `folder` contains under names with this prefix, unless something in it changed in that time."""
    swept = 0
    with contextlib.suppress(OSError):  # there is no such folder
        for entry in list(folder.glob(f"{prefix}*")):
            if not entry.is_symlink() and not changed_within(entry, older_than_seconds):
                _remove(entry)
                swept += not entry.exists()
    return swept


def changed_within(path: Path, seconds: float) -> bool:
    """Whether a file, or anything in a folder, changed in the last `seconds`. What cannot be read counts as changed.

    The first change that is found is the answer: a folder in use is not walked through.
    """
    since, found = time.time() - seconds, False
    try:
        for inner in itertools.chain([path], path.rglob("*")):
            with contextlib.suppress(FileNotFoundError):
                changed, found = inner.lstat().st_mtime >= since, True
                if changed:
                    return True
    except OSError:
        return True
    return not found


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
