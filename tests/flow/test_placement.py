"""Placement: what no node has is said in one line, and a run never waits without a word."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from pipeline.config import ComputeConfig, ConfigError, ModelConfig
from pipeline.flow.cluster import check_machine
from pipeline.flow.placement import Lack, decoders, lack, watched


@pytest.mark.parametrize(
    ("nodes", "settings", "key", "wanted", "there"),
    [
        ([(8, 0)], {"gpus_per_replica": 1}, "gpus_per_replica", "1 GPU", "the cluster has 0"),
        ([(8, 0), (8, 1)], {"gpus_per_replica": 2}, "gpus_per_replica", "2 GPUs", "the cluster has 1"),
        (
            [(8, 1), (8, 1)],
            {"gpus_per_replica": 2},
            "gpus_per_replica",
            "2 GPUs on one node",
            "no node of the cluster has so many",
        ),
        ([(8, 0)], {"cpus_per_replica": 9}, "cpus_per_replica", "9 CPUs on one node", "the cluster has 8"),
        (
            [(8, 0), (4, 0)],
            {"cpus_per_replica": 9},
            "cpus_per_replica",
            "9 CPUs on one node",
            "the largest node of the cluster has 8",
        ),
        ([(4, 0)], {"decode_actors": 4}, "decode_actors", "5 CPUs", "the cluster has 4"),
        ([(1, 4)], {"gpus_per_replica": 1}, "decode_actors", "2 CPUs", "the cluster has 1"),
        ([(4, 2)], {"decode_actors": 5, "gpus_per_replica": 1}, "decode_actors", "5 CPUs", "the cluster has 4"),
        ([], {}, "cpus_per_replica", "1 CPU on one node", "the cluster has 0"),
    ],
)
def test_what_no_node_has_is_named_with_its_key(
    nodes: list[tuple[float, float]], settings: dict[str, float], key: str, wanted: str, there: str
) -> None:
    assert lack(nodes, ComputeConfig(**settings)) == Lack(f"compute.{key}", wanted, there)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("nodes", "settings"),
    [
        ([(2, 0)], {}),
        ([(8, 1)], {"gpus_per_replica": 1, "decode_actors": 8}),
        ([(8, 1)], {"gpus_per_replica": 0.25}),
        ([(4, 0), (4, 0)], {"cpus_per_replica": 4, "decode_actors": 4}),
        ([(1, 0)], {"cpus_per_replica": 0}),
    ],
)
def test_a_cluster_on_which_a_replica_fits_lacks_nothing(
    nodes: list[tuple[float, float]], settings: dict[str, float]
) -> None:
    assert lack(nodes, ComputeConfig(**settings)) is None  # type: ignore[arg-type]


def test_a_machine_with_too_few_cpus_for_a_replica_is_one_line_before_ray_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ConfigError, match=r"^compute\.cpus_per_replica: 1024: this machine has \d+ CPUs$"):
        check_machine(ModelConfig(), ComputeConfig(cpus_per_replica=1024))


def test_a_machine_with_too_few_gpus_for_a_replica_is_one_line_before_ray_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ConfigError, match=r"^compute\.gpus_per_replica: 64: this machine has \d+ GPUs$"):
        check_machine(ModelConfig(), ComputeConfig(gpus_per_replica=64))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "1 decode actor"),
        ({"replicas_min": 8, "replicas_max": 9}, "1 to 2 decode actors"),
        ({"gpus_per_replica": 1}, "2 decode actors"),
        ({"gpus_per_replica": 1, "replicas_max": 8}, "2 to 16 decode actors"),
        ({"gpus_per_replica": 0.5, "replicas_max": 8, "decode_actors": 5}, "5 decode actors"),
    ],
)
def test_decode_actors_follow_the_replicas_unless_they_are_set(settings: dict[str, float], said: str) -> None:
    assert decoders(ComputeConfig(**settings)) == said  # type: ignore[arg-type]


def test_a_run_from_which_nothing_comes_is_looked_at_again_and_again() -> None:
    looks: list[bool] = []

    def after_two_looks() -> Iterator[int]:
        for number in range(2):
            while looks.count(number > 0) < 2:  # before the first result, and behind it
                time.sleep(0.01)
            yield number

    assert list(watched(after_two_looks(), looks.append, 0.1)) == [0, 1]


def test_a_look_may_end_a_run_that_would_wait_for_ever() -> None:
    def refuse(has_begun: bool) -> None:
        raise ConfigError("compute.gpus_per_replica: the node is gone")

    def never() -> Iterator[int]:
        time.sleep(600)
        yield 1

    with pytest.raises(ConfigError, match="the node is gone"):
        list(watched(never(), refuse, 0.1))


def test_an_error_of_the_run_arrives_where_its_results_are_used() -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise OSError("the store is gone")

    results = watched(failing(), lambda _: None)
    assert next(results) == 1
    with pytest.raises(OSError, match="the store is gone"):
        next(results)


def test_two_models_need_a_place_each() -> None:
    gpus = ComputeConfig(gpus_per_replica=1)
    assert lack([(8, 1)], gpus, 2) == Lack(
        "compute.gpus_per_replica", "1 GPU for each of two models", "the cluster has 1"
    )
    assert lack([(8, 1), (8, 1)], gpus, 2) is None
    assert lack([(8, 1)], ComputeConfig(gpus_per_replica=0.5), 2) is None
    assert lack([(2, 0)], ComputeConfig(), 2) == Lack("compute.decode_actors", "3 CPUs", "the cluster has 2")
    assert lack([(3, 0)], ComputeConfig(), 2) is None
