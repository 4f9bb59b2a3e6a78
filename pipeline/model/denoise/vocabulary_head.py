"""Everything that a denoising step needs of the vocabulary, in one pass over tiles. The whole logits never exist.

The tile step here is the reference and all that a CPU runs. On CUDA the engine takes it too, through torch.compile
where `model.compile=true`; with `model.head=triton` it takes the Triton kernel of `vocabulary_head_triton` instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.model.denoise import noise

# Logits that exist at once, [rows, tile]: 1 MB of them on a CPU, which stays in its second-level cache; else 128 MB.
CPU_FLOATS, FLOATS = 2**18, 2**25
CPU_TILES, TILES = (256, 8192), (8192, 8192)  # vocabulary entries of the narrowest and the widest tile
ALIGNED = 2  # int64s per offset of a tile, so that each starts at a multiple of 16 bytes, as compiled code wants
PADDING = -1e30  # logit of the entries that fill the last block. Their weight is 0, and 0 * PADDING is 0, not NaN


class HeadOutput(NamedTuple):
    """The result per position, N in all. T is the position's temperature."""

    argmax: Tensor  # int64 [N]
    sample: Tensor  # int64 [N], from softmax(logits / T) by Gumbel-max
    entropy: Tensor  # float32 [N], nats, of softmax(logits / T)
    probability: Tensor  # float32 [N], of the argmax at T = 1; NaN where `raw` was False
    entropy_raw: Tensor  # float32 [N], nats, at T = 1; NaN where `raw` was False
    soft: Tensor  # [N, hidden], softmax(logits / T) @ embeddings, in the weights' dtype


class State(NamedTuple):
    """What the pass carries from tile to tile. The sums are relative to `top`, the maximum so far."""

    top: Tensor  # [N], maximum of the logits
    argmax: Tensor
    mass: Tensor  # sum of e^z, z = (logit - top) / T
    mass_z: Tensor  # sum of e^z z
    raw: Tensor  # the same two sums at T = 1
    raw_l: Tensor
    soft: Tensor  # [N, hidden], sum of e^z embedding
    best: Tensor  # [N], maximum over blocks of log(mass of the block) + gumbel
    block: Tensor  # int64 [N], the block with that maximum
    block_z: Tensor  # [N, BLOCK], the logits / T of that block, up to a constant


class Guide(NamedTuple):
    """Classifier-free guidance: logits become without + weight x (logits - without), after the softcap."""

    hidden: Tensor  # [N, hidden], final hidden states of a pass that does not see the audio
    weight: float


TileStep = Callable[..., State]
Settle = Callable[..., HeadOutput]


def run_head(
    hidden_NH: Tensor,
    weight_VH: Tensor,
    *,
    softcap: float,
    temperature_N: Tensor,
    keys_N2: Tensor,
    tile: int | None = None,
    raw: bool = True,
    guide: Guide | None = None,
    step: TileStep | None = None,
    settle: Settle | None = None,
) -> HeadOutput:
    """Softcap, temperature, entropy, argmax, sample, T = 1 probability and soft embeddings of N positions.

    An online softmax (arXiv 1805.02867) over tiles of the vocabulary, for as many positions at a time as `rows_at_once`
    says. So the memory grows with neither the batch nor the vocabulary, except for the outputs. It equals the dense
    computation: the argmax exactly, entropies to 1e-4. A position with NaN logits has a NaN entropy. The sample is
    `noise.sample` of the dense logits, so it depends neither on the tile nor on other positions.

    hidden_NH: final hidden states. weight_VH: the embeddings. temperature_N: T. keys_N2: int32 of
    `noise.position_keys`. tile: vocabulary entries, rounded up to whole blocks; None: as many as the bound allows. raw:
    compute the T = 1 outputs. guide: classifier-free guidance. step, settle: compiled versions of `tile_step` and
    `settle_rows`.
    """
    n, vocab = hidden_NH.shape[0], weight_VH.shape[0]
    width = whole_blocks(min(vocab, tile or default_tile(n, hidden_NH.device)))
    inverse_N1 = 1.0 / temperature_N.float()[:, None]
    offsets = torch.arange(0, vocab, width, device=hidden_NH.device)[:, None].repeat(1, ALIGNED)
    calls = step or tile_step, settle or settle_rows
    at_once = rows_at_once(n, width, hidden_NH.device)
    parts = [
        _rows(
            hidden,
            weight_VH,
            offsets[:, 0],
            width,
            inverse,
            keys,
            softcap,
            raw,
            guide and Guide(other, guide.weight),
            *calls,
        )
        for hidden, inverse, keys, other in zip(
            *(rows.split(at_once) for rows in (hidden_NH, inverse_N1, keys_N2, guide.hidden if guide else hidden_NH)),
            strict=True,
        )
    ]
    return parts[0] if len(parts) == 1 else HeadOutput(*(torch.cat(outputs) for outputs in zip(*parts, strict=True)))


