"""The training loop on an adapter: it learns, changes the adapter alone, and resumes to the bit."""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from pipeline.config import ConfigError
from pipeline.training import adapter_model, adapter_worker
from pipeline.training.loop import Trainer
from pipeline.training.parallel import Group
from tests.support.adapter_case import config, write_case


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("case")
    write_case(made)
    return made


def trainer(root: Path, name: str, **sections: Any) -> Trainer:
    made = config(root, name, **sections)
    adapter_model.prepare_start(made)
    return adapter_worker.trainer(made, Group(torch.device("cpu")), *adapter_worker.examples(made))


def weights(run: Trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in run.model.state_dict(keep_vars=True).items()}


def equal(one: Trainer, other: Trainer) -> bool:
    """Whether weights and the state of the optimiser are the same, to the bit."""
    a, b = weights(one), weights(other)
    moments = [run.optimizer.state_dict()["state"] for run in (one, other)]
    return all(torch.equal(a[name], b[name]) for name in a) and all(
        torch.equal(moments[0][n][key], moments[1][n][key]) for n in moments[0] for key in ("exp_avg", "exp_avg_sq")
    )


@pytest.fixture(scope="module")
def uninterrupted(root: Path) -> Trainer:
    run = trainer(root, "whole")
    run.run()
    return run


def log_of(run: Trainer) -> list[dict[str, Any]]:
    """The lines of the log without the times."""
    lines = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds_per_step"} for line in lines]


def test_only_projector_and_lora_change(root: Path, uninterrupted: Trainer) -> None:
    """Every tensor of the adapter has changed; every other tensor is byte-identical."""
    start = adapter_model.build(uninterrupted.folder / "start", config(root, "whole"), torch.device("cpu"))
    before, after = start.state_dict(keep_vars=True), uninterrupted.model.state_dict(keep_vars=True)
    trained = {id(parameter) for parameter in uninterrupted.parameters}
    assert before.keys() == after.keys()
    moved = {
        name for name in before if before[name].detach().numpy().tobytes() != after[name].detach().numpy().tobytes()
    }
    assert moved == {name for name, tensor in after.items() if id(tensor) in trained}


@pytest.mark.parametrize("checkpointed", [False, True])
def test_steps_on_a_repeated_batch_lower_its_loss(root: Path, checkpointed: bool) -> None:
    run = trainer(
        root, "repeated", train={"warmup_steps": 0, "lr": 1e-2, "gradient_checkpointing": checkpointed, "steps": 50}
    )
    run.model.backbone.train()
    figures = [run.step(0) for _ in range(8)]  # step 0: the same recordings, noise and masks each time
    assert figures[1]["loss"] < figures[0]["loss"]
    assert figures[-1]["loss"] < 0.95 * figures[0]["loss"]
    for name in ("diffusion", "ar", "ctc"):
        assert figures[-1][name] < figures[0][name]


@pytest.mark.parametrize("worth", [math.nan, math.inf])
def test_a_training_that_diverges_ends_in_one_line_before_its_weights_are_lost(root: Path, worth: float) -> None:
    run = trainer(root, "diverged")
    before = weights(run)
    with (
        mock.patch.object(run, "_loss", return_value=(run.parameters[0].sum() * worth, {"loss": worth})),
        pytest.raises(ConfigError, match=r"^train\.lr: 0\.003: the gradients of step 3 are not finite, "),
    ):
        run.step(2)
    assert all(torch.equal(weight, before[name]) for name, weight in weights(run).items())


def test_losses_are_logged_with_the_texts_that_are_too_long_for_ctc(root: Path, uninterrupted: Trainer) -> None:
    """A window of one second has seven audio vectors: seven tokens with a repeat do not fit."""
    steps = [line for line in log_of(uninterrupted) if "loss" in line]
    assert [line["step"] for line in steps] == [2, 4, 6]
    assert {"loss", "diffusion", "ar", "ctc", "ce_t>0.9", "infeasible", "grad_norm", "lr"} <= steps[0].keys()
    assert [line["infeasible"] for line in steps] == [0.0] * 3
    run = trainer(root, "infeasible")
    tokens = run.batches.tokens
    tokens[0], tokens[1] = [30, 30, 31, 31, 32, 32], [30, 31, 32, 33, 34, 35]  # 6 + 3 repeats, 6
    with mock.patch.object(run.batches, "at", return_value=([0, 1, 0], 8)):
        figures = run.step(0)
    assert figures["infeasible"] == 2
    assert figures["grad_norm"] > 0
    assert all(bool(p.isfinite().all()) for p in run.parameters)


