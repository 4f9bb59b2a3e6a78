"""A full disk is one error that names the folder and says how to go on, whatever was being written."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.storage.base import Storage, open_storage
from pipeline.storage.errors import storage_error
from pipeline.storage.scratch import scratch_folder

BIG = b"x" * 2**20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB. Only root can make one."""
    try:
        command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(tmp_path)]
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as err:
        pytest.skip(f"no file system can be mounted: {err}")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True, capture_output=True)


def put(storage: Storage) -> None:
    storage.put("data/a", BIG)


def put_if_absent(storage: Storage) -> None:
    storage.put_if_absent("data/a", BIG)


def write_a_table(storage: Storage) -> None:
    with storage.scratch() as folder:
        pq.write_table(pa.table({"a": [BIG]}), folder / "a.parquet", compression="none")


def publish(storage: Storage) -> None:
    with storage.scratch() as folder, storage.replace("transcripts") as replacement:
        (folder / "part").write_bytes(BIG)
        replacement.add("part", folder / "part")


@pytest.mark.parametrize("write", [put, put_if_absent, write_a_table, publish])
def test_a_full_disk_names_the_output_and_the_remedy(small_disk: Path, write: Callable[[Storage], None]) -> None:
    with pytest.raises(OSError, match="No space left") as caught:
        write(open_storage(str(small_disk / "out")))
    line = str(storage_error(caught.value))
    assert line.startswith(f"{small_disk}/out")
    assert line.endswith("No space left on device; make room or raise the quota, then the same command goes on")
    assert "\n" not in line


def test_a_full_temporary_folder_is_named(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(small_disk))
    with pytest.raises(OSError, match="No space left") as caught, scratch_folder() as folder:
        (folder / "a").write_bytes(BIG)
    assert str(storage_error(caught.value)).startswith(f"{small_disk}/")
