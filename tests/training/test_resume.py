"""The folder of a training: settings that agree, a whole checkpoint, a log without the steps that a kill took back."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from pipeline.config import ConfigError
from pipeline.storage.base import OutputError
from pipeline.training import resume

SETTINGS: dict[str, Any] = {"seed": 0, "train.steps": 6, "train.lr": 0.003}


def at_step(folder: Path, done: int) -> None:
    resume.save(folder, {"done": done, "best_weights": {}})


def test_other_settings_are_named_with_what_they_were(tmp_path: Path) -> None:
    resume.agree(tmp_path, SETTINGS, steps="train.steps")
    assert resume.has_settings(tmp_path)
    resume.agree(tmp_path, SETTINGS, steps="train.steps")
    with pytest.raises(ConfigError, match=r"^folder: .*\(seed was 0, now 1, train\.lr was 0\.003, now 1\); use a new"):
        resume.agree(tmp_path, SETTINGS | {"seed": 1, "train.lr": 1}, steps="train.steps")


def test_a_setting_that_a_newer_version_brings_refuses_only_where_it_is_used(tmp_path: Path) -> None:
    resume.agree(tmp_path, SETTINGS, steps="train.steps")
    defaults = {"train.new": 0.0}
    with pytest.raises(ConfigError, match=r"train\.new was 0\.0, now 0\.1"):
        resume.agree(tmp_path, SETTINGS | {"train.new": 0.1}, steps="train.steps", defaults=defaults)
    resume.agree(tmp_path, SETTINGS | defaults, steps="train.steps", defaults=defaults)


@pytest.mark.parametrize(("steps", "allowed"), [(9, True), (5, True), (4, False), (3, False)])
def test_the_number_of_steps_may_change_where_it_lies_ahead(tmp_path: Path, steps: int, allowed: bool) -> None:
    resume.agree(tmp_path, SETTINGS, steps="train.steps")
    at_step(tmp_path, 4)
    changed = SETTINGS | {"train.steps": steps}
    if not allowed:
        with pytest.raises(ConfigError, match=rf"train\.steps was 6, now {steps}"):
            resume.agree(tmp_path, changed, steps="train.steps")
        return
    resume.agree(tmp_path, changed, steps="train.steps")
    resume.agree(tmp_path, changed, steps="train.steps")
    assert resume.changes(tmp_path) == [[4, 6]]
    assert "At step 4 of 6 its number of steps was changed" in resume.sentences(resume.changes(tmp_path))


def test_steps_of_earlier_phases_count(tmp_path: Path) -> None:
    resume.agree(tmp_path, SETTINGS, steps="train.steps", earlier=10)
    at_step(tmp_path, 14)
    resume.agree(tmp_path, SETTINGS | {"train.steps": 5}, steps="train.steps", earlier=10)
    assert resume.changes(tmp_path) == [[14, 16]]


def test_a_change_of_steps_before_the_first_checkpoint_is_not_recorded(tmp_path: Path) -> None:
    resume.agree(tmp_path, SETTINGS, steps="train.steps")
    resume.agree(tmp_path, SETTINGS | {"train.steps": 2}, steps="train.steps")
    assert resume.changes(tmp_path) == []
    assert resume.sentences([]) == ""


def test_a_checkpoint_of_another_version_is_one_line(tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    assert resume.load(tmp_path, cpu) is None
    at_step(tmp_path, 3)
    assert resume.load(tmp_path, cpu) == {"done": 3, "best_weights": {}}
    resume.save(tmp_path, {"done": 3})
    with pytest.raises(ConfigError, match=r"^folder: .*: of an older version; use a new folder$"):
        resume.load(tmp_path, cpu)


@pytest.mark.parametrize(
    "left", [b"", b"{", b"[1]", b"PK\x03\x04", None], ids=["empty", "brace", "list", "zip", "half"]
)
def test_a_damaged_checkpoint_and_damaged_settings_are_one_line_with_the_file(
    tmp_path: Path, left: bytes | None
) -> None:
    for name in (resume.CHECKPOINT, resume.SETTINGS):
        folder = tmp_path / name
        folder.mkdir()
        resume.agree(folder, SETTINGS, steps="train.steps")
        at_step(folder, 3)
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2] if left is None else left)
        with pytest.raises(
            OutputError, match=rf"^{folder / name}: damaged, it cannot be read; use a new folder$"
        ) as raised:
            resume.agree(folder, SETTINGS | {"train.steps": 9}, steps="train.steps")
        assert "\n" not in str(raised.value)


def test_a_checkpoint_that_a_disk_does_not_give_is_not_called_damaged(tmp_path: Path) -> None:
    """A new folder would throw hours of training away."""
    at_step(tmp_path, 3)
    failed = mock.patch.object(torch, "load", side_effect=OSError(errno.EIO, "Input/output error"))
    with failed, pytest.raises(OSError, match="Input/output error"):
        resume.load(tmp_path, torch.device("cpu"))


def test_the_folder_of_another_kind_of_training_is_refused_in_one_line(tmp_path: Path) -> None:
    resume.agree(tmp_path, {"seed": 0, "phases.steps": 6}, steps="phases.steps")
    with pytest.raises(ConfigError, match=r"train\.steps was None, now 6"):
        resume.agree(tmp_path, SETTINGS, steps="train.steps")


def test_lines_after_the_checkpoint_and_half_lines_are_dropped_from_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    resume.cut_log(tmp_path, 2)
    assert not log.exists()
    log.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"step": 2, "lo')
    resume.cut_log(tmp_path, 2)
    assert log.read_text() == '{"step": 1}\n{"step": 2}\n'
    resume.cut_log(tmp_path, -1)
    assert log.read_text() == ""
