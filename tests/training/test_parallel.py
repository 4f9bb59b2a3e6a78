"""Two workers: one adapter, whether or not they share out the frozen weights."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, multiprocessing, nn
from torch.distributed.tensor import DTensor

from pipeline.training import adapter, adapter_model
from pipeline.training.adapter_config import AdapterConfig
from pipeline.training.adapter_loop import AdapterTrainer
from pipeline.training.parallel import Group
from tests.support.adapter_case import config, write_case


def made(config: AdapterConfig, group: Group) -> AdapterTrainer:
    return adapter.trainer(config, group, *adapter.examples(config))


def _worker(rank: int, root: Path, port: int) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", rank=rank, world_size=2)
    group = Group(torch.device("cpu"), rank, 2)
    found = {"average": averaged(group), "gathered": group.gather(f"of {rank}")}
    for strategy in ("ddp", "fsdp"):
        run = made(two(root, strategy), group)
        weights = list(run.model.backbone.parameters())
        shares = [weight.to_local().numel() for weight in weights if isinstance(weight, DTensor)]
        figures = [run.step(0)]
        line = run._evaluate()
        figures.append(run.step(1))
        found[strategy] = {
            "adapter": {name: weight.detach().clone() for name, weight in run.named.items()},
            "figures": figures,
            "sets": line["sets"],
            "whole": sum(weight.numel() for weight in weights if not isinstance(weight, DTensor)),
            "shares": sum(shares),
        }
    torch.save(found, root / f"rank-{rank}.pt")
    distributed.destroy_process_group()


def averaged(group: Group) -> list[list[float]]:
    """Gradients after `average`: of one parameter that every worker has used, and one that only the first has."""
    both, first = (nn.Parameter(torch.zeros(2)) for _ in range(2))
    both.grad = torch.tensor([1.0, 10.0]) * (group.rank + 1)
    first.grad = torch.tensor([4.0, 8.0]) if group.rank == 0 else None
    group.average([both, first])
    assert both.grad is not None
    assert first.grad is not None
    return [both.grad.tolist(), first.grad.tolist()]


def two(root: Path, strategy: str) -> AdapterConfig:
    train = {"batch": 2, "gradient_checkpointing": True, "precision": "float32"}
    return config(root, "two", train=train, compute={"workers": 2, "strategy": strategy})


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the two workers found, by rank."""
    root = tmp_path_factory.mktemp("parallel")
    write_case(root)
    adapter_model.prepare_start(two(root, "ddp"))
    adapter.examples(two(root, "ddp"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(_worker, (root, port), nprocs=2)
    return [torch.load(root / f"rank-{rank}.pt") for rank in range(2)]


def test_gradients_become_their_mean_over_the_workers(runs: list[dict[str, Any]]) -> None:
    assert [run["average"] for run in runs] == [[[1.5, 15.0], [2.0, 4.0]]] * 2
    assert [run["gathered"] for run in runs] == [["of 0", "of 1"]] * 2


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_workers_hear_different_recordings_and_hold_one_adapter(runs: list[dict[str, Any]], strategy: str) -> None:
    one, other = (run[strategy] for run in runs)
    assert one["figures"][0]["loss"] != other["figures"][0]["loss"]
    assert all(torch.equal(one["adapter"][name], other["adapter"][name]) for name in one["adapter"])
    assert one["sets"] == other["sets"]  # each has transcribed half of it


def test_shared_out_weights_train_the_same_adapter(runs: list[dict[str, Any]]) -> None:
    """With gradient checkpointing, and through an evaluation in between."""
    for run in runs:
        ddp, fsdp = run["ddp"], run["fsdp"]
        assert ddp["sets"] == fsdp["sets"]
        assert ddp["figures"][1]["loss"] == pytest.approx(fsdp["figures"][1]["loss"], rel=1e-5)
        for name, weight in ddp["adapter"].items():
            torch.testing.assert_close(fsdp["adapter"][name], weight, atol=1e-6, rtol=1e-5)


def test_a_worker_holds_half_of_the_experts_and_feed_forward_layers(runs: list[dict[str, Any]]) -> None:
    """Tied weights once: hidden 64, per layer 2 experts of 48 and a feed-forward layer of 96, three matrices each."""
    shared = 2 * (2 * 3 * 64 * 48 + 3 * 64 * 96)
    for run in runs:
        assert run["ddp"]["shares"] == 0
        assert run["fsdp"]["shares"] == shared // 2
        assert run["fsdp"]["whole"] == run["ddp"]["whole"] - shared
