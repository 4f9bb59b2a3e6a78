"""Making the embedded model: from random weights or those of an earlier run, resumable to the bit."""

from __future__ import annotations

import json
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from infra.tiny import build
from infra.tiny.recipe import PhaseSection, TrainConfig
from pipeline.config import ConfigError
from pipeline.model.files import checkpoint
from pipeline.model.new_model import EOS
from pipeline.training import resume
from pipeline.training.batches import Batches
from pipeline.training.loop import Trainer
from tests.support.small_model import WORDS, random_model


def config(folder: Path, *, texts: list[str], **settings: object) -> TrainConfig:
    """The settings of a run over cached features of these texts. It starts from the embedded model by default."""
    cache = folder / "features"
    cache.mkdir(parents=True, exist_ok=True)
    np.save(cache / "part-00000.npy", np.zeros((len(texts), 256, 512), np.float16))
    columns: dict[str, object] = {
        "texts": texts,
        "languages": ["en"] * len(texts),
        "voices": ["espeak:en-us"] * len(texts),
        "samples": [16_000 + 500 * row for row in range(len(texts))],
    }
    (cache / "part-00000.json").write_text(json.dumps(columns))
    return TrainConfig.model_validate({"folder": str(folder), "start": "tiny", **settings})


def test_training_starts_from_the_named_weights_and_tokenizer(tmp_path: Path) -> None:
    run = build.trainer(config(tmp_path, texts=["yes", "no", "hello"]))
    tiny = checkpoint.load("tiny")
    weights = run.model.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in tiny.state_dict().items())
    assert run.model.tokenizer.to_str() == tiny.tokenizer.to_str()
    assert all(parameter.requires_grad for parameter in run.parameters)


def test_features_end_one_slot_behind_the_longest_utterance_of_a_batch(tmp_path: Path) -> None:
    """What is left out changes nothing: a slot does not see that far, and slots of silence are hidden."""
    taught = {"teacher_weight": 0.5, "teacher_sure": 100.0}
    run = build.trainer(config(tmp_path, texts=["yes", "no", "hello"], phases=taught))
    rows, canvas = run.batches.at(0)
    batch = run.batches.of(rows, canvas, 0)
    assert int(batch.real_slots.max()) == 7  # of 17,000 samples
    assert batch.inputs.shape == (64, 8 * (7 + 1), 512)
    noise = torch.randn(64, 256, 512, generator=torch.Generator().manual_seed(0))
    run.features = lambda inputs, _: noise[:, : inputs.shape[1]]
    short = run._loss(0, "diffusion")[1]
    run.features = lambda inputs, _: noise
    whole = run._loss(0, "diffusion")[1]
    assert short == pytest.approx(whole, rel=1e-3, nan_ok=True)


def test_a_larger_vocabulary_and_the_features_of_an_earlier_run_are_trained_on(tmp_path: Path) -> None:
    config(tmp_path / "earlier", texts=["good night", "yes"])
    more = {"retokenise": True, "also": [str(tmp_path / "earlier")], "size": {"vocab_size": 400}}
    settings = config(tmp_path / "run", texts=["a zebra", "hello"], **more)
    run = build.trainer(settings)
    assert [run.model.tokenizer.decode(ids) for ids in run.batches.tokens] == ["a zebra", "hello", "good night", "yes"]
    assert run.model.tokenizer.token_to_id("\u2581zebra") is not None
    tiny = checkpoint.load("tiny")
    assert torch.equal(run.model.state_dict()["projector.output.weight"], tiny.state_dict()["projector.output.weight"])
    again = build.trainer(settings)
    assert again.model.tokenizer.to_str() == run.model.tokenizer.to_str()
    assert torch.equal(again.model.backbone.lm_head.weight, run.model.backbone.lm_head.weight)


