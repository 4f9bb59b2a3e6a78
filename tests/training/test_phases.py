"""The training loop in three phases, on features that spell their text: it resumes to the bit, averages, learns."""

from __future__ import annotations

import json
from pathlib import Path
from unittest import mock

import pytest
import torch

from pipeline.training.batches import Batches
from pipeline.training.loop import Trainer
from pipeline.training.losses import Phase
from pipeline.training.parallel import Group
from pipeline.training.schedule import TrainingSteps
from tests.support.small_model import random_model, small_tokenizer

STEPS = TrainingSteps(
    batch=4, warmup_steps=2, checkpoint_steps=3, log_steps=4, lr=3e-3, lr_end_fraction=0.1, weight_decay=0.05
)
PHASES: dict[Phase, int] = {"ctc": 3, "autoregressive": 2, "diffusion": 4}
SPOKEN = ["ban", "bens", "dis", "dora", "fun", "gan"]
TEXTS = [f"{a} {b}" for a in SPOKEN for b in SPOKEN if a != b]


def spelling() -> torch.Tensor:
    """Features [texts, frames, width] in which each word is always the same noise."""
    generator = torch.Generator().manual_seed(0)
    of = {word: torch.randn(25, 32, generator=generator) for word in SPOKEN}
    return torch.stack([torch.cat([of[word] for word in text.split()]) for text in TEXTS])


