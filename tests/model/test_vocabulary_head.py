"""One pass over vocabulary tiles gives what the dense computation gives, for any logits and any tile."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.model.denoise import noise, sampler
from pipeline.model.denoise import vocabulary_head as vocabulary_head_module
from pipeline.model.denoise.vocabulary_head import CPU_FLOATS, HeadOutput, rows_at_once, run_head
from tests.support.allocations import Allocations

CAP = 30.0


def position_keys(count: int, *, stream: int = noise.SAMPLE) -> Tensor:
    rows = torch.tensor([noise.row_keys(str(row), 0) for row in range(-(-count // 500))], dtype=torch.int32)
    steps = torch.zeros(len(rows), dtype=torch.int32)
    return noise.position_keys(rows, steps, stream, 500).view(-1, 2)[:count]


def dense_logits(hidden: Tensor, weight: Tensor) -> Tensor:
    return torch.tanh(hidden.double() @ weight.double().T / CAP) * CAP


def entropy(logits: Tensor) -> Tensor:
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


def head(hidden: Tensor, weight: Tensor, temperature: Tensor, *, tile: int | None) -> HeadOutput:
    keys = position_keys(len(hidden))
    return run_head(hidden, weight, softcap=CAP, temperature_N=temperature, keys_N2=keys, tile=tile)


def on_a_grid(generator: torch.Generator, *shape: int, bits: int) -> Tensor:
    """Normal numbers, rounded to multiples of 2^-bits: sums of their products are exact in float32 in any order."""
    return (torch.randn(*shape, generator=generator).clamp(-4, 4) * 2**bits).round() / 2**bits


@settings(derandomize=True, deadline=None, max_examples=80)
@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(1, 40),
    vocab=st.integers(1, 500),
    hidden_size=st.integers(1, 16),
    tile=st.one_of(st.none(), st.integers(1, 600)),
    scale=st.sampled_from([0.0, 2.0**-7, 1.0, 8.0, 1024.0]),
    temperature=st.one_of(st.just(0.05), st.floats(0.05, 2.0)),
)
@example(seed=0, rows=40, vocab=500, hidden_size=16, tile=None, scale=1024.0, temperature=0.05)
@example(seed=1, rows=40, vocab=500, hidden_size=16, tile=64, scale=1024.0, temperature=0.05)
@example(seed=2, rows=40, vocab=500, hidden_size=16, tile=128, scale=8.0, temperature=0.05)
def test_equals_the_dense_computation(
    seed: int, rows: int, vocab: int, hidden_size: int, tile: int | None, scale: float, temperature: float
) -> None:
    """Also with extreme logits: at a scale of 1,000 most are at the softcap, where many tokens tie."""
    generator = torch.Generator().manual_seed(seed)
    hidden = on_a_grid(generator, rows, hidden_size, bits=4) * scale
    weight = on_a_grid(generator, vocab, hidden_size, bits=4)
    temperatures = temperature * (1.0 + torch.rand(rows, generator=generator))
    out = head(hidden, weight, temperatures, tile=tile)

    dense = (hidden @ weight.T).div(CAP).tanh() * CAP  # float32, as the stock head computes it
    scaled = dense / temperatures[:, None]
    assert torch.equal(out.argmax, dense.argmax(1))
    for bound in (0.1, 2.0):
        ours, theirs = (sampler.accept(values[None], bound) for values in (out.entropy, entropy(scaled)))
        assert torch.equal(ours, theirs)

    exact = dense.double() / temperatures.double()[:, None]
    torch.testing.assert_close(out.entropy.double(), entropy(exact), atol=1e-4, rtol=0)
    torch.testing.assert_close(out.entropy_raw.double(), entropy(dense.double()), atol=1e-4, rtol=0)
    torch.testing.assert_close(out.probability.double(), dense.double().softmax(-1).amax(1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(out.soft.double(), exact.softmax(-1) @ weight.double(), atol=1e-4, rtol=1e-4)
    assert bool((out.probability <= 1.0).all())
    assert torch.equal(out.sample, noise.sample(scaled, position_keys(rows)))


def test_memory_grows_with_the_tile_and_not_with_the_batch() -> None:
    """No tensor has rows x vocabulary elements or more than the bound on rows x tile, except for the output."""
    vocab, size, peaks = 3000, 8, {}
    weight = torch.randn(vocab, size)
    for rows in (1024, 4096):
        hidden, temperature, keys = torch.randn(rows, size), torch.full((rows,), 0.5), position_keys(rows)
        with Allocations() as made:
            out = run_head(hidden, weight, softcap=CAP, temperature_N=temperature, keys_N2=keys)
        assert made.largest <= CPU_FLOATS < rows * vocab / 10
        peaks[rows] = made.peak - 2 * sum(output.nbytes for output in out)  # the outputs' parts, and joined
    assert peaks[1024] <= 6 * 4 * CPU_FLOATS
    assert peaks[4096] <= 1.1 * peaks[1024]


def test_rows_in_shares_give_what_they_give_together(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(5)
    hidden, weight, temperature = torch.randn(50, 8), torch.randn(300, 8), torch.linspace(0.4, 0.8, 50)
    together = head(hidden, weight, temperature, tile=64)
    monkeypatch.setattr(vocabulary_head_module, "CPU_FLOATS", 64 * 7)
    assert rows_at_once(50, 64, hidden.device) == 7
    shares = head(hidden, weight, temperature, tile=64)
    for name in HeadOutput._fields:
        torch.testing.assert_close(getattr(shares, name), getattr(together, name), msg=name)


@pytest.mark.parametrize(
    ("rows", "tile", "expected"),
    [(0, 256, 1), (1, 8192, 1), (1024, 256, 1024), (1025, 256, 513), (3000, 256, 1000), (5, 10**9, 1)],
)
def test_shares_of_rows_are_equal_and_within_the_bound(rows: int, tile: int, expected: int) -> None:
    assert rows_at_once(rows, tile, torch.device("cpu")) == expected


def test_the_argmax_is_exact_where_nothing_ties() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(200, 16), torch.randn(1000, 16)
    for tile in (64, 100, 1000):
        out = head(hidden, weight, torch.full((200,), 0.5), tile=tile)
        assert torch.equal(out.argmax, dense_logits(hidden, weight).argmax(1))


def test_sampling_frequencies_follow_the_softmax() -> None:
    torch.manual_seed(1)
    count, vocab = 40_000, 150
    hidden, weight = torch.randn(1, 8), torch.randn(vocab, 8)
    temperature = torch.full((count,), 0.7)
    out = head(hidden.expand(count, -1), weight, temperature, tile=64)
    expected = (dense_logits(hidden, weight)[0] / 0.7).softmax(-1) * count
    likely = expected > 5  # the chi-square approximation needs counts; the rest is one bucket
    counts = torch.bincount(out.sample, minlength=vocab).double()
    counts = torch.cat([counts[likely], counts[~likely].sum()[None]])
    expected = torch.cat([expected[likely], expected[~likely].sum()[None]])
    statistic, freedom = float(((counts - expected) ** 2 / expected).sum()), len(counts) - 1
    assert freedom > 40
    assert abs(statistic - freedom) < 5 * math.sqrt(2 * freedom)


def test_a_row_of_nan_has_nan_entropy_and_touches_no_other() -> None:
    torch.manual_seed(2)
    hidden, weight = torch.randn(5, 8), torch.randn(300, 8)
    temperature = torch.full((5,), 0.5)
    clean = head(hidden, weight, temperature, tile=128)
    hidden[2, 3] = torch.nan
    broken = head(hidden, weight, temperature, tile=128)
    assert bool(broken.entropy[2].isnan())
    assert 0 <= int(broken.sample[2]) < 300
    others = [0, 1, 3, 4]
    for name in HeadOutput._fields:
        assert torch.equal(getattr(broken, name)[others], getattr(clean, name)[others]), name


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    torch.manual_seed(3)
    hidden, weight = torch.randn(6, 8), torch.randn(300, 8)
    temperature, keys = torch.linspace(0.4, 0.8, 6), position_keys(6)
    together = run_head(hidden, weight, softcap=CAP, temperature_N=temperature, keys_N2=keys)
    for row in range(6):
        at = slice(row, row + 1)
        alone = run_head(hidden[at], weight, softcap=CAP, temperature_N=temperature[at], keys_N2=keys[at])
        assert int(alone.sample) == int(together.sample[row])
        assert int(alone.argmax) == int(together.argmax[row])
        torch.testing.assert_close(alone.entropy, together.entropy[at])


def test_bfloat16_weights_give_float32_statistics() -> None:
    torch.manual_seed(4)
    hidden, weight = torch.randn(20, 16).bfloat16(), torch.randn(400, 16).bfloat16()
    out = head(hidden, weight, torch.full((20,), 0.5), tile=128)
    scaled = dense_logits(hidden, weight) / 0.5
    assert out.soft.dtype == torch.bfloat16
    assert out.entropy.dtype == torch.float32
    torch.testing.assert_close(out.entropy.double(), entropy(scaled), atol=0.1, rtol=0.05)
    torch.testing.assert_close(out.soft.double(), scaled.softmax(-1) @ weight.double(), atol=0.1, rtol=0.1)