def test_a_projector_with_more_channels_begins_as_the_one_before(tmp_path: Path) -> None:
    run = build.trainer(config(tmp_path, texts=["yes", "no"], size={"projector_hidden": 400}))
    tiny = checkpoint.load("tiny")
    assert run.model.config.projector.hidden == 400
    features = torch.randn(2, 256, 512, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(run.model.projector(features), tiny.projector(features), rtol=1e-5, atol=1e-5)
    run.model.projector(features).square().sum().backward()
    gradient = run.model.projector.output.weight.grad
    assert gradient is not None
    assert gradient[:, tiny.config.projector.hidden :].any(0).all(), "every new channel is learned from"


def test_a_folder_without_features_is_named(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(ConfigError, match=f"^folder: {tmp_path}/none/features: no cached features"):
        build.trainer(TrainConfig(folder=str(tmp_path / "none")))


def test_useless_features_of_an_earlier_run_are_refused_before_hours_of_work(tmp_path: Path) -> None:
    earlier, run = tmp_path / "earlier", str(tmp_path / "run")
    cases = {
        f"^also: {earlier}/features: no cached features": [str(earlier)],
        "^also: a folder named twice": [str(tmp_path / "other" / ".." / "run")],
    }
    for says, also in cases.items():
        with pytest.raises(ConfigError, match=says):
            build.check(TrainConfig(folder=run, export=run, also=also))
    config(earlier, texts=["yes"])
    build.check(TrainConfig(folder=run, export=run, also=[str(earlier)]))
    longer = {"folder": run, "export": run, "also": [str(earlier)], "size": {"window_seconds": 10.24}}
    with pytest.raises(ConfigError, match=r"^also: .* its windows have 256 frames, those of this run 512"):
        build.check(TrainConfig.model_validate(longer))
    with pytest.raises(ConfigError, match=r"^retokenise: needs `start`"):
        build.check(TrainConfig(folder=run, export=run, retokenise=True))
    share = {"of": "tiny", "projector": 0.2, "backbone": 0.5}
    missing = {"of": str(tmp_path / "none"), "projector": 0.2, "backbone": 0.1}
    with pytest.raises(ConfigError, match=r"^shares: their backbone is 1 or more together"):
        build.check(TrainConfig.model_validate({"folder": run, "export": run, "shares": [share, share]}))
    with pytest.raises(ConfigError, match=r"^shares\[1\].of: .*none: "):
        build.check(TrainConfig.model_validate({"folder": run, "export": run, "shares": [share, missing]}))


def test_a_model_that_is_not_trained_to_the_end_is_not_exported(tmp_path: Path) -> None:
    settings = config(tmp_path, texts=["yes", "no"], phases={"diffusion_steps": 3, "batch": 2})
    with pytest.raises(ConfigError, match=r"^stage: trained for 0 of 3003 steps; go on"):
        build.evaluate(build.trainer(settings), settings)


def test_shares_of_earlier_models_are_in_what_is_exported(tmp_path: Path) -> None:
    """Their projectors are narrower than that of the run; projector and backbone have shares of their own."""
    tiny = checkpoint.load("tiny")
    channels = tiny.projector.output.weight.shape[1]
    names = ("projector.output.weight", "backbone.model.encoder.language_model.embed_tokens.weight")
    known = {name: tiny.get_parameter(name).detach().clone() for name in names}
    with torch.no_grad():
        for name in names:
            tiny.get_parameter(name).zero_()
    checkpoint.save(tiny, tmp_path / "start", shared_encoder="whisper-base")
    shares = [
        {"of": "tiny", "projector": 0.25, "backbone": 0.5},
        {"of": str(tmp_path / "start"), "projector": 0.25, "backbone": 0.25},
    ]
    more = {"start": str(tmp_path / "start"), "shares": shares, "size": {"projector_hidden": channels + 8}}
    settings = config(tmp_path / "run", texts=["yes", "no"], phases=STEPS, **more)
    run = build.trainer(settings)
    run.run()
    own = dict(zip(run.named, (weight.clone() for weight in run.average), strict=True))
    exported = build.trainer(settings)
    with mock.patch.object(build.measure, "measure"):
        build.evaluate(exported, settings)
    output, tokens = (exported.model.get_parameter(name).detach() for name in names)
    wanted = 0.5 * own[names[0]][:, :channels] + 0.25 * known[names[0]]
    torch.testing.assert_close(output[:, :channels], wanted)
    torch.testing.assert_close(tokens, 0.25 * own[names[1]] + 0.5 * known[names[1]])


def test_the_held_out_utterances_of_another_run_can_be_measured(tmp_path: Path) -> None:
    for seeds, wanted in (({}, (5, 5)), ({"evaluation_seed": 3}, (3, 5))):
        with mock.patch.object(build, "synthesise") as made:
            build.make_corpus(TrainConfig.model_validate({"folder": str(tmp_path), "seed": 5, "corpus": seeds}))
        assert tuple(call.kwargs["seed"] for call in made.call_args_list) == wanted


def test_a_resumed_run_starts_from_the_same_weights_although_they_were_overwritten(tmp_path: Path) -> None:
    given = tmp_path / "given"
    checkpoint.save(checkpoint.load("tiny"), given)
    settings = config(tmp_path / "run", texts=["yes", "no"], start=str(given))
    first = build.trainer(settings).model.projector.state_dict()
    changed = checkpoint.load(str(given))
    torch.nn.init.zeros_(next(changed.projector.parameters()))
    checkpoint.save(changed, given)
    again = build.trainer(settings).model.projector.state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in first.items())


def test_a_run_learns_from_the_named_teacher_by_default_from_its_start(tmp_path: Path) -> None:
    given, phases = tmp_path / "given", {"teacher_weight": 0.5}
    other = checkpoint.load("tiny")
    torch.nn.init.zeros_(next(other.projector.parameters()))
    checkpoint.save(other, given)
    for teacher, wanted in ((str(given), other), (None, checkpoint.load("tiny"))):
        settings = config(tmp_path / str(teacher is None), texts=["yes", "no"], phases=phases, teacher=teacher)
        found = build.trainer(settings).teacher
        assert found is not None
        taught = found.model.projector.state_dict()
        assert all(torch.equal(taught[name], tensor) for name, tensor in wanted.projector.state_dict().items())


def test_weights_of_another_size_than_the_run_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^start: tiny: .*size section$") as caught:
        build.trainer(config(tmp_path, texts=["yes"], size={"hidden": 96}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("start", "/not/there"),
        ("teacher", "/not/there"),
        ("folder", "/proc/x"),
        ("encoder", "/not/there"),
        ("export", "/proc/x"),
    ],
)
def test_useless_files_and_folders_are_refused_before_hours_of_work(tmp_path: Path, key: str, value: str) -> None:
    settings = {"folder": str(tmp_path), "export": str(tmp_path), key: value}
    with pytest.raises(ConfigError, match=f"^{key}: {value}") as caught:
        build.check(TrainConfig.model_validate(settings))
    assert "\n" not in str(caught.value)


def test_a_run_that_can_be_done_passes_the_check(tmp_path: Path) -> None:
    build.check(TrainConfig(folder=str(tmp_path / "new"), export=str(tmp_path / "out"), start="tiny"))


PHASES = PhaseSection(
    ctc_steps=3, autoregressive_steps=2, diffusion_steps=4, batch=4, warmup_steps=2, checkpoint_steps=3, log_steps=4
)


def small(folder: Path, phases: PhaseSection = PHASES) -> Trainer:
    """The loop on a small random model and features of noise."""
    model = random_model(1, spread=1.0, canvas_length=8, experts=2).requires_grad_(True)
    features = torch.randn(30, 50, 32, generator=torch.Generator().manual_seed(0))
    batches = Batches(
        WORDS[:30],
        ["en", "de", "fr"] * 10,
        lambda rows, _: features[rows],
        [model.config.audio_slots] * 30,
        model.tokenizer,
        canvas_length=8,
        batch=phases.batch,
        seed=0,
        eos=EOS,
    )
    return build.made(model, batches, phases, seed=0, folder=folder)


def test_a_phase_of_the_projector_alone_leaves_the_backbone_as_it_is(tmp_path: Path) -> None:
    run = small(tmp_path, PHASES.model_copy(update={"trained": "projector"}))
    before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    run.run()
    after = run.model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.startswith("projector.")}


