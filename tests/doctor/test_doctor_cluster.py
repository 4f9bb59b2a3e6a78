"""The doctor on Ray: what fits where, and the checks of a machine in a task on every node of a real, local Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.config import ComputeConfig
from pipeline.doctor.cluster_check import on_this_machine, placement
from pipeline.doctor.examine import examine_machine
from pipeline.doctor.settings import DoctorConfig
from pipeline.flow.cluster import alive_nodes, on_every_node
from tests.support.archives import archive
from tests.support.runs import local_ray

__all__ = ["local_ray"]  # a fixture


@pytest.mark.parametrize(
    ("nodes", "compute", "state", "says"),
    [
        ([(8, 1)], {"gpus_per_replica": 1}, "ok", "1 of compute.replicas_max=1 replicas fit (1 GPU each)"),
        ([(8, 1)], {"gpus_per_replica": 1, "replicas_max": 4}, "warn", "1 of compute.replicas_max=4"),
        ([(8, 1), (8, 0)], {"gpus_per_replica": 1, "replicas_min": 2, "replicas_max": 2}, "warn", "1 of"),
        ([(8, 1), (8, 1)], {"gpus_per_replica": 2}, "FAIL", "needs 2 GPUs on one node"),
        ([(8, 2)], {"gpus_per_replica": 0.4, "replicas_max": 4}, "ok", "4 of"),
        ([(2, 0)], {"decode_actors": 3}, "FAIL", "needs 4 CPUs; the cluster has 2"),
        ([(2, 0)], {"decode_actors": 2}, "FAIL", "needs 3 CPUs; the cluster has 2"),
        ([(4, 0), (4, 0)], {"cpus_per_replica": 3, "decode_actors": 2, "replicas_max": 2}, "ok", "2 of"),
        ([(4, 0), (4, 0)], {"cpus_per_replica": 3, "decode_actors": 3, "replicas_max": 2}, "warn", "1 of"),
        ([(4, 0)], {"cpus_per_replica": 0, "replicas_max": 50}, "ok", "50 of"),
    ],
)
def test_replicas_are_placed_as_ray_can_place_them(
    nodes: list[tuple[float, float]], compute: dict[str, Any], state: str, says: str
) -> None:
    row = placement(nodes, ComputeConfig(**compute), "auto")
    assert row.state == state
    assert says in row.finding


def test_cuda_without_a_gpu_asked_for_is_a_warning() -> None:
    assert placement([(8, 1)], ComputeConfig(), "cuda").state == "warn"


def test_what_the_run_on_this_machine_would_refuse_is_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    rows = on_this_machine(DoctorConfig.model_validate({"compute": {"cpus_per_replica": 1024}}))
    (row,) = [row for row in rows if row.check == "placement"]
    assert row.state == "FAIL"
    assert "compute.cpus_per_replica: 1024: this machine has" in row.finding


@pytest.mark.timeout(600)
def test_a_cluster_is_checked_node_by_node(local_ray: None, tmp_path: Path, small_model_dir: Path) -> None:
    config = DoctorConfig.model_validate(
        {
            "source": {"uri": str(archive(tmp_path / "in", 1))},
            "output": {"uri": str(tmp_path / "out")},
            "model": {"name": str(small_model_dir)},
            "compute": {"gpus_per_replica": 1},
        }
    )
    started: list[str] = []
    rows = examine_machine(config, started.append)
    here = {row.check for row in rows if not row.node}
    there = {row.check: row for row in rows if row.node}
    (node,) = alive_nodes()
    assert {row.node for row in there.values()} == {node.address}
    assert here >= {"model", "hub", "source", "output", "output race", "ray", "placement"}
    assert set(there) >= {"packages", "torch", "gpu", "memory", "disk", "decoders", "model", "source", "output"}
    assert not here & {"torch", "decoders"}  # they are the nodes' own
    if not node.gpus:
        assert [row.state for row in rows if row.check == "placement"] == ["FAIL"]
    assert there["decoders"].state == there["source"].state == there["output"].state == "ok"
    assert started[-2:] == ["ray", "nodes"]
    assert not (tmp_path / "out").exists()


def test_a_node_that_breaks_differs_from_one_that_is_late(local_ray: None) -> None:
    def breaks(kind: str) -> str:
        import time

        if kind == "late":
            time.sleep(600)
        raise ValueError("broken here")

    (node,) = alive_nodes()
    ((_, broken),) = on_every_node(breaks, {node: ("raise",)}, 300)
    assert "broken here" in str(broken)
    ((_, late),) = on_every_node(breaks, {node: ("late",)}, 0.5)
    assert isinstance(late, TimeoutError)