def masked(features_BFD: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Hide one frame in ten."""
    return features_BFD * (torch.rand(features_BFD.shape[:2], generator=generator) > 0.1)[..., None]


def trainer(folder: Path, steps: TrainingSteps = STEPS, phases: dict[Phase, int] = PHASES, *, seed: int = 0) -> Trainer:
    model = random_model(1, spread=1.0, canvas_length=8, experts=2).requires_grad_(True)
    spoken = spelling()
    batches = Batches(
        TEXTS,
        ["en", "de", "fr"] * 10,
        lambda rows, _: spoken[rows],
        [model.config.audio_slots] * 30,
        small_tokenizer(),
        canvas_length=8,
        batch=steps.batch,
        seed=seed,
        eos=1,
    )
    trained = {name: p for name, p in model.named_parameters() if not name.startswith("encoder.")}
    group = Group(torch.device("cpu"))
    given = {"folder": folder, "seed": seed, "group": group, "average_decay": 0.9}
    return Trainer(model, batches, steps, phases=phases, parameters=trained, features=masked, **given)  # type: ignore[arg-type]


def weights(run: Trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in run.model.state_dict().items()}


def equal(one: Trainer, other: Trainer) -> bool:
    """Whether weights, averages and the state of the optimiser are the same, to the bit."""
    a, b = weights(one), weights(other)
    moments = [run.optimizer.state_dict()["state"] for run in (one, other)]
    return (
        all(torch.equal(a[name], b[name]) for name in a)
        and all(torch.equal(x, y) for x, y in zip(one.average, other.average, strict=True))
        and moments[0].keys() == moments[1].keys()
        and all(torch.equal(moments[0][n]["exp_avg_sq"], moments[1][n]["exp_avg_sq"]) for n in moments[0])
    )


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    run = trainer(tmp_path_factory.mktemp("whole"))
    run.run()
    return run


@pytest.mark.parametrize("killed_at", [1, 4, 8])
def test_an_interrupted_run_ends_bit_equal_to_an_uninterrupted_one(
    uninterrupted: Trainer, tmp_path: Path, killed_at: int
) -> None:
    """It is killed in each of the phases; the steps since the last checkpoint are done again."""
    step = Trainer.step

    def killed(self: Trainer, number: int) -> dict[str, float]:
        if number == killed_at:
            raise KeyboardInterrupt
        return step(self, number)

    with mock.patch.object(Trainer, "step", killed), pytest.raises(KeyboardInterrupt):
        trainer(tmp_path).run()
    resumed = trainer(tmp_path)
    resumed.restore()
    assert resumed.done == killed_at // 3 * 3
    resumed.run()
    assert resumed.done == uninterrupted.done == 9
    assert equal(resumed, uninterrupted)


def test_a_finished_run_is_only_restored(uninterrupted: Trainer) -> None:
    again = trainer(uninterrupted.folder)
    with mock.patch.object(Trainer, "step", side_effect=AssertionError("nothing is left to do")):
        again.run()
    assert equal(again, uninterrupted)


def test_another_seed_gives_another_run(uninterrupted: Trainer, tmp_path: Path) -> None:
    other = trainer(tmp_path, seed=1)
    other.run()
    assert not equal(other, uninterrupted)


def test_a_kill_while_saving_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    run.step(0)
    run.done = 1
    run.save()
    before = weights(run)
    run.step(1)
    run.done = 2

    def half(state: object, path: Path) -> None:
        del state
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with mock.patch.object(torch, "save", half), pytest.raises(KeyboardInterrupt):
        run.save()
    restored = trainer(tmp_path)
    restored.restore()
    assert restored.done == 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(restored).items())


def test_phases_and_learning_rate_by_hand(tmp_path: Path) -> None:
    run = trainer(tmp_path, STEPS.model_copy(update={"lr": 1.0}), PHASES | {"diffusion": 5})
    assert run.total == 10
    assert [run.phase(n) for n in range(10)] == ["ctc"] * 3 + ["autoregressive"] * 2 + ["diffusion"] * 5
    assert [run.lr(0), run.lr(1), run.lr(2)] == pytest.approx([0.5, 1.0, 1.0])  # two steps up, then the cosine
    assert run.lr(6) == pytest.approx(0.1 + 0.9 * 0.5)  # half way
    assert run.lr(10) == pytest.approx(0.1)


def test_phases_of_no_steps_are_left_out(tmp_path: Path) -> None:
    run = trainer(tmp_path, phases={"ctc": 0, "autoregressive": 0, "diffusion": 2})
    assert [run.phase(n) for n in range(3)] == ["diffusion"] * 3
    assert set(run.step(0)) == {"loss", "diffusion", "ar", "ctc", "ce_t>0.9", "infeasible", "grad_norm"}


def test_every_phase_logs_the_losses_it_has(uninterrupted: Trainer) -> None:
    lines = [json.loads(line) for line in (uninterrupted.folder / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 8, 9]
    assert [line["phase"] for line in lines] == ["autoregressive", "diffusion", "diffusion"]
    assert [line["of"] for line in lines] == [9, 9, 9]
    assert all({"loss", "ctc", "ar", "infeasible", "grad_norm", "seconds_per_step"} <= set(line) for line in lines)
    assert "diffusion" not in lines[0]
    assert all(line["diffusion"] > 0 for line in lines[1:])
    assert lines[0]["infeasible"] == 0


def test_norms_and_biases_do_not_decay(tmp_path: Path) -> None:
    decayed, plain = trainer(tmp_path).optimizer.param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.05, 0.0)
    assert {p.ndim for p in plain["params"]} == {1}
    assert min(p.ndim for p in decayed["params"]) == 2


def test_the_average_follows_the_weights_and_takes_their_place(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    start = [p.detach().clone() for p in run.parameters]
    assert all(torch.equal(a, s) for a, s in zip(run.average, start, strict=True))
    run.step(5)  # decay min(0.9, 6 / 15): the average moves 0.6 of the way
    for average, before, now in zip(run.average, start, run.parameters, strict=True):
        torch.testing.assert_close(average, before + 0.6 * (now.detach() - before), atol=1e-6, rtol=1e-4)
    run.use_average()
    assert all(torch.equal(a, p.detach()) for a, p in zip(run.average, run.parameters, strict=True))


def test_ctc_learns_features_that_spell_their_text(tmp_path: Path) -> None:
    steps = STEPS.model_copy(update={"batch": 15, "lr": 1e-2, "warmup_steps": 5})
    run = trainer(tmp_path, steps, PHASES | {"ctc": 40})
    figures = [run.step(step)["ctc"] for step in range(40)]
    assert sum(figures[-5:]) < 0.5 * sum(figures[:5])
