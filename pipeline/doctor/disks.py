"""Local disks: where caches and temporary files will lie, how much is free there and roughly how fast it is."""

from __future__ import annotations

import getpass
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from pipeline.config import RunConfig
from pipeline.doctor.rows import Row, size

BLOCK, BLOCKS = 4 << 20, 16  # 64 MiB are written and read
LEAST, COMFORTABLE = 1e9, 10e9  # bytes free
SLOW = 50e6  # bytes a second, below which loading and spilling are felt


def places(config: RunConfig) -> dict[str, Path]:
    """The folders of the caches by what they hold; they need not exist yet."""
    from huggingface_hub import constants

    found = {
        "temporary": Path(tempfile.gettempdir()),
        "ray": Path(os.environ.get("RAY_TMPDIR") or "/tmp") / "ray",
        "hub cache": Path(constants.HF_HUB_CACHE),
    }
    if config.model.compile:
        default = Path(tempfile.gettempdir()) / f"torchinductor_{getpass.getuser()}"
        cache = config.model.compile_cache or os.environ.get("TORCHINDUCTOR_CACHE_DIR") or default
        found["compiled code"] = Path(cache).expanduser()
    return found


def check(found: dict[str, Path]) -> Iterator[Row]:
    """A row per place: writable, free bytes, and once per file system its speed. Creates no folder."""
    measured: dict[int, str] = {}
    for what, path in found.items():
        folder = existing(path)
        name = f"{what}: {path}"
        try:
            device = folder.stat().st_dev
            free = shutil.disk_usage(folder).free
            text = f"{name}: {size(free)} free"
            if free < LEAST:
                yield Row("disk", "FAIL", text, "make room, or another folder (TMPDIR, RAY_TMPDIR, HF_HOME)")
                continue
            slow = False
            if device not in measured:
                written, read = speed(folder)
                slow = min(written, read) < SLOW
                measured[device] = what
                text += f", writes {written / 1e6:.0f} MB/s, reads {read / 1e6:.0f} MB/s"
            else:
                with tempfile.TemporaryFile(dir=folder) as file:
                    file.write(b"writable")
                text += f", the disk of {measured[device]}" if measured[device] != what else ""
        except OSError as err:
            yield Row("disk", "FAIL", f"{name}: {err.strerror}", "another folder (TMPDIR, RAY_TMPDIR, HF_HOME)")
            continue
        if free < COMFORTABLE:
            yield Row("disk", "warn", text, f"{size(COMFORTABLE)} leave room for caches and spilled objects")
        elif slow:
            yield Row("disk", "warn", text, "a local disk is faster")
        else:
            yield Row("disk", "ok", text)


def existing(path: Path) -> Path:
    """The path itself or the nearest folder above it that exists."""
    path = path.absolute()
    return next((folder for folder in (path, *path.parents) if folder.is_dir()), Path("/"))


def speed(folder: Path) -> tuple[float, float]:
    """Bytes a second of writing to the disk and of reading, with what the page cache does not give back. Rough."""
    block = os.urandom(BLOCK)
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        started = time.perf_counter()
        for _ in range(BLOCKS):
            file.write(block)
        os.fsync(file.fileno())
        written = time.perf_counter() - started
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        started = time.perf_counter()
        while file.read(BLOCK):
            pass
        return BLOCK * BLOCKS / written, BLOCK * BLOCKS / (time.perf_counter() - started)
