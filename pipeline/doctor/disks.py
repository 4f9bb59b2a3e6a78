"""Local disks: the folders of caches and temporary files, whether they can be written and how much is free."""

from __future__ import annotations

import getpass
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pipeline.config import RunConfig
from pipeline.doctor.rows import Result, size

LEAST, COMFORTABLE = 1e9, 10e9  # bytes free


def places(config: RunConfig) -> dict[str, Path]:
    """The folders of caches by their content. They may not exist yet."""
    from huggingface_hub import constants

    folders = {
        "temporary": Path(tempfile.gettempdir()),
        "ray": Path(os.environ.get("RAY_TMPDIR") or "/tmp") / "ray",
        "hub cache": Path(constants.HF_HUB_CACHE),
    }
    if config.model.compile:
        default = Path(tempfile.gettempdir()) / f"torchinductor_{getpass.getuser()}"
        cache = config.model.compile_cache or os.environ.get("TORCHINDUCTOR_CACHE_DIR") or default
        folders["compiled code"] = Path(cache).expanduser()
    return folders


def check(folders: dict[str, Path]) -> Iterator[Result]:
    """A row for each folder of `places`: whether its disk can be written and has room. Creates no folder."""
    for what, path in folders.items():
        name = f"{what}: {path}"
        try:
            disk = existing(path)
            free = shutil.disk_usage(disk).free
            if free >= LEAST:
                with tempfile.TemporaryFile(dir=disk) as file:
                    file.write(b"writable")
        except OSError as err:
            yield Result("disk", "FAIL", f"{name}: {err.strerror}", "another folder (TMPDIR, RAY_TMPDIR, HF_HOME)")
            continue
        text = f"{name}: {size(free)} free"
        if free < LEAST:
            yield Result("disk", "FAIL", text, "make room, or another folder (TMPDIR, RAY_TMPDIR, HF_HOME)")
        elif free < COMFORTABLE:
            yield Result("disk", "warn", text, f"{size(COMFORTABLE)} leave room for caches and spilled objects")
        else:
            yield Result("disk", "ok", text)


def existing(path: Path) -> Path:
    """The path if it is a folder, else the nearest folder above it that exists."""
    path = path.absolute()
    return next((folder for folder in (path, *path.parents) if folder.is_dir()), Path("/"))
