"""The replica: tables of units in and out, one engine for all calls, and a process that ends with its engine."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pytest

from pipeline.config import ConfigError, RunConfig
from pipeline.model.denoise.engine import Engine
from pipeline.model.files import checkpoint, hub
from pipeline.model.files.layout import LoraSpec
from pipeline.model.network import lora
from pipeline.model.stage import Replica
from pipeline.schemas import PIECE_DECODED, PIECE_RECOGNISED, START, About, Place, Segment, piece_row, to_table
from tests.support.small_model import hearing_model, noise_segment

ABOUT = About(1.0, ("en",), "m", "f")
ENDS = """
import asyncio, sys, time
from unittest import mock
from pipeline.model.network import backbone
from pipeline.model import stage as replica_module
from tests.model import test_model_stage

def dies(*_):
    raise RuntimeError("CUDA error: device-side assert triggered")

def hangs(*_):
    time.sleep(200)

replica_module.HUNG_SECONDS = 0.5
with mock.patch.object(backbone, "denoise", {"dies": dies, "hangs": hangs}[sys.argv[2]]):
    replica = test_model_stage.Replica(test_model_stage.config(sys.argv[1]), test_model_stage.ABOUT)
    try:
        asyncio.run(replica(test_model_stage.units({"u": [1, 2], "v": [3]})))
    finally:
        print("the process went on")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    checkpoint.save(hearing_model(3), path)
    return path


def config(folder: Path | str, **model: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "source": {"uri": "in"},
            "output": {"uri": "out"},
            "model": {"name": str(folder), "device": "cpu", **model},
            "denoise": {"max_steps": 6, "entropy_bound": 2.0, "confidence_threshold": 0.2},
            "compute": {"canvases": 3},
        }
    )


@pytest.fixture(scope="module")
def replica(folder: Path) -> Replica:
    return Replica(config(folder), ABOUT)


def segment_row(number: int, position: int) -> dict[str, Any]:
    segment: Segment = noise_segment(number)
    return {
        "recording_index": 10 + number,
        "segment_index": position,
        "channel": None,
        "start_sample": 1000 * position,
        "end_sample": 1000 * position + len(segment.pcm) // 2,
        "overlaps_previous": position % 2 == 1,
        "key": segment.key,
        "language": segment.language,
        "pcm": segment.pcm,
    }


def unit_row(unit_id: str, numbers: list[int]) -> dict[str, Any]:
    segments = [segment_row(number, position) for position, number in enumerate(numbers)]
    row = piece_row(unit_id, Place("plan", 0, 0, 1), 0, START, None) | {"pcm": b""}
    for segment in segments:
        segment["pcm_offset"] = len(row["pcm"])
        row["pcm"] += segment.pop("pcm")
    return row | {"segments": segments}


def units(numbers: dict[str, list[int]]) -> pa.Table:
    """Per unit id the numbers of its segments."""
    return to_table([unit_row(unit_id, of_unit) for unit_id, of_unit in numbers.items()], PIECE_DECODED)


def test_a_table_of_units_comes_back_with_their_results(replica: Replica) -> None:
    given = units({"a": [1, 2, 3], "b": [], "c": [4]})
    got = asyncio.run(replica(given))
    assert got.schema == PIECE_RECOGNISED
    for name in ("unit_id", "place", "piece", "next", "recordings", "suspect"):
        assert got[name] == given[name]
    results = got["results"].to_pylist()
    assert [len(of_unit) for of_unit in results] == [3, 0, 1]
    for sent, answered in zip(given["segments"].to_pylist(), results, strict=True):
        for segment, result in zip(sent, answered, strict=True):
            for name in ("recording_index", "segment_index", "start_sample", "end_sample", "overlaps_previous"):
                assert result[name] == segment[name]
            assert result["text"] is not None
            assert result["error"] is None
            assert 0 <= result["confidence"] <= 1
            columns = {"text", "confidence", "start_ms", "end_ms", "signals"}
            assert [set(word) for word in result["words"]] == [columns] * len(result["words"])
            assert (result["canvas_length"], 1 <= result["steps"] <= 6) == (8, True)
            assert 0 <= result["signals"]["ctc_disagreement"] <= 1
            assert result["signals"]["token_probability_mean"] > 0


