"""The noise is uniform, independent between its keys, and a pure function of them."""

from __future__ import annotations

import math

import pytest
import torch

from pipeline.model.denoise import noise


def keys(*rows: str, seed: int = 0) -> torch.Tensor:
    return torch.tensor([noise.row_keys(row, seed) for row in rows], dtype=torch.int32)


def steps(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.int32)


def chi_square(counts: torch.Tensor, expected: torch.Tensor) -> float:
    """The chi-square statistic as standard deviations from its mean."""
    statistic = float(((counts.double() - expected) ** 2 / expected).sum())
    freedom = len(counts) - 1
    return (statistic - freedom) / math.sqrt(2 * freedom)


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    """The correlation, in standard deviations of that of independent draws."""
    return abs(float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])) * math.sqrt(a.numel())


def draws(row: str, step: int, stream: int, *, positions: int = 256, count: int = 256) -> torch.Tensor:
    """Uniform draws [positions, count] of one row."""
    return noise.uniform(noise.position_keys(keys(row), steps(step), stream, positions)[0], 0, count)


def test_uniform_is_never_0_or_1() -> None:
    drawn = noise.uniform(keys("a", "b"), 0, 2**21)
    assert 0.0 < float(drawn.min()) < 1e-5
    assert 1 - 1e-5 < float(drawn.max()) < 1.0
    assert bool(noise.gumbel(keys("a", "b"), 0, 2**21).isfinite().all())


@pytest.mark.parametrize("row", ["a", "", "recording 17#3#48000"])
def test_uniform_fills_its_buckets_evenly(row: str) -> None:
    drawn = noise.uniform(keys(row), 0, 2**20)[0]
    counts = torch.histc(drawn, bins=256, min=0, max=1)
    assert abs(chi_square(counts, torch.full((256,), 2**20 / 256))) < 5
    pairs = (drawn[:-1] * 16).long() * 16 + (drawn[1:] * 16).long()  # neighbouring counters
    counts = torch.bincount(pairs, minlength=256)
    assert abs(chi_square(counts, torch.full((256,), (2**20 - 1) / 256))) < 5


def test_draws_over_positions_are_uniform() -> None:
    first = draws("a", 3, noise.SAMPLE, positions=1024, count=1)
    counts = torch.histc(first, bins=16, min=0, max=1)
    assert abs(chi_square(counts, torch.full((16,), 1024 / 16))) < 5


@pytest.mark.parametrize(
    ("other_row", "other_step", "other_stream"),
    [("b", 0, noise.SAMPLE), ("a", 1, noise.SAMPLE), ("a", 0, noise.RENOISE), ("a", 0, noise.CANVAS)],
    ids=["segment", "step", "stream", "stream"],
)
def test_segments_steps_and_streams_are_independent(other_row: str, other_step: int, other_stream: int) -> None:
    one, other = draws("a", 0, noise.SAMPLE), draws(other_row, other_step, other_stream)
    assert correlation(one, other) < 5
    assert float((one == other).float().mean()) < 1e-3


def test_seeds_are_independent() -> None:
    one, other = noise.uniform(keys("a", seed=0), 0, 2**16), noise.uniform(keys("a", seed=1), 0, 2**16)
    assert correlation(one, other) < 5


@pytest.mark.parametrize("distance", [1, 2, 64, 128])
def test_positions_are_independent(distance: int) -> None:
    drawn = draws("a", 0, noise.SAMPLE)
    assert correlation(drawn[:-distance], drawn[distance:]) < 5


def test_no_two_positions_steps_or_streams_share_their_keys() -> None:
    """For the longest canvas and the most steps that the config allows: 1,024 and 256."""
    pairs = torch.cat(
        [
            noise.position_keys(keys("a").repeat(256, 1), torch.arange(256, dtype=torch.int32), stream, 1024).view(
                -1, 2
            )
            for stream in (noise.CANVAS, noise.SAMPLE, noise.RENOISE)
        ]
    )
    packed = pairs[:, 0].long() * 2**32 + pairs[:, 1]
    assert len(torch.unique(packed)) == 3 * 256 * 1024


