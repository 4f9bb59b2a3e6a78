"""The tile step of the vocabulary head for CUDA: one Triton kernel between its two matrix products.

A program of the kernel takes one row of the tile. Its 8,192 float32 are 32 KB of the 256 KB of registers that a
multiprocessor of an H100 has. So the program knows the maximum before it computes anything else, and reads the logits
from memory once. It writes the weights for the second product over them. Import this module only where triton is
installed.

Its speed has not been measured, so it runs only where `model.head=triton` asks for it. The tests run it in Triton's
interpreter and compile it for an H100.
"""

# The arguments of a kernel are pointers and scalars of Triton's own types, so they have no annotations.
# mypy: allow-untyped-defs, allow-incomplete-defs

from __future__ import annotations

import subprocess

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.errors import TritonError
from triton.language.extra import libdevice

from pipeline.model.denoise import noise, vocabulary_head
from pipeline.model.denoise.vocabulary_head import State

BLOCK = noise.BLOCK
WARPS = 16  # compiled for an H100: 54 to 64 registers per thread, none spilled. 8 warps: 113 to 128, 4: up to 255
SOFT_CHUNK = 1024  # elements of `soft` that a program multiplies at once
# What Triton raises where it cannot compile: its own errors, or those of a C compiler or assembler, failing or missing.
ERRORS: tuple[type[Exception], ...] = (TritonError, ImportError, OSError, RuntimeError, subprocess.SubprocessError)


def tile_step(
    state: State,
    hidden_NH: Tensor,
    weight_TH: Tensor,
    offset: Tensor,
    inverse_N1: Tensor,
    keys_N2: Tensor,
    softcap: float,
    raw: bool,
) -> State:
    """Like `vocabulary_head.tile_step`, but it writes its result into the tensors of `state`."""
    width, hidden = weight_TH.shape
    logits = hidden_NH @ weight_TH.T
    one_row[(len(logits),)](
        logits,
        offset,
        inverse_N1.contiguous(),
        keys_N2.contiguous(),
        *state,
        width,
        hidden,
        softcap,
        RAW=raw,
        BLOCKS=triton.next_power_of_2(triton.cdiv(width, BLOCK)),
        BLOCK=BLOCK,
        PADDING=vocabulary_head.PADDING,
        CHUNK=SOFT_CHUNK,
        num_warps=WARPS,
    )
    if logits.dtype == torch.float32:
        state.soft.addmm_(logits, weight_TH)
    else:
        state.soft.add_(logits @ weight_TH)
    return state


