"""Random numbers from counters: a draw depends on sound, seed, step, position and token, never on other rows."""

from __future__ import annotations

import hashlib

import torch
import xxhash
from torch import Tensor

CANVAS, SAMPLE, RENOISE = 1, 2, 3  # streams: first canvas, sampled tokens, noise for rejected positions
BLOCK = 64  # vocabulary entries that share one Gumbel draw in the first level of `sample`
WITHIN = 2**24  # counters of the second level start here, above every block number


def sound_key(pcm: bytes | memoryview) -> str:
    """A name for these samples, whatever file they are from: the same sound gets the same noise everywhere."""
    return str(xxhash.xxh3_128_hexdigest(pcm))


def row_keys(name: str, seed: int, vote: int = 0) -> tuple[int, int]:
    """Two int32 keys of a segment, for a job's seed. name: of `sound_key`; benchmarks and tests have others.

    vote: 0 is the text of a segment that is recognised once; each further one has other noise.
    """
    further = f"\x1f{vote}" if vote else ""
    digest = hashlib.blake2b(f"{seed}\x1f{name}{further}".encode(), digest_size=8).digest()
    return (
        int.from_bytes(digest[:4], "little", signed=True),
        int.from_bytes(digest[4:], "little", signed=True),
    )


def _mix(x: Tensor) -> Tensor:
    """A bijection of int32 in which each bit changes many: shift, xor, multiply. Masks make the shifts logical."""
    x = (x ^ ((x >> 16) & 0xFFFF)) * 0x7FEB352D
    x = (x ^ ((x >> 15) & 0x1FFFF)) * -0x7B935975
    return x ^ ((x >> 16) & 0xFFFF)


def position_keys(keys_B2: Tensor, step_B: Tensor, stream: int, length: int) -> Tensor:
    """A pair of keys per canvas position, int32 [batch, length, 2]. keys_B2: int32 of `row_keys`; step_B: int32."""
    position = torch.arange(length, device=keys_B2.device, dtype=torch.int32)
    counter = step_B[:, None] * 4096 + position[None]  # canvases are at most 1,024 long
    first = _mix(keys_B2[:, :1] ^ _mix(counter * 4 + stream))
    second = _mix(keys_B2[:, 1:] + first)
    return torch.stack([first, second], dim=-1)


def uniform(keys_N2: Tensor, start: int | Tensor, count: int) -> Tensor:
    """float32 [N, count] in (0, 1), never 0 or 1, for counters start ... start + count - 1. start: int or [N, 1]."""
    counter = torch.arange(count, device=keys_N2.device, dtype=torch.int32)[None] + start
    counter = counter.to(torch.int32)
    bits = _mix(_mix(counter ^ keys_N2[:, :1]) + keys_N2[:, 1:])
    return (((bits >> 9) & 0x7FFFFF).float() + 0.5) * 2.0**-23


def gumbel(keys_N2: Tensor, start: int | Tensor, count: int) -> Tensor:
    """Standard Gumbel noise [N, count]: argmax(z + gumbel) samples from softmax(z)."""
    return -torch.log(-torch.log(uniform(keys_N2, start, count)))


def sample(logits_NV: Tensor, keys_N2: Tensor) -> Tensor:
    """Draws int64 [N] from softmax(logits). `vocabulary_head` does the same tile by tile; this is its reference.

    The maximum of logit + gumbel over a block of the vocabulary has a Gumbel distribution around the block's
    log-sum-exp, and does not depend on where in the block it lies (arXiv 1411.0030). So one draw per block finds the
    block, and BLOCK more draws find the token. That is exact and takes 1 / BLOCK of the logarithms.
    """
    vocab = logits_NV.shape[1]
    padded = torch.nn.functional.pad(logits_NV, (0, -vocab % BLOCK), value=-torch.inf).view(len(keys_N2), -1, BLOCK)
    block = (padded.logsumexp(2) + gumbel(keys_N2, 0, padded.shape[1])).argmax(1)
    chosen = padded.gather(1, block[:, None, None].expand(-1, 1, BLOCK))[:, 0]
    return block * BLOCK + (chosen + gumbel(keys_N2, block[:, None] * BLOCK + WITHIN, BLOCK)).argmax(1)


def random_tokens(keys_B2: Tensor, step_B: Tensor, stream: int, length: int, vocab_size: int) -> Tensor:
    """Uniform tokens int64 [batch, length]."""
    keys = position_keys(keys_B2, step_B, stream, length).reshape(-1, 2)
    drawn = (uniform(keys, 0, 1)[:, 0].double() * vocab_size).long()
    return drawn.clamp_(max=vocab_size - 1).view(-1, length)
