"""The three losses: what they count, what they leave out, and that their gradients reach the audio."""

from __future__ import annotations

import dataclasses
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.model.network import backbone
from pipeline.model.network.backbone import PromptKV
from pipeline.model.recogniser import AsrModel
from pipeline.training import losses
from pipeline.training.batches import Batch
from pipeline.training.losses import DiffusionKnobs
from tests.support.small_model import random_model

CANVAS = 8
EOS = 1
KNOBS = DiffusionKnobs(draws=2, all_noise_share=0.35, self_conditioning_share=0.5, eos_weight=0.2)


@pytest.fixture(scope="module")
def model() -> AsrModel:
    return random_model(0, canvas_length=CANVAS)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def targets_of(*texts: list[int]) -> tuple[Tensor, Tensor]:
    """Canvases and text lengths."""
    canvases = [text + [EOS] * (CANVAS - len(text)) for text in texts]
    return torch.tensor(canvases), torch.tensor([len(text) for text in texts])


TARGETS, LENGTHS = targets_of([30, 31, 32], [40], [50, 51, 52, 53, 54])


def audio_of(model: AsrModel, rows: int, slots: int = 7, seed: int = 0) -> Tensor:
    return torch.randn(rows, slots, model.config.hidden_size, generator=generator(seed))


def all_real(audio: Tensor) -> Tensor:
    """Every audio slot has sound."""
    return torch.full((len(audio),), audio.shape[1])


def prompt_cache(model: AsrModel, audio: Tensor) -> PromptKV:
    return backbone.prefill(model.backbone, model.prompt_embeds(audio, [None] * len(audio)))[0]


def test_ctc_counts_infeasible_rows_and_gives_them_no_loss(model: AsrModel) -> None:
    """With four audio vectors, tokens and adjacent repeats together may be at most four."""
    texts = [[30, 31, 32, 33], [30, 30, 31, 32], [30, 30, 31], [30, 30, 31, 31], [30, 30, 30, 31], [30]]
    targets, lengths = targets_of(*texts)  # 4, 4 + 1, 3 + 1, 4 + 2, 4 + 2, 1
    audio = audio_of(model, 6, slots=4).requires_grad_()
    loss, infeasible = losses.ctc_loss(model, audio, all_real(audio), targets, lengths)
    assert infeasible == 3
    loss.backward()
    assert audio.grad is not None
    assert bool(audio.grad.isfinite().all())
    assert (audio.grad.abs().amax((1, 2)) > 0).tolist() == [True, False, True, False, False, True]


def test_ctc_does_not_take_end_tokens_for_repeats_of_the_text(model: AsrModel) -> None:
    targets, lengths = targets_of([30, EOS, 31])  # an end token inside is a token like others
    audio = audio_of(model, 1, slots=3)
    assert losses.ctc_loss(model, audio, all_real(audio), targets, lengths)[1] == 0


def test_ctc_cuts_a_text_to_the_slots_with_sound(model: AsrModel) -> None:
    audio = audio_of(model, 1)
    real = torch.tensor([3])
    long, short = (losses.ctc_loss(model, audio, real, *targets_of(text)) for text in ([30, 31, 32, 33], [30, 31, 32]))
    assert long == short
    assert long[1] == 0


def test_ctc_does_not_see_slots_without_sound(model: AsrModel) -> None:
    audio, real = audio_of(model, 2), torch.tensor([5, 6])
    targets = targets_of([30, 31], [32])
    before = losses.ctc_loss(model, audio, real, *targets)[0]
    audio[0, 5:] = 9.0
    audio[1, 6:] = -9.0
    assert torch.equal(losses.ctc_loss(model, audio, real, *targets)[0], before)