def test_every_segment_gets_its_own_answer_however_units_are_grouped(replica: Replica, folder: Path) -> None:
    expected = {n: replica.engine.submit(noise_segment(n)).result().text for n in range(1, 8)}
    assert len(set(expected.values())) == 7

    async def several() -> list[pa.Table]:
        """Calls in flight at once share the engine."""
        calls = [units({"a": [3, 1]}), units({"b": [7], "c": [2, 6]}), units({"d": [5, 4]})]
        return await asyncio.gather(*map(replica, calls))

    tables = asyncio.run(several())
    texts = [[[r["text"] for r in results] for results in table["results"].to_pylist()] for table in tables]
    assert texts == [
        [[expected[3], expected[1]]],
        [[expected[7]], [expected[2], expected[6]]],
        [[expected[5], expected[4]]],
    ]


def test_a_call_that_times_out_leaves_the_replica_usable(replica: Replica) -> None:
    async def impatient() -> pa.Table:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(replica(units({"a": [1, 2, 3, 4]})), 0.001)
        return await replica(units({"b": [5]}))

    assert asyncio.run(impatient())["results"].to_pylist()[0][0]["text"] is not None


def test_units_without_segments_need_no_model(replica: Replica) -> None:
    got = asyncio.run(replica(units({"a": [], "b": []})))
    assert got.schema == PIECE_RECOGNISED
    assert got["results"].to_pylist() == [[], []]


def test_a_model_that_cannot_be_loaded_fails_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no config\.json"):
        Replica(config(tmp_path), ABOUT)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("dies", "replica ends: engine stopped: CUDA error: device-side assert triggered"),
        ("hangs", "replica ends: the engine hangs: no turn has ended for 0.5 s"),
    ],
)
def test_an_engine_that_dies_or_hangs_ends_the_process(folder: Path, how: str, message: str) -> None:
    """Status 1 and no further line of Python: Ray then replaces the actor and gives its units to another."""
    done = subprocess.run(
        [sys.executable, "-c", ENDS, str(folder), how],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 1
    assert message in done.stderr
    assert "the process went on" not in done.stdout


def test_a_second_call_is_under_way_before_the_first_returns(replica: Replica) -> None:
    """Calls one after the other would leave slots empty, and with them every test of equal answers would pass."""
    events: list[str] = []
    submit_all = replica.engine.submit_all

    def submitted(segments: list[Segment]) -> Any:
        events.append(f"submitted {segments[0].key}")
        return submit_all(segments)

    async def call(number: int) -> None:
        await replica(units({"u": [number, number + 1]}))
        events.append("returned")

    async def both() -> None:
        await asyncio.gather(call(1), call(3))

    with mock.patch.object(replica.engine, "submit_all", submitted):
        asyncio.run(both())
    first, second = (f"submitted {noise_segment(number).key}" for number in (1, 3))
    assert events == [first, second, "returned", "returned"]


def test_a_replica_logs_the_memory_that_its_model_needs(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    Replica(config(folder), ABOUT)
    assert "model needs" in caplog.text  # in a process of Ray too, where only warnings are shown
    assert "weights" in caplog.text


def test_a_replica_merges_lora(tmp_path: Path) -> None:
    checkpoint.save(hearing_model(3, lora=LoraSpec(rank=2, alpha=4, targets=["q_proj", "o_proj"])), tmp_path)
    replica = Replica(config(tmp_path), ABOUT)
    assert isinstance(replica.engine, Engine)
    assert replica.engine.model.config.lora is not None
    assert not lora.state(replica.engine.model.backbone)
    replica.engine.close()


def test_weights_that_changed_under_their_manifest_end_the_replica(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    hub.write_manifest(copy)
    path = copy / "encoder.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"encoder\.safetensors: its SHA-256"):
        Replica(config(copy), ABOUT)
    Replica(config(copy, verify=False), ABOUT)