def test_with_consistency_ctc_sees_two_alterations_and_how_far_they_are_apart(tmp_path: Path) -> None:
    weights = [0.0, 1e-6, 1000.0]  # the views of a random model are close together
    runs = [small(tmp_path, PHASES.model_copy(update={"ctc_consistency": weight})) for weight in weights]
    alone, mean, consistent = (run._loss(0, "ctc")[1]["ctc"] for run in runs)
    assert mean != alone, "another view is in it"
    assert consistent > mean + 0.01
    assert runs[2]._loss(0, "diffusion")[1]["ctc"] > runs[1]._loss(0, "diffusion")[1]["ctc"] + 0.01


def test_the_encoder_and_the_unused_image_tower_stay_as_they_are(tmp_path: Path) -> None:
    run = small(tmp_path)
    before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    run.run()
    after = run.model.state_dict()
    frozen = ("encoder.", "backbone.model.encoder.vision_tower", "backbone.model.encoder.embed_vision")
    for name in before:
        if name.startswith(frozen):
            assert torch.equal(before[name], after[name]), name
    assert not torch.equal(before["projector.input.weight"], after["projector.input.weight"])
    assert not torch.equal(before["backbone.lm_head.weight"], after["backbone.lm_head.weight"])


def test_a_diffusion_step_trains_every_weight(tmp_path: Path) -> None:
    """The first, gradient-free pass of self-conditioning shares autocast's copies of the weights with the second."""
    phases = PHASES.model_copy(update={"ctc_steps": 0, "autoregressive_steps": 0, "batch": 16, "draws": 4})
    run = small(tmp_path, phases)
    run.step(0)
    assert [i for i, p in enumerate(run.parameters) if p.grad is None] == []
    conditioning = run.model.backbone.model.decoder.self_conditioning
    assert all(bool(p.grad is not None and p.grad.any()) for p in conditioning.parameters())


