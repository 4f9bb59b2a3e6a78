"""One pass over vocabulary tiles gives what the dense computation gives, for any logits and any tile."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.model import noise
from pipeline.model.vocabulary_head import HeadOutput, vocabulary_head

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
    return vocabulary_head(hidden, weight, softcap=CAP, temperature_N=temperature, keys_N2=keys, tile=tile)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(1, 6),
    vocab=st.integers(1, 500),
    hidden_size=st.integers(1, 16),
    tile=st.one_of(st.none(), st.integers(1, 600)),
    scale=st.sampled_from([0.0, 0.01, 1.0, 10.0, 1000.0]),
    coldness=st.floats(0.05, 2.0),
)
def test_equals_the_dense_computation(
    seed: int, rows: int, vocab: int, hidden_size: int, tile: int | None, scale: float, coldness: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, hidden_size, generator=generator) * scale
    weight = torch.randn(vocab, hidden_size, generator=generator)
    temperature = coldness * (1.0 + torch.rand(rows, generator=generator))
    out = head(hidden, weight, temperature, tile=tile)

    logits = dense_logits(hidden, weight)
    scaled = logits / temperature[:, None]
    at_argmax = logits.gather(1, out.argmax[:, None])[:, 0]
    torch.testing.assert_close(at_argmax, logits.amax(1), atol=1e-4, rtol=0)  # saturated logits may tie
    torch.testing.assert_close(out.entropy.double(), entropy(scaled), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(out.entropy_raw.double(), entropy(logits), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(out.probability.double(), logits.softmax(-1).amax(1), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(out.soft.double(), scaled.softmax(-1) @ weight.double(), atol=1e-3, rtol=1e-3)
    assert bool((out.probability <= 1.0).all())
    assert torch.equal(out.sample, noise.sample(scaled.float(), position_keys(rows)))


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
    together = vocabulary_head(hidden, weight, softcap=CAP, temperature_N=temperature, keys_N2=keys)
    for row in range(6):
        at = slice(row, row + 1)
        alone = vocabulary_head(hidden[at], weight, softcap=CAP, temperature_N=temperature[at], keys_N2=keys[at])
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
