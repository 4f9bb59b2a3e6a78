"""run.partition: every unit is in one share; a share does its units, and only the last one publishes."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import pytest

from pipeline.config import ConfigError, ShareConfig
from pipeline.run import transcribe
from tests.support.archives import archive, settings

pytestmark = pytest.mark.timeout(600)


@pytest.mark.parametrize("shares", [1, 2, 3, 8, 64])
def test_every_unit_is_in_one_share_and_the_shares_are_about_equal(shares: int) -> None:
    ids = [hashlib.sha256(str(number).encode()).hexdigest()[:16] for number in range(20_000)]  # as units have them
    parts = [ShareConfig(partition=f"{share}/{shares}") for share in range(1, shares + 1)]
    found = Counter(share for unit in ids for share, part in enumerate(parts) if part.has(unit))
    assert found.total() == len(ids)
    assert min(found.values()) > 0.7 * len(ids) / shares
    assert len(found) == shares


def test_without_a_partition_every_unit_is_the_runs_own() -> None:
    assert ShareConfig().has("0" * 16)
    assert ShareConfig().has("f" * 16)


@pytest.mark.parametrize("override", ["plan.update=true", "retry=dead_letters", "retry=damaged"])
def test_a_round_is_planned_once_and_not_by_each_share(override: str, tmp_path: Path) -> None:
    config = settings(archive(tmp_path / "in", 1), tmp_path / "out", tmp_path, "run.partition=2/3", override)
    with pytest.raises(ConfigError, match=r"^run\.partition: 2/3: .* run jobs\.plan with them first"):
        transcribe(config)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_share_whose_units_are_done_leaves_the_others_to_their_runs(tmp_path: Path, small_model_dir: Path) -> None:
    """Without a cluster: one after the other on this machine. The first one publishes nothing."""
    source = archive(tmp_path / "in", 6, seconds=1.0)
    words = (source, tmp_path / "out", small_model_dir, "plan.unit_recordings=1")
    first = transcribe(settings(*words, "run.partition=1/2"))
    done = len(list((tmp_path / "out/commits").glob("*/*.json")))
    assert first == {"partition": "1/2", "units_left": 0, "units_left_to_others": 6 - done}
    assert 0 < done < 6
    assert not (tmp_path / "out/transcripts").exists()
    assert transcribe(settings(*words, "run.partition=1/2")) == first
    summary = transcribe(settings(*words, "run.partition=2/2"))
    assert summary["closed"]
    assert summary["recordings_transcribed"] == 6
