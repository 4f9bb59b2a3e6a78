"""Training: resumable to the bit, three phases in order, and only what is to be trained changes."""

from __future__ import annotations

import json
from pathlib import Path
from unittest import mock

import pytest
import torch

from infra.tiny.data import Batches
from infra.tiny.loop import Trainer
from infra.tiny.recipe import PhaseSection
from pipeline.config import ConfigError
from tests.support.small_model import random_model
from tests.tiny.test_data import EOS, TOKENIZER

PHASES = PhaseSection(
    ctc_steps=3,
    autoregressive_steps=2,
    diffusion_steps=4,
    batch=4,
    warmup_steps=2,
    checkpoint_steps=3,
    log_steps=4,
    lr=3e-3,
    ema=0.9,
)


class Cache:
    """Features that spell their text: what `FeatureCache` holds, without files or an encoder."""

    def __init__(self) -> None:
        words = ["ban", "bens", "dis", "dora", "fun", "gan"]
        self.texts = [f"{a} {b}" for a in words for b in words if a != b]
        self.languages = ["en", "de", "fr"] * 10
        generator = torch.Generator().manual_seed(0)
        spoken = {word: torch.randn(25, 32, generator=generator) for word in words}
        self._features = torch.stack([torch.cat([spoken[word] for word in text.split()]) for text in self.texts])

    def features(self, rows: list[int]) -> torch.Tensor:
        return self._features[rows]


def trainer(folder: Path, phases: PhaseSection = PHASES, *, seed: int = 0) -> Trainer:
    model = random_model(1, spread=1.0, canvas_length=8, experts=2).requires_grad_(True)
    cache: object = Cache()
    batches = Batches(cache, TOKENIZER, canvas_length=8, batch=phases.batch, seed=seed, eos=EOS)  # type: ignore[arg-type]
    return Trainer(model, batches, phases, seed, folder)


def weights(run: Trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in run.model.state_dict().items()}


def equal(one: Trainer, other: Trainer) -> bool:
    """Weights, averages and the optimiser's state, to the bit."""
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
    """Killed in each of the phases; the steps since the last checkpoint are done again."""
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


@pytest.mark.parametrize(("change", "says"), [({"lr": 1e-2}, "phases.lr was 0.003, now 0.01"), ({"batch": 3}, "batch")])
def test_a_checkpoint_of_other_settings_is_not_gone_on_from(
    uninterrupted: Trainer, change: dict[str, float], says: str
) -> None:
    with pytest.raises(ConfigError, match=f"^folder: .*{says}"):
        trainer(uninterrupted.folder, PHASES.model_copy(update=change)).restore()
    with pytest.raises(ConfigError, match="seed was 0, now 1"):
        trainer(uninterrupted.folder, seed=1).restore()
    trainer(uninterrupted.folder, PHASES.model_copy(update={"log_steps": 1})).restore()


def test_a_run_goes_on_when_it_is_given_another_number_of_steps(tmp_path: Path) -> None:
    """From its state, at the rate of the new cosine, and it says so; steps that are behind it are other settings."""
    shorter = trainer(tmp_path)
    shorter.run()
    more = PHASES.model_copy(update={"diffusion_steps": PHASES.diffusion_steps + 2})
    with pytest.raises(ConfigError, match=r"phases\.lr was 0\.003, now 0\.01"):
        trainer(tmp_path, more.model_copy(update={"lr": 1e-2})).restore()
    longer = trainer(tmp_path, more)
    longer.restore()
    assert longer.done == 9
    assert equal(longer, shorter)
    longer.run()
    assert longer.done == 11
    assert longer.lr(9) > shorter.lr(9)
    again = trainer(tmp_path, more)
    again.restore()
    assert again.rescheduled == longer.rescheduled == [[9, 9]]
    with pytest.raises(ConfigError, match=r"phases\.diffusion_steps was 6, now 4"):
        trainer(tmp_path).restore()


def test_a_run_that_takes_too_long_may_end_earlier(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    run.step(0)
    run.done = 6
    run.save()
    sooner = trainer(tmp_path, PHASES.model_copy(update={"diffusion_steps": 3}))
    sooner.run()
    assert sooner.done == 8
    assert sooner.rescheduled == [[6, 9]]
    assert sooner.lr(6) < run.lr(6)


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
    phases = PHASES.model_copy(update={"lr": 1.0, "lr_end_fraction": 0.1, "diffusion_steps": 5})
    run = trainer(tmp_path, phases)
    assert run.total == 10
    assert [run.phase(n) for n in range(10)] == ["ctc"] * 3 + ["autoregressive"] * 2 + ["diffusion"] * 5
    assert [run.lr(0), run.lr(1), run.lr(2)] == pytest.approx([0.5, 1.0, 1.0])  # two steps up, then the cosine
    assert run.lr(6) == pytest.approx(0.1 + 0.9 * 0.5)  # half way
    assert run.lr(10) == pytest.approx(0.1)


def test_every_phase_logs_the_losses_it_has(uninterrupted: Trainer) -> None:
    lines = [json.loads(line) for line in (uninterrupted.folder / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 8, 9]
    assert [line["phase"] for line in lines] == ["autoregressive", "diffusion", "diffusion"]
    assert all({"ctc", "ar", "infeasible", "grad_norm", "seconds_per_step"} <= set(line) for line in lines)
    assert "diffusion" not in lines[0]
    assert all(line["diffusion"] > 0 for line in lines[1:])
    assert lines[0]["infeasible"] == 0


def test_the_encoder_and_the_unused_image_tower_stay_as_they_are(uninterrupted: Trainer) -> None:
    fresh = trainer(uninterrupted.folder)
    before, after = weights(fresh), weights(uninterrupted)
    frozen = ("encoder.", "backbone.model.encoder.vision_tower", "backbone.model.encoder.embed_vision")
    for name in before:
        if name.startswith(frozen):
            assert torch.equal(before[name], after[name]), name
    assert not torch.equal(before["projector.input.weight"], after["projector.input.weight"])
    assert not torch.equal(before["backbone.lm_head.weight"], after["backbone.lm_head.weight"])


def test_a_diffusion_step_trains_every_weight(tmp_path: Path) -> None:
    """The first, gradient-free pass of self-conditioning shares autocast's copies of the weights with the second."""
    phases = PHASES.model_copy(update={"ctc_steps": 0, "autoregressive_steps": 0, "batch": 16, "draws": 4})
    run = trainer(tmp_path, phases)
    run.step(0)
    assert [i for i, p in enumerate(run.parameters) if p.grad is None] == []
    conditioning = run.model.backbone.model.decoder.self_conditioning
    assert all(bool(p.grad is not None and p.grad.any()) for p in conditioning.parameters())


def test_tied_weights_are_trained_once(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    assert len({id(p) for p in run.parameters}) == len(run.parameters)
    backbone = run.model.backbone
    assert sum(p is backbone.lm_head.weight for p in run.parameters) == 1
    assert backbone.lm_head.weight is backbone.model.encoder.language_model.embed_tokens.weight


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
    phases = PHASES.model_copy(update={"ctc_steps": 40, "batch": 15, "lr": 1e-2, "warmup_steps": 5})
    run = trainer(tmp_path, phases)
    figures = [run.step(step)["ctc"] for step in range(40)]
    assert sum(figures[-5:]) < 0.5 * sum(figures[:5])