def test_tied_weights_are_trained_once(tmp_path: Path) -> None:
    run = small(tmp_path)
    assert len({id(p) for p in run.parameters}) == len(run.parameters)
    backbone = run.model.backbone
    assert sum(p is backbone.lm_head.weight for p in run.parameters) == 1
    assert backbone.lm_head.weight is backbone.model.encoder.language_model.embed_tokens.weight


STEPS = {"ctc_steps": 1, "autoregressive_steps": 1, "diffusion_steps": 3, "batch": 2, "checkpoint_steps": 2}


@pytest.mark.parametrize("killed_at", [1, 3, 4])
def test_a_killed_training_ends_bit_equal_to_an_uninterrupted_one(tmp_path: Path, killed_at: int) -> None:
    """The embedded model on cached features; the steps since the last checkpoint are done again."""
    texts = ["yes", "no", "hello", "good night"]
    whole = build.trainer(config(tmp_path / "whole", texts=texts, phases=STEPS))
    whole.run()
    settings = config(tmp_path / "killed", texts=texts, phases=STEPS)
    step = Trainer.step

    def killed(self: Trainer, number: int) -> dict[str, float]:
        if number == killed_at:
            raise KeyboardInterrupt
        return step(self, number)

    with mock.patch.object(Trainer, "step", killed), pytest.raises(KeyboardInterrupt):
        build.trainer(settings).run()
    resumed = build.trainer(settings)
    resumed.restore()
    assert resumed.done == killed_at // 2 * 2
    resumed.run()
    for one, other in ((resumed.parameters, whole.parameters), (resumed.average, whole.average)):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_only_the_number_of_diffusion_steps_may_change_and_the_card_tells_it(tmp_path: Path) -> None:
    texts = ["yes", "no"]

    def again(**phases: float) -> Trainer:
        return build.trainer(config(tmp_path, texts=texts, phases=STEPS | phases))

    again().run()
    with pytest.raises(ConfigError, match=r"^folder: .*phases\.lr was 0\.0015, now 0\.01"):
        again(diffusion_steps=5, lr=1e-2)
    with pytest.raises(ConfigError, match="utterances was 2, now 1"):
        build.trainer(config(tmp_path, texts=["yes"], phases=STEPS))
    with pytest.raises(ConfigError, match=r"seed was 0, now 1"):
        build.trainer(config(tmp_path, texts=texts, phases=STEPS, seed=1))
    longer = again(diffusion_steps=5, log_steps=1)
    longer.restore()
    assert (longer.done, longer.total) == (5, 7)
    assert resume.changes(tmp_path) == [[5, 5]]
    longer.run()
    with pytest.raises(ConfigError, match=r"phases\.diffusion_steps was 5, now 3"):
        again()