def _rows(
    hidden_NH: Tensor,
    weight_VH: Tensor,
    offsets: Tensor,
    width: int,
    inverse_N1: Tensor,
    keys_N2: Tensor,
    softcap: float,
    raw: bool,
    guide: Guide | None,
    step: TileStep,
    settle: Settle,
) -> HeadOutput:
    """The pass over the vocabulary for rows that are computed together.

    offsets: int64 tensor on the device, the first vocabulary entry of each tile. Ints would be compiled for each tile
    again, and a copy from the host would make the device wait.
    """
    state = start_state(hidden_NH.shape[0], hidden_NH)
    guided = () if guide is None else (guide,)
    for offset, weight in zip(offsets, weight_VH.split(width), strict=True):
        state = step(state, hidden_NH, weight, offset, inverse_N1, keys_N2, softcap, raw, *guided)
    return settle(state, keys_N2, weight_VH.shape[0], weight_VH.dtype, raw)


def settle_rows(state: State, keys_N2: Tensor, vocab: int, dtype: torch.dtype, raw: bool) -> HeadOutput:
    """The head's output from the sums of a whole pass. dtype: of `soft`."""
    inner = noise.gumbel(keys_N2, state.block[:, None] * noise.BLOCK + noise.WITHIN, noise.BLOCK)
    sample = state.block * noise.BLOCK + (state.block_z + inner).argmax(1)
    return HeadOutput(
        argmax=state.argmax,
        sample=sample.clamp_(max=vocab - 1),  # only a row of NaN exceeds it
        entropy=state.mass.log() - state.mass_z / state.mass,
        probability=1.0 / state.raw if raw else torch.full_like(state.raw, torch.nan),
        entropy_raw=state.raw.log() - state.raw_l / state.raw if raw else torch.full_like(state.raw, torch.nan),
        soft=(state.soft / state.mass[:, None]).to(dtype),
    )


