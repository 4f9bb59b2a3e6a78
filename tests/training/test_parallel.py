"""Two workers train one adapter."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, multiprocessing, nn

from pipeline.training import adapter_model, adapter_worker
from pipeline.training.adapter_config import AdapterConfig
from pipeline.training.loop import Trainer
from pipeline.training.parallel import Group
from tests.support.adapter_case import config, write_case


def made(config: AdapterConfig, group: Group) -> Trainer:
    return adapter_worker.trainer(config, group, *adapter_worker.examples(config))


def _worker(rank: int, root: Path, port: int) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", rank=rank, world_size=2)
    group = Group(torch.device("cpu"), rank, 2)
    results = {"average": averaged(group), "gathered": group.gather(f"of {rank}")}
    run = made(two(root), group)
    figures = [run.step(0)]
    line = run.evaluate()
    figures.append(run.step(1))
    results["run"] = {
        "adapter": {name: weight.detach().clone() for name, weight in run.named.items()},
        "figures": figures,
        "sets": line["sets"],
    }
    torch.save(results, root / f"rank-{rank}.pt")
    distributed.destroy_process_group()


def averaged(group: Group) -> list[list[float]]:
    """Average the gradients of a parameter that both workers have used, and of one that only the first has."""
    both, first = (nn.Parameter(torch.zeros(2)) for _ in range(2))
    both.grad = torch.tensor([1.0, 10.0]) * (group.rank + 1)
    first.grad = torch.tensor([4.0, 8.0]) if group.rank == 0 else None
    group.average([both, first])
    assert both.grad is not None
    assert first.grad is not None
    return [both.grad.tolist(), first.grad.tolist()]


def two(root: Path) -> AdapterConfig:
    train = {"batch": 2, "gradient_checkpointing": True, "precision": "float32"}
    return config(root, "two", train=train, compute={"workers": 2})


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The results of the two workers, by rank."""
    root = tmp_path_factory.mktemp("parallel")
    write_case(root)
    adapter_model.prepare_start(two(root))
    adapter_worker.examples(two(root))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(_worker, (root, port), nprocs=2)
    return [torch.load(root / f"rank-{rank}.pt") for rank in range(2)]


def test_gradients_become_their_mean_over_the_workers(runs: list[dict[str, Any]]) -> None:
    assert [run["average"] for run in runs] == [[[1.5, 15.0], [2.0, 4.0]]] * 2
    assert [run["gathered"] for run in runs] == [["of 0", "of 1"]] * 2


def test_workers_train_on_different_recordings_and_have_one_adapter(runs: list[dict[str, Any]]) -> None:
    one, other = (run["run"] for run in runs)
    assert one["figures"][0]["loss"] != other["figures"][0]["loss"]
    assert all(torch.equal(one["adapter"][name], other["adapter"][name]) for name in one["adapter"])
    assert one["sets"] == other["sets"]  # each has transcribed half of it