@triton.jit
def one_row(
    logits_ptr,  # [N, width], then the weights e^z
    offset_ptr,  # int64, one
    inverse_ptr,  # float32 [N]
    keys_ptr,  # int32 [N, 2]
    top_ptr,  # from here on State, in its order
    argmax_ptr,
    mass_ptr,
    mass_z_ptr,
    raw_ptr,
    raw_l_ptr,
    soft_ptr,
    best_ptr,
    block_ptr,
    block_z_ptr,
    width,
    hidden,
    softcap,
    RAW: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
    PADDING: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """One row of a tile as [blocks, BLOCK], filled up to a power of two blocks with entries of weight 0.

    NaN: maxima skip it and comparisons with it are false, so indices stay in range; sums become NaN.
    """
    row = tl.program_id(0).to(tl.int64)
    number = tl.arange(0, BLOCKS)
    index = number[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    at, inside = logits_ptr + row * width + index, index < width
    logits = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    logits = tl.where(inside, libdevice.tanh(logits / softcap) * softcap, PADDING)

    old_top = tl.load(top_ptr + row)
    tile_top = tl.max(tl.max(logits, axis=1), axis=0)
    top = tl.maximum(old_top, tile_top)
    shift = tl.where(old_top == float("-inf"), 0.0, old_top - top)  # <= 0: older sums shrink by it
    offset = tl.load(offset_ptr)
    if tile_top > old_top:
        tl.store(top_ptr + row, tile_top)
        tl.store(argmax_ptr + row, offset + _first(logits == tile_top, index, BLOCKS * BLOCK))
    below = logits - top
    if RAW:
        _carry(raw_ptr + row, raw_l_ptr + row, shift, _sum(tl.exp(below)), _sum(tl.exp(below) * below))

    inverse = tl.load(inverse_ptr + row)
    z = below * inverse
    weights = tl.exp(z)
    block_mass = tl.sum(weights, axis=1)
    shift = shift * inverse
    _carry(mass_ptr + row, mass_z_ptr + row, shift, tl.sum(block_mass, axis=0), _sum(weights * z))
    tl.store(at, weights.to(logits_ptr.dtype.element_ty), mask=inside)
    if shift != 0.0:  # the maximum rose (mostly in the first tiles), or it is NaN
        _rescale_soft(soft_ptr + row * hidden, tl.exp(shift), hidden, CHUNK)

    first = (offset // BLOCK).to(tl.int32)
    score = tl.log(block_mass) + top * inverse + _gumbel(keys_ptr + 2 * row, first + number)
    _keep_best(best_ptr + row, block_ptr + row, block_z_ptr + row * BLOCK, score, z, first, BLOCKS, BLOCK)


@triton.jit
def _first(wanted, index, END: tl.constexpr):
    """The lowest index that is wanted, END where none is."""
    return tl.min(tl.min(tl.where(wanted, index, END), axis=1), axis=0)


@triton.jit
def _rescale_soft(soft_ptr, factor, hidden, CHUNK: tl.constexpr):
    """Multiply a row of `soft`, CHUNK elements at a time."""
    for start in range(0, hidden, CHUNK):
        column = start + tl.arange(0, CHUNK)
        soft = tl.load(soft_ptr + column, mask=column < hidden)
        tl.store(soft_ptr + column, soft * factor, mask=column < hidden)


@triton.jit
def _keep_best(best_ptr, block_ptr, block_z_ptr, score, z, first, BLOCKS: tl.constexpr, BLOCK: tl.constexpr):
    """Store the block with the highest score and its z, where it is better than those of the tiles before."""
    number = tl.arange(0, BLOCKS)
    best = tl.max(score, axis=0)
    if best > tl.load(best_ptr):
        block = tl.min(tl.where(score == best, number, BLOCKS), axis=0)
        tl.store(best_ptr, best)
        tl.store(block_ptr, (first + block).to(tl.int64))
        tl.store(block_z_ptr + tl.arange(0, BLOCK), tl.sum(tl.where(number[:, None] == block, z, 0.0), axis=0))


@triton.jit
def _sum(values):
    """The sum of a tile's row."""
    return tl.sum(tl.sum(values, axis=1), axis=0)


@triton.jit
def _carry(mass_ptr, weighted_ptr, shift, tile_mass, tile_weighted):
    """Bring the sums so far to a maximum that is higher by -shift, and add those of the tile."""
    mass, factor = tl.load(mass_ptr), tl.exp(shift)
    tl.store(mass_ptr, mass * factor + tile_mass)
    tl.store(weighted_ptr, (tl.load(weighted_ptr) + shift * mass) * factor + tile_weighted)


@triton.jit
def _mix(x):
    """The same bits as `noise._mix`: unsigned shifts are logical, and -0x7B935975 is 0x846CA68B modulo 2^32."""
    x = tl.mul(x ^ (x >> 16), 0x7FEB352D, sanitize_overflow=False)
    x = tl.mul(x ^ (x >> 15), 0x846CA68B, sanitize_overflow=False)
    return x ^ (x >> 16)


@triton.jit
def _gumbel(keys_ptr, counter):
    """`noise.gumbel` of a row for int32 counters. keys_ptr: the row's two keys."""
    first = tl.load(keys_ptr).to(tl.uint32, bitcast=True)
    second = tl.load(keys_ptr + 1).to(tl.uint32, bitcast=True)
    bits = _mix(tl.add(_mix(counter.to(tl.uint32, bitcast=True) ^ first), second, sanitize_overflow=False))
    uniform = ((bits >> 9).to(tl.float32) + 0.5) * 1.1920928955078125e-07  # 2^-23
    return -tl.log(-tl.log(uniform))