def tile_step(
    state: State,
    hidden_NH: Tensor,
    weight_TH: Tensor,
    offset: Tensor,
    inverse_N1: Tensor,
    keys_N2: Tensor,
    softcap: float,
    raw: bool,
    guide: Guide | None = None,
) -> State:
    """One tile of the pass.

    hidden_NH: final hidden states. weight_TH: embeddings of the tile. offset: int64 scalar, the tile's first vocabulary
    entry, a multiple of the block. inverse_N1: float32, 1 / T. raw: carry the sums at T = 1 too. guide: guidance.
    """
    n, width = hidden_NH.shape[0], weight_TH.shape[0]
    logits = _logits(hidden_NH, weight_TH, softcap, guide)
    blocks = logits.view(n, -1, noise.BLOCK)
    tile_top, top_block = blocks.amax(2).max(1)
    inside = blocks.gather(1, top_block[:, None, None].expand(-1, 1, noise.BLOCK))[:, 0].argmax(1)
    argmax = torch.where(tile_top > state.top, offset + top_block * noise.BLOCK + inside, state.argmax)
    top = torch.maximum(state.top, tile_top)

    shift = torch.where(state.top.isinf(), torch.zeros_like(top), state.top - top)  # <= 0: older sums shrink by it
    raw_mass, raw_l = state.raw, state.raw_l
    below = logits.sub_(top[:, None])
    if raw:
        raw_mass, raw_l = _rescale(raw_mass, raw_l, shift)
        weights = below.exp()
        raw_mass, raw_l = raw_mass + weights.sum(1), raw_l + weights.mul_(below).sum(1)
    z = below.mul_(inverse_N1)
    weights = z.exp()
    block_mass = weights.view(n, -1, noise.BLOCK).sum(2)
    shift = shift * inverse_N1[:, 0]
    mass, mass_z = _rescale(state.mass, state.mass_z, shift)
    scaled = weights[:, :width].to(weight_TH.dtype)
    if scaled.dtype == torch.float32:
        soft = (state.soft * shift.exp()[:, None]).addmm_(scaled, weight_TH)
    else:
        soft = state.soft * shift.exp()[:, None] + (scaled @ weight_TH).float()

    first = offset // noise.BLOCK
    score = block_mass.log() + top[:, None] * inverse_N1 + noise.gumbel(keys_N2, first, block_mass.shape[1])
    tile_best, tile_block = score.max(1)
    tile_z = z.view(n, -1, noise.BLOCK).gather(1, tile_block[:, None, None].expand(-1, 1, noise.BLOCK))[:, 0]
    better = tile_best > state.best
    return State(
        top=top,
        argmax=argmax,
        mass=mass + block_mass.sum(1),
        mass_z=mass_z + weights.mul_(z).sum(1),
        raw=raw_mass,
        raw_l=raw_l,
        soft=soft,
        best=torch.maximum(state.best, tile_best),
        block=torch.where(better, tile_block + first, state.block),
        block_z=torch.where(better[:, None], tile_z, state.block_z),
    )


def _logits(hidden_NH: Tensor, weight_TH: Tensor, softcap: float, guide: Guide | None) -> Tensor:
    """The logits of a tile after softcap and guidance, float32 [N, tile padded to whole blocks]."""
    width = len(weight_TH)
    logits = (hidden_NH @ weight_TH.T).float().div_(softcap).tanh_().mul_(softcap)
    if guide is not None:
        without = (guide.hidden @ weight_TH.T).float().div_(softcap).tanh_().mul_(softcap)
        logits = logits.sub_(without).mul_(guide.weight).add_(without)
    if width % noise.BLOCK:
        logits = torch.nn.functional.pad(logits, (0, whole_blocks(width) - width), value=PADDING)
    return logits


def default_tile(rows: int, device: torch.device) -> int:
    """Vocabulary entries per tile: as many as the bound on [rows, tile] allows, but at least the narrowest tile."""
    cpu = device.type == "cpu"
    narrowest, widest = CPU_TILES if cpu else TILES
    return max(narrowest, min(widest, (CPU_FLOATS if cpu else FLOATS) // max(rows, 1)))


def rows_at_once(rows: int, tile: int, device: torch.device) -> int:
    """How many rows are computed together: the largest equal share that the bound on [share, tile] allows."""
    most = max(1, (CPU_FLOATS if device.type == "cpu" else FLOATS) // tile)
    shares = max(1, -(-rows // most))
    return -(-rows // shares) if rows else 1


def whole_blocks(width: int) -> int:
    """`width` rounded up to a multiple of the block of the Gumbel noise."""
    return -(-width // noise.BLOCK) * noise.BLOCK


def start_state(n: int, hidden_NH: Tensor) -> State:
    """The state before the first tile. Each field has its own tensor: shared ones would be compiled separately."""
    device, hidden = hidden_NH.device, hidden_NH.shape[1]
    low, best = (torch.full((n,), -torch.inf, device=device) for _ in range(2))
    argmax, block = (torch.zeros(n, dtype=torch.int64, device=device) for _ in range(2))
    mass, mass_z, raw, raw_l = (torch.zeros(n, device=device) for _ in range(4))
    soft, block_z = torch.zeros(n, hidden, device=device), torch.zeros(n, noise.BLOCK, device=device)
    return State(low, argmax, mass, mass_z, raw, raw_l, soft, best, block, block_z)


def _rescale(mass: Tensor, weighted: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """The sums of e^(z - m) and of e^(z - m) (z - m) for a maximum m that is higher by -shift."""
    factor = torch.exp(shift)
    return mass * factor, (weighted + shift * mass) * factor