def test_accumulated_batches_make_one_step(root: Path) -> None:
    """Two batches of two recordings: the step has the mean of their gradients."""
    exact = {"precision": "float32", "clip": 1e6}
    run = trainer(root, "accumulate", train={"batch": 2, "accumulate": 2, **exact})
    single = trainer(root, "single", train={"batch": 2, **exact})
    expected: list[torch.Tensor] = []
    for step in range(2):
        for parameter in single.parameters:
            parameter.grad = None
        with mock.patch.object(single.optimizer, "step"):
            single.step(step)
        gradients = [p.grad.clone() for p in single.parameters if p.grad is not None]
        expected = [a + b for a, b in zip(expected, gradients, strict=True)] if expected else gradients
    run.step(0)
    for parameter, total in zip(run.parameters, expected, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, total / 2, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("killed_at", [1, 3, 5])
def test_an_interrupted_run_ends_bit_equal_to_an_uninterrupted_one(
    root: Path, uninterrupted: Trainer, killed_at: int
) -> None:
    """The steps since the last checkpoint are done again; the log has each line once."""
    run = trainer(root, f"killed-{killed_at}")
    step = run.step

    def killed(number: int) -> dict[str, float]:
        if number == killed_at:
            raise KeyboardInterrupt
        return step(number)

    with mock.patch.object(run, "step", killed), pytest.raises(KeyboardInterrupt):
        run.run()
    with (run.folder / "log.jsonl").open("a") as log:
        log.write('{"step": 3, "lo')  # the kill came inside a line
    resumed = trainer(root, f"killed-{killed_at}")
    resumed.restore()
    assert resumed.done == killed_at // 2 * 2
    resumed.run()
    assert resumed.done == uninterrupted.done == 6
    assert equal(resumed, uninterrupted)
    assert log_of(resumed) == log_of(uninterrupted)
    assert resumed.best == uninterrupted.best


PUBLISHED = {  # the settings that the published recipe has beside ours
    "beta2": 0.95,
    "all_noise_by": "batch",
    "corrupted_only": True,
    "fill": "pad",
    "eos_weight": 0.0,
    "canvas_length": 10,
    "lora_dropout": 0.3,
    "projector_float32": True,
    "evaluate_steps": None,
    "accumulate": 2,
    "batch": 2,
}


def test_the_published_recipe_learns_and_resumes_to_the_bit_with_dropout(root: Path) -> None:
    whole = trainer(root, "published", train=PUBLISHED)
    reported: list[dict[str, Any]] = []
    whole.run(reported.append)
    assert [line["step"] for line in reported] == [0, 1, 2, 3, 4, 5, 6]  # an epoch is 8 recordings: two steps of 4
    first = trainer(root, "published-killed", train=PUBLISHED)
    step = first.step

    def killed(number: int) -> dict[str, float]:
        if number == 3:
            raise KeyboardInterrupt
        return step(number)

    with mock.patch.object(first, "step", killed), pytest.raises(KeyboardInterrupt):
        first.run()
    torch.rand(7)  # numbers that somebody else draws do not matter
    resumed = trainer(root, "published-killed", train=PUBLISHED)
    resumed.restore()
    assert resumed.done == 2
    resumed.run()
    assert equal(resumed, whole)
    assert log_of(resumed) == log_of(whole)
    assert whole.optimizer.param_groups[0]["betas"] == (0.9, 0.95)
    texts = reported[0]["sets"]["heldout"]["texts"]
    assert [text[0] for text in texts] == ["en", "en"]
    assert texts[0][1] == (root / "heldout" / "0.txt").read_text()


def test_canvases_of_the_published_recipe_end_with_padding_and_may_be_longer_than_in_recognition(root: Path) -> None:
    run = trainer(root, "canvas", train=PUBLISHED)
    rows, canvas = run.batches.at(0)
    assert canvas == 10 > run.model.config.canvas_length
    tokens = run.model.config.tokens
    batch = run.batches.of(rows, canvas, 0)
    for targets, length in zip(batch.targets_BC, batch.text_lengths, strict=True):
        assert targets[length:].tolist() == [tokens.eos[0]] + [tokens.pad] * (9 - int(length))


@pytest.mark.parametrize("checkpointed", [False, True])
def test_dropout_is_for_training_alone_and_of_lora_alone(root: Path, checkpointed: bool) -> None:
    train = {"lora_dropout": 0.5, "gradient_checkpointing": checkpointed, "precision": "float32"}
    run, plain = (
        trainer(root, f"drop-{checkpointed}", train=train),
        trainer(root, "plain", train={"precision": "float32"}),
    )
    for one in (run, plain):
        one.model.backbone.train()
    assert run.step(0)["loss"] == pytest.approx(plain.step(0)["loss"], rel=1e-5)  # new LoRA adds nothing
    dropped, whole = run.step(1)["loss"], plain.step(1)["loss"]
    assert dropped != pytest.approx(whole, rel=1e-7)
    again = trainer(root, f"drop-{not checkpointed}", train=train | {"gradient_checkpointing": not checkpointed})
    again.model.backbone.train()
    again.step(0)
    assert again.step(1)["loss"] == pytest.approx(dropped, rel=1e-4)  # the same noise, kept or computed again
    run.model.backbone.eval()
    assert run.rates is not None
    assert run.rates() == run.rates()


@pytest.mark.parametrize("exact", [False, True])
def test_the_projector_runs_in_float32_where_the_settings_say_so(root: Path, exact: bool) -> None:
    run = trainer(root, f"projector-{exact}", train={"projector_float32": exact})
    seen = set()
    run.model.projector.register_forward_hook(lambda _, given, out: seen.add((given[0].dtype, out.dtype)))
    run.step(0)
    assert (seen == {(torch.float32, torch.float32)}) == exact


def test_a_checkpoint_of_another_shape_is_refused_in_one_line(root: Path) -> None:
    run = trainer(root, "shape")
    run.save()
    state = torch.load(run.folder / "checkpoint.pt")
    state["weights"]["output.weight"] = state["weights"]["output.weight"][:, :-1].clone()
    torch.save(state, run.folder / "checkpoint.pt")
    with pytest.raises(
        ConfigError, match=r"^folder: .*checkpoint\.pt: output\.weight is \[64, 47\] there and \[64, 48\]"
    ):
        trainer(root, "shape").restore()
    del state["weights"]["output.weight"]
    torch.save(state, run.folder / "checkpoint.pt")
    with pytest.raises(
        ConfigError, match=r"output\.weight is absent there and \[64, 48\] in this run; use a new folder$"
    ):
        trainer(root, "shape").restore()


def test_a_kill_while_saving_leaves_the_last_checkpoint(root: Path) -> None:
    run = trainer(root, "half")
    run.save()
    run.done = 1

    def half(_state: object, path: Path) -> None:
        path.write_bytes(b"half a file")
        raise KeyboardInterrupt

    with mock.patch.object(torch, "save", half), pytest.raises(KeyboardInterrupt):
        run.save()
    again = trainer(root, "half")
    again.restore()
    assert again.done == 0


def test_the_best_step_is_the_lowest_rate_of_a_grounded_model(root: Path) -> None:
    run = trainer(root, "best")
    rates = [(0.9, True), (0.2, False), (0.5, True), (0.6, True), (0.4, True)]
    kept = []
    for step, (rate, grounded) in enumerate(rates):
        run.done = step
        line = {"rate": rate, "shuffled": 1.0, "grounded": grounded, "sets": {}}
        with torch.no_grad():
            run.parameters[0].fill_(step)
        run.rates = functools.partial(dict, line)
        kept.append(run.evaluate()["best"])
    assert kept == [True, False, True, False, True]
    assert run.best is not None
    assert run.best["rate"] == 0.4
    assert bool((next(iter(run.best_weights.values())) == 4).all())
    run.save()
    again = trainer(root, "best")
    again.restore()
    assert again.best == run.best
    assert bool((next(iter(again.best_weights.values())) == 4).all())


def test_every_evaluation_is_reported(root: Path) -> None:
    run = trainer(root, "reported")
    reported: list[dict[str, Any]] = []
    run.run(reported.append)
    assert [line["step"] for line in reported] == [0, 4, 6]
    assert {"rate", "shuffled", "grounded", "sets", "best"} <= reported[0].keys()


@pytest.mark.parametrize("sections", [{"model": {"dtype": "bfloat16"}}, {"train": {"precision": "float32"}}])
def test_other_precisions_train_and_evaluate(root: Path, sections: dict[str, Any]) -> None:
    run = trainer(root, f"precision-{next(iter(sections))}", **sections)
    run.evaluate()
    assert run.step(0)["loss"] > 0
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in run.parameters)
    assert any(bool(p.grad.any()) for p in run.parameters if p.grad is not None)