def test_ctc_of_two_views_is_their_mean_and_how_far_they_are_apart(model: AsrModel) -> None:
    """Computed here from the probabilities; slots without sound do not count."""
    one, other = audio_of(model, 3), audio_of(model, 3, seed=1)
    real = torch.tensor([7, 4, 6])
    both = torch.cat([one, other])
    means = [float(losses.ctc_loss(model, audio, real, TARGETS, LENGTHS)[0]) for audio in (one, other)]
    found = float(losses.ctc_loss(model, both, real, TARGETS, LENGTHS)[0])
    assert found == pytest.approx(sum(means) / 2, rel=1e-5)
    p, q = (backbone.raw_logits(model.backbone, audio).softmax(-1) for audio in (one, other))
    apart = 0.5 * (p - q) * (p / q).log()  # both directions
    tokens = torch.minimum(LENGTHS, real).tolist()
    rows = [float(apart[i, :slots].sum()) / tokens[i] for i, slots in enumerate(real.tolist())]
    found = float(losses.ctc_loss(model, both, real, TARGETS, LENGTHS, consistency=0.5)[0])
    assert found == pytest.approx(sum(means) / 2 + 0.5 * sum(rows) / 3, rel=1e-4)


def test_each_view_learns_from_the_other_as_it_is(model: AsrModel) -> None:
    """The gradient of one view is that of the divergence from the other alone."""
    one, other = audio_of(model, 2).requires_grad_(), audio_of(model, 2, seed=1)
    real, lengths = torch.tensor([7, 7]), torch.tensor([1, 1])
    logs = [backbone.raw_logits(model.backbone, audio).log_softmax(-1) for audio in (one, other)]
    (found,) = torch.autograd.grad(losses.disagreement(torch.cat(logs), real, lengths), one, retain_graph=True)
    taught = 0.5 * (logs[1].exp() * (logs[1] - logs[0])).sum() / 2
    torch.testing.assert_close(found, torch.autograd.grad(taught, one)[0])


def test_ctc_logits_have_no_softcap(model: AsrModel) -> None:
    """Vectors that spell the text so loudly that a softcap would bend their logits."""
    weight = model.backbone.lm_head.weight
    vectors = (weight[[30, 31]] / weight[[30, 31]].norm(dim=1, keepdim=True) ** 2 * 300)[None]
    wrong, _ = losses.ctc_loss(model, vectors, all_real(vectors), *targets_of([31, 30]))
    assert float(wrong) > 100  # per token; with a cap of 30 on either side it is 60 at most


def test_the_autoregressive_pass_leaves_silent_slots_out(model: AsrModel) -> None:
    """Loss and cache are the same whatever those slots hold, and the canvas starts behind the whole prompt."""
    audio, real = audio_of(model, 3), torch.tensor([7, 4, 1])
    other = audio.clone()
    other[1, 4:], other[2, 1:] = 5.0, -5.0
    made = []
    for vectors in (audio, other):
        prompt = model.prompt_embeds(vectors, [None] * 3)
        made.append(losses.autoregressive_loss(model, prompt, real, TARGETS, LENGTHS))
    (loss, cache), (same, _) = made
    assert torch.equal(loss, same)
    assert cache.start == model.prompt_length
    assert cache.seen is not None
    assert cache.seen.sum(1).tolist() == [model.prompt_length - 7 + slots for slots in (7, 4, 1)]


def test_ctc_is_small_where_the_vectors_spell_the_text(model: AsrModel) -> None:
    """A token may take several audio vectors. The head is the backbone's own."""
    weight = model.backbone.lm_head.weight
    spelled = [30, 30, 30, 31, 32, 32, 32]
    vectors = (weight[spelled] / weight[spelled].norm(dim=1, keepdim=True) ** 2 * 60)[None]
    right, _ = losses.ctc_loss(model, vectors, all_real(vectors), *targets_of([30, 31, 32]))
    wrong, _ = losses.ctc_loss(model, vectors, all_real(vectors), *targets_of([30, 32, 31]))
    assert float(right) < 0.1
    assert float(wrong) > 1.0


