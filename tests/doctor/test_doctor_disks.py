"""Disks of caches: tried by writing, left as they were."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import ModelConfig
from pipeline.doctor import disks
from pipeline.doctor.settings import DoctorConfig


def test_a_folder_that_is_not_there_yet_is_judged_by_the_one_above_it_and_not_made(tmp_path: Path) -> None:
    first, second = disks.check({"temporary": tmp_path, "hub cache": tmp_path / "not" / "yet"})
    assert first.state == second.state
    assert first.state in ("ok", "warn")
    assert second.finding.startswith(f"hub cache: {tmp_path}/not/yet: ")
    assert second.finding.endswith(" GB free")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["/proc/cache", "/sys/kernel/cache"])
def test_a_place_that_cannot_be_written_fails_and_the_next_is_still_seen(path: str, tmp_path: Path) -> None:
    bad, good = disks.check({"hub cache": Path(path), "temporary": tmp_path})
    assert bad.state == "FAIL"
    assert path in bad.finding
    assert good.state in ("ok", "warn")


def test_compiled_code_is_looked_for_where_the_config_puts_it(tmp_path: Path) -> None:
    config = DoctorConfig(model=ModelConfig(compile=True, compile_cache=str(tmp_path)))
    assert disks.places(config)["compiled code"] == tmp_path
    assert "compiled code" not in disks.places(DoctorConfig())