def test_a_row_does_not_depend_on_its_neighbours_or_on_the_canvas_length() -> None:
    together = noise.position_keys(keys("a", "b", "c"), steps(4, 9, 2), noise.SAMPLE, 32)
    alone = noise.position_keys(keys("b"), steps(9), noise.SAMPLE, 16)
    assert torch.equal(together[1, :16], alone[0])
    tokens = noise.random_tokens(keys("a", "b", "c"), steps(4, 9, 2), noise.RENOISE, 32, 5000)
    assert torch.equal(tokens[1:2, :16], noise.random_tokens(keys("b"), steps(9), noise.RENOISE, 16, 5000))


def test_a_draw_depends_on_its_counter_only() -> None:
    whole = noise.uniform(keys("a", "b"), 0, 1000)
    assert torch.equal(whole[:, 300:420], noise.uniform(keys("a", "b"), 300, 120))
    assert torch.equal(whole[:, 300:420], noise.uniform(keys("a", "b"), torch.tensor(300), 120))
    assert torch.equal(whole[1, 7:9], noise.uniform(keys("a", "b"), torch.tensor([[0], [7]]), 2)[1])


def test_the_noise_of_released_versions_stays() -> None:
    """The first version computed these numbers. Other numbers would change every transcript."""
    assert noise.row_keys("recording#0#0", 7) == (2059284460, -1500603799)
    assert noise.uniform(keys("recording#0#0", seed=7), 0, 4)[0].tolist() == [
        0.7067273259162903,
        0.37927597761154175,
        0.2407284379005432,
        0.8981736302375793,
    ]
    assert noise.random_tokens(keys("recording#0#0", seed=7), steps(3), noise.RENOISE, 4, 2048)[0].tolist() == [
        1321,
        1362,
        874,
        742,
    ]


def test_the_name_of_a_sound_stays_and_depends_on_its_samples_alone() -> None:
    sound = bytes(range(256)) * 4
    assert noise.sound_key(sound) == "83885e853bb6640ca870f92984398d22"  # pragma: allowlist secret
    assert noise.sound_key(memoryview(b"x" + sound)[1:]) == noise.sound_key(sound)
    assert len({noise.sound_key(sound[:end]) for end in range(0, 1024, 2)}) == 512


def test_gumbel_has_the_mean_and_variance_of_the_distribution() -> None:
    drawn = noise.gumbel(keys("a", "b"), 0, 2**19).double()
    deviation = math.pi / math.sqrt(6)
    assert abs(float(drawn.mean()) - 0.5772156649) < 5 * deviation / 2**10
    assert abs(float(drawn.std()) - deviation) < 0.01


def test_random_tokens_are_uniform_over_the_whole_vocabulary() -> None:
    rows = keys(*map(str, range(200)))
    drawn = noise.random_tokens(rows, torch.zeros(200, dtype=torch.int32), noise.CANVAS, 1000, 500)
    assert drawn.dtype == torch.int64
    assert (int(drawn.min()), int(drawn.max())) == (0, 499)
    assert abs(chi_square(torch.bincount(drawn.flatten()), torch.full((500,), 200 * 1000 / 500))) < 5


def test_samples_follow_the_softmax() -> None:
    """For a vocabulary of two and a half blocks."""
    torch.manual_seed(0)
    vocab, count = 160, 100_000
    logits = torch.randn(1, vocab) * 1.5
    logits[0, 77] = 4.0
    rows = noise.position_keys(keys(*map(str, range(100))), torch.zeros(100, dtype=torch.int32), noise.SAMPLE, 1000)
    drawn = torch.cat([noise.sample(logits.expand(10_000, -1), part) for part in rows.view(-1, 2).split(10_000)])
    counts, expected = torch.bincount(drawn, minlength=vocab), logits[0].softmax(-1).double() * count
    assert abs(chi_square(counts, expected)) < 5