def test_autoregressive_cache_cut_equals_prompt_only_prefill(model: AsrModel) -> None:
    audio = audio_of(model, 3)
    prompt = model.prompt_embeds(audio, ["en", None, "zh"])
    _, cache = losses.autoregressive_loss(model, prompt, all_real(audio), TARGETS, LENGTHS)
    alone, _ = backbone.prefill(model.backbone, prompt)
    assert cache.length == alone.length == model.prompt_length
    for cut, own in zip(cache.layers, alone.layers, strict=True):
        torch.testing.assert_close(cut.keys, own.keys, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(cut.values, own.values, atol=1e-5, rtol=1e-5)


def test_autoregressive_loss_equals_feeding_one_token_at_a_time(model: AsrModel) -> None:
    """4 + 2 + 6 predictions over text and first end token, each from the tokens before it."""
    audio = audio_of(model, 3)
    prompt = model.prompt_embeds(audio, [None] * 3)
    expected = []
    for row, length in enumerate(LENGTHS.tolist()):
        for position in range(length + 1):
            before = backbone.embed(model.backbone, TARGETS[row : row + 1, :position])
            _, hidden = backbone.prefill(model.backbone, torch.cat([prompt[row : row + 1], before], dim=1))
            logits = backbone.softcapped_logits(model.backbone, hidden[:, -1])
            expected.append(F.cross_entropy(logits, TARGETS[row, position : position + 1]))
    assert len(expected) == 12
    loss, _ = losses.autoregressive_loss(model, prompt, all_real(audio), TARGETS, LENGTHS)
    torch.testing.assert_close(loss, torch.stack(expected).mean(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("t", [0.0, 0.25, 0.8, 1.0])
def test_corrupt_replaces_at_the_rate_t(t: float) -> None:
    targets = torch.full((400, 100), 7)
    corrupted = losses.corrupt(targets, torch.full((400,), t), 500, generator())
    rate = float((corrupted != targets).float().mean())
    expected = t * (1 - 1 / 500)  # a random token may be the token itself
    assert abs(rate - expected) <= 5 * (expected * (1 - expected) / 40_000) ** 0.5
    assert bool((targets == 7).all())


def test_corrupt_has_one_rate_per_row_and_uniform_tokens() -> None:
    targets = torch.full((2, 50_000), 7)
    corrupted = losses.corrupt(targets, torch.tensor([0.0, 1.0]), 100, generator())
    assert torch.equal(corrupted[0], targets[0])
    counts = torch.bincount(corrupted[1], minlength=100).double()
    statistic = float(((counts - 500) ** 2 / 500).sum())
    assert abs(statistic - 99) < 5 * (2 * 99) ** 0.5


def diffusion(model: AsrModel, logits: Tensor | None, knobs: DiffusionKnobs) -> float:
    """The loss with these logits instead of those of the head, or, for None, with its own."""
    cache = prompt_cache(model, audio_of(model, 3))
    if logits is None:
        return float(losses.diffusion_loss(model, cache, TARGETS, LENGTHS, knobs, generator())[0])
    with mock.patch.object(backbone, "softcapped_logits", lambda _, hidden: logits[-len(hidden) :]):
        return float(losses.diffusion_loss(model, cache, TARGETS, LENGTHS, knobs, generator())[0])


def sure_of(targets: Tensor, vocab: int) -> Tensor:
    """Logits of a head that is sure of these targets, for two draws of each row."""
    return F.one_hot(targets, vocab).float().repeat_interleave(2, 0) * 30.0


def test_diffusion_loss_is_zero_where_the_clean_canvas_is_predicted(model: AsrModel) -> None:
    """It is zero for every draw of every row, so targets and canvases belong together."""
    knobs = DiffusionKnobs(draws=2, all_noise_share=0.5, self_conditioning_share=0.0, eos_weight=0.2)
    vocab = model.config.vocab_size
    assert diffusion(model, sure_of(TARGETS, vocab), knobs) < 1e-6
    assert diffusion(model, sure_of(TARGETS.roll(1, dims=0), vocab), knobs) > 10
    assert 3 < diffusion(model, None, knobs) < 40  # an untrained model


def test_diffusion_loss_weighs_the_fill_after_the_first_end_token(model: AsrModel) -> None:
    wrong_fill = TARGETS.clone()
    for row, length in enumerate(LENGTHS.tolist()):
        wrong_fill[row, length + 1 :] = 99
    logits = sure_of(wrong_fill, model.config.vocab_size)
    losses_of = {
        weight: diffusion(model, logits, DiffusionKnobs(2, 0.5, 0.0, eos_weight=weight)) for weight in (0.0, 0.2, 1.0)
    }
    fill = int((CANVAS - 1 - LENGTHS).sum())  # 4 + 6 + 2 of 24 positions; each costs 30
    assert losses_of[0.0] < 1e-6
    assert losses_of[0.2] == pytest.approx(30 * 0.2 * fill / (24 - fill + 0.2 * fill), rel=1e-3)
    assert losses_of[1.0] == pytest.approx(30 * fill / 24, rel=1e-3)
    wrong_end = TARGETS.clone()
    wrong_end[0, int(LENGTHS[0])] = 99  # the first end token itself counts fully
    assert diffusion(model, sure_of(wrong_end, model.config.vocab_size), DiffusionKnobs(2, 0.5, 0.0, 0.0)) == (
        pytest.approx(30 / 12, rel=1e-3)
    )


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_self_conditioning_takes_a_first_pass_without_gradient(model: AsrModel, share: float) -> None:
    calls: list[tuple[Tensor, Tensor, bool]] = []
    decode = backbone.denoise

    def spy(model: object, canvas: Tensor, soft: Tensor, cache: PromptKV) -> Tensor:
        calls.append((canvas, soft.clone(), torch.is_grad_enabled()))
        return decode(model, canvas, soft, cache)  # type: ignore[arg-type]

    knobs = DiffusionKnobs(draws=8, all_noise_share=0.3, self_conditioning_share=share, eos_weight=0.2)
    cache = prompt_cache(model, audio_of(model, 3))
    with mock.patch.object(backbone, "denoise", spy):
        losses.diffusion_loss(model, cache, TARGETS, LENGTHS, knobs, generator())
    canvas, soft, with_gradient = calls[-1]
    conditioned = int(soft.abs().amax((1, 2)).gt(0).sum())
    assert with_gradient
    assert len(canvas) == 24
    assert conditioned == {0.0: 0, 1.0: 24}.get(share, conditioned)
    if share == 0.5:
        assert 4 < conditioned < 20
    if not share:
        assert len(calls) == 1
        return
    first_canvas, first_soft, first_gradient = calls[0]
    assert (len(calls), len(first_canvas), first_gradient) == (2, conditioned, False)
    assert not bool(first_soft.any())  # the first step of denoising knows nothing either
    if share == 1.0:
        clean = TARGETS.repeat_interleave(8, 0)
        assert (first_canvas != clean).sum() > (canvas != clean).sum()  # at least as noisy


def test_every_draw_of_a_row_has_the_audio_of_its_row(model: AsrModel) -> None:
    """In both passes; the first takes some of the rows only."""
    calls: list[tuple[Tensor, Tensor]] = []
    decode = backbone.denoise

    def spy(model: object, canvas: Tensor, soft: Tensor, cache: PromptKV) -> Tensor:
        calls.append((soft.clone(), cache.layers[1].keys))
        return decode(model, canvas, soft, cache)  # type: ignore[arg-type]

    cache = prompt_cache(model, audio_of(model, 3))
    with mock.patch.object(backbone, "denoise", spy):
        losses.diffusion_loss(model, cache, TARGETS, LENGTHS, DiffusionKnobs(4, 0.3, 0.5, 0.2), generator())
    (_, first_keys), (soft, keys) = calls
    row_of_draw = torch.arange(12) // 4  # as the targets: the draws of a row are neighbours
    assert torch.equal(keys, cache.layers[1].keys[row_of_draw])
    conditioned = soft.abs().amax((1, 2)) > 0
    assert 0 < int(conditioned.sum()) < 12
    assert torch.equal(first_keys, cache.layers[1].keys[row_of_draw[conditioned]])


def test_all_noise_examples_keep_nothing_of_the_target(model: AsrModel) -> None:
    calls: list[Tensor] = []
    decode = backbone.denoise

    def spy(model: object, canvas: Tensor, soft: Tensor, cache: PromptKV) -> Tensor:
        calls.append(canvas)
        return decode(model, canvas, soft, cache)  # type: ignore[arg-type]

    cache = prompt_cache(model, audio_of(model, 3))
    with mock.patch.object(backbone, "denoise", spy):
        losses.diffusion_loss(model, cache, TARGETS, LENGTHS, DiffusionKnobs(8, 1.0, 0.0, 0.2), generator())
    kept = (calls[0] == TARGETS.repeat_interleave(8, 0)).float().mean()
    assert float(kept) < 0.03


def test_a_share_of_the_batches_is_at_all_noise_and_the_others_at_any_level(model: AsrModel) -> None:
    """With all_noise_by=batch every example of a batch starts where denoising starts, or none is made to."""
    kept: list[float] = []
    decode = backbone.denoise

    def spy(model: object, canvas: Tensor, soft: Tensor, cache: PromptKV) -> Tensor:
        kept.append(float((canvas == TARGETS.repeat_interleave(8, 0)).float().mean()))
        return decode(model, canvas, soft, cache)  # type: ignore[arg-type]

    cache = prompt_cache(model, audio_of(model, 3))
    knobs = DiffusionKnobs(8, 0.4, 0.0, 0.2, all_noise_by="batch")
    with mock.patch.object(backbone, "denoise", spy):
        for seed in range(60):
            losses.diffusion_loss(model, cache, TARGETS, LENGTHS, knobs, generator(seed))
    noise = [share for share in kept if share < 0.03]
    assert 12 <= len(noise) <= 36  # 24 of 60
    others = torch.tensor([share for share in kept if share >= 0.03])
    assert float(others.min()) > 0.2  # the mean of 24 uniform levels is near a half
    assert float(others.mean()) == pytest.approx(0.5, abs=0.06)


def test_only_corrupted_tokens_count_where_the_settings_say_so(model: AsrModel) -> None:
    """The head is wrong about every token, sure of another: each counted token costs 30, of any draw."""
    canvases: list[Tensor] = []
    decode = backbone.denoise

    def spy(model: object, canvas: Tensor, soft: Tensor, cache: PromptKV) -> Tensor:
        canvases.append(canvas)
        return decode(model, canvas, soft, cache)  # type: ignore[arg-type]

    clean = TARGETS.repeat_interleave(2, 0)
    knobs = DiffusionKnobs(2, 0.0, 0.0, eos_weight=0.0, corrupted_only=True)
    with mock.patch.object(backbone, "denoise", spy):
        diffusion(model, sure_of(TARGETS, model.config.vocab_size), knobs)
    spared = canvases[0] == clean
    text = torch.arange(CANVAS)[None] <= LENGTHS.repeat_interleave(2, 0)[:, None]
    assert 0 < int((spared & text).sum()) < int(text.sum())
    wrong_where_spared = torch.where(spared | ~text, 99, clean)  # fill is not counted either
    logits = F.one_hot(wrong_where_spared, model.config.vocab_size).float() * 30.0
    assert diffusion(model, logits, knobs) < 1e-6
    logits = F.one_hot(torch.where(spared, clean, 99), model.config.vocab_size).float() * 30.0
    assert diffusion(model, logits, knobs) == pytest.approx(30, rel=1e-3)
    assert diffusion(model, logits, dataclasses.replace(knobs, corrupted_only=False)) == pytest.approx(
        30 * float((~spared & text).sum() / text.sum()), rel=1e-3
    )


def test_a_batch_that_the_noise_has_spared_has_no_loss(model: AsrModel) -> None:
    knobs = DiffusionKnobs(2, 0.0, 0.0, eos_weight=0.0, corrupted_only=True)
    with mock.patch.object(losses, "corrupt", lambda targets, *_: targets):
        assert diffusion(model, None, knobs) == 0.0


def test_the_diffusion_loss_reaches_the_audio(model: AsrModel) -> None:
    """The gradient comes through the prompt's cache; without it the model could not learn to listen."""
    audio = audio_of(model, 3).requires_grad_()
    loss, _ = losses.diffusion_loss(model, prompt_cache(model, audio), TARGETS, LENGTHS, KNOBS, generator())
    loss.backward()
    assert audio.grad is not None
    assert bool((audio.grad.abs().amax((1, 2)) > 0).all())


def test_the_same_generator_gives_the_same_loss(model: AsrModel) -> None:
    cache = prompt_cache(model, audio_of(model, 3))
    one, other, third = (
        float(losses.diffusion_loss(model, cache, TARGETS, LENGTHS, KNOBS, generator(seed))[0]) for seed in (5, 5, 6)
    )
    assert one == other != third


def taught(model: AsrModel, teacher: AsrModel, *, weight: float, sure: float) -> float:
    """The diffusion loss of a model with a teacher, on the audio and the prompt of each."""
    audio = audio_of(model, 3)
    knobs = dataclasses.replace(KNOBS, draws=1, self_conditioning_share=0.0)
    pair = (losses.Teacher(teacher, weight, sure), prompt_cache(teacher, audio))
    return float(
        losses.diffusion_loss(model, prompt_cache(model, audio), TARGETS, LENGTHS, knobs, generator(), pair)[0]
    )


def test_a_teacher_teaches_the_rows_in_which_it_is_right(model: AsrModel) -> None:
    """Where it is wrong, or has no weight, the loss is that of the true tokens."""
    other = random_model(5, canvas_length=CANVAS)
    audio = audio_of(model, 3)
    knobs = dataclasses.replace(KNOBS, draws=1, self_conditioning_share=0.0)
    plain = float(losses.diffusion_loss(model, prompt_cache(model, audio), TARGETS, LENGTHS, knobs, generator())[0])
    assert taught(model, other, weight=0.0, sure=1e9) == plain
    assert taught(model, other, weight=1.0, sure=1e-9) == plain
    assert taught(model, other, weight=1.0, sure=1e9) != plain


def test_nobody_learns_from_a_teacher_better_than_itself(model: AsrModel) -> None:
    """The cross-entropy with a distribution is least for that distribution; half the weight is half of it."""
    own, other = (taught(model, one, weight=1.0, sure=1e9) for one in (model, random_model(5, canvas_length=CANVAS)))
    against_itself = taught(random_model(5, canvas_length=CANVAS), model, weight=1.0, sure=1e9)
    assert own < against_itself
    half = taught(model, random_model(5, canvas_length=CANVAS), weight=0.5, sure=1e9)
    none = taught(model, model, weight=0.0, sure=1e9)
    assert half == pytest.approx((other + none) / 2, rel=1e-5)


def test_a_teacher_has_its_own_prompt_and_its_own_silence(model: AsrModel) -> None:
    """Its cache is that of its whole prompt where it was trained to see silence, a row for each draw."""
    prompt = model.config.prompt.model_copy(update={"silence": "seen", "after": "<audio|><|turn>"})
    other = AsrModel(model.config.model_copy(update={"prompt": prompt}), model.tokenizer).eval()
    other.load_state_dict(model.state_dict())
    features = torch.randn(3, model.config.encoder_frames, model.config.encoder.d_model, generator=generator())
    batch = Batch(features, TARGETS, LENGTHS, torch.tensor([2, 3, 7]), [None, None, None])
    cache = losses.Teacher(other, 1.0, 1.0).prompted(batch, [None, None, None], draws=2)
    expected = prompt_cache(other, other.projector(features)).repeat(2)
    assert other.prompt_length == model.prompt_length + 1
    for mine, theirs in zip(cache.layers, expected.layers, strict=True):
        torch.testing.assert_close(mine.keys, theirs.keys, atol=1e-4, rtol=1e-4)
