"""Disks of caches: written to, measured once per file system, left as they were."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import ModelConfig
from pipeline.doctor import disks
from pipeline.doctor.settings import DoctorConfig


def test_places_are_measured_once_per_disk_and_no_folder_is_made(tmp_path: Path) -> None:
    first, second = disks.check({"temporary": tmp_path, "hub cache": tmp_path / "not" / "yet"})
    assert first.state in ("ok", "warn")
    assert "MB/s" in first.found
    assert "the disk of temporary" in second.found
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["/proc/cache", "/sys/kernel/cache"])
def test_a_place_that_cannot_be_written_fails_and_the_next_is_still_seen(path: str, tmp_path: Path) -> None:
    bad, good = disks.check({"hub cache": Path(path), "temporary": tmp_path})
    assert bad.state == "FAIL"
    assert path in bad.found
    assert good.state in ("ok", "warn")


def test_compiled_code_is_looked_for_where_the_config_puts_it(tmp_path: Path) -> None:
    config = DoctorConfig(model=ModelConfig(compile=True, compile_cache=str(tmp_path)))
    assert disks.places(config)["compiled code"] == tmp_path
    assert "compiled code" not in disks.places(DoctorConfig())
