"""The Triton kernel in Triton's interpreter gives what the torch version gives; its code compiles for an H100."""

from __future__ import annotations

import re
import subprocess
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.config import DenoiseConfig
from pipeline.model.denoise import noise
from pipeline.model.denoise.compiled import Calls
from pipeline.model.denoise.lane import Lane, Prepared
from pipeline.model.denoise.signals import FinalCanvas
from pipeline.model.denoise.vocabulary_head import HeadOutput, State, run_head, start_state, tile_step
from pipeline.model.network import backbone
from tests.support.small_model import random_model
from tests.support.triton_process import TIMEOUT

pytestmark = TIMEOUT
CAP = 30.0


def keys_of(rows: int, seed: int) -> Tensor:
    keys = torch.tensor([noise.row_keys("segment", seed)], dtype=torch.int32)
    return noise.position_keys(keys, torch.zeros(1, dtype=torch.int32), noise.SAMPLE, rows)[0]


def head_there(arguments: dict[str, Any]) -> HeadOutput:
    from pipeline.model.denoise import vocabulary_head_triton as fused

    return run_head(**arguments, step=fused.tile_step)


def steps_there(arguments: list[tuple[Any, ...]], state: State) -> list[State]:
    from pipeline.model.denoise import vocabulary_head_triton as fused

    states = []
    for after in arguments:
        state = fused.tile_step(state, *after)
        states.append(State(*(tensor.clone() for tensor in state)))
    return states


def inputs(
    seed: int, rows: int, vocab: int, size: int, *, scale: float = 1.0, dtype: torch.dtype = torch.float32
) -> dict[str, Any]:
    """Arguments of the head from a seed. Hidden states and weights are multiples of 1/16, so no product is rounded."""
    generator = torch.Generator().manual_seed(seed)
    hidden, weight = ((torch.randn(n, size, generator=generator).clamp(-4, 4) * 16).round() / 16 for n in (rows, vocab))
    temperature = 0.05 + 2 * torch.rand(rows, generator=generator)
    return {
        "hidden_NH": (hidden * scale).to(dtype),
        "weight_VH": weight.to(dtype),
        "softcap": CAP,
        "temperature_N": temperature,
        "keys_N2": keys_of(rows, seed),
    }


@settings(derandomize=True, deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(1, 6),
    vocab=st.integers(1, 500),
    size=st.integers(1, 16),
    tile=st.one_of(st.none(), st.integers(1, 600)),
    scale=st.sampled_from([0.0, 2.0**-7, 1.0, 8.0, 1024.0]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    raw=st.booleans(),
)
@example(seed=0, rows=6, vocab=500, size=16, tile=None, scale=1024.0, dtype=torch.float32, raw=True)
@example(seed=1, rows=6, vocab=450, size=16, tile=64, scale=8.0, dtype=torch.float32, raw=False)
@example(seed=2, rows=6, vocab=321, size=16, tile=128, scale=1.0, dtype=torch.bfloat16, raw=True)
@example(seed=3, rows=6, vocab=1, size=4, tile=None, scale=1.0, dtype=torch.float32, raw=True)
def test_equals_the_torch_version(
    interpreter: ProcessPoolExecutor,
    seed: int,
    rows: int,
    vocab: int,
    size: int,
    tile: int | None,
    scale: float,
    dtype: torch.dtype,
    raw: bool,
) -> None:
    """At a scale of 1,024 most logits are at the softcap, where many tokens tie."""
    arguments = inputs(seed, rows, vocab, size, scale=scale, dtype=dtype) | {"tile": tile, "raw": raw}
    expected = run_head(**arguments)
    out = interpreter.submit(head_there, arguments).result()
    assert torch.equal(out.argmax, expected.argmax)
    assert torch.equal(out.sample, expected.sample)
    for name in ("entropy", "entropy_raw", "probability"):
        ours, theirs = getattr(out, name), getattr(expected, name)
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0, equal_nan=not raw, msg=name)
    close = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 0.02, "rtol": 0.02}
    torch.testing.assert_close(out.soft, expected.soft, **close)


@pytest.mark.parametrize("raw", [True, False])
def test_carries_the_same_state_from_tile_to_tile(interpreter: ProcessPoolExecutor, raw: bool) -> None:
    """Tiles of 192, 192 and 77: the maximum rises in some rows, and the last tile does not fill its last block."""
    given = inputs(5, 20, 461, 12)
    hidden, weight = given["hidden_NH"], given["weight_VH"]
    after = [
        (hidden, part, torch.tensor(start), 1 / given["temperature_N"][:, None], given["keys_N2"], CAP, raw)
        for start, part in zip((0, 192, 384), weight.split(192), strict=True)
    ]
    found = interpreter.submit(steps_there, after, start_state(20, hidden)).result()
    state = start_state(20, hidden)
    for arguments, ours in zip(after, found, strict=True):
        top = state.top
        state = tile_step(state, *arguments)
        for name in ("top", "argmax", "block"):
            assert torch.equal(getattr(ours, name), getattr(state, name)), name
        for name in ("mass", "mass_z", "raw", "raw_l", "soft", "best", "block_z"):
            torch.testing.assert_close(getattr(ours, name), getattr(state, name), atol=1e-5, rtol=1e-5, msg=name)
    assert 0 < int((state.top > top).sum()) < 20  # of the last tile: some rows were rescaled, some were not


def test_a_row_of_nan_has_nan_entropy_and_touches_no_other(interpreter: ProcessPoolExecutor) -> None:
    arguments = inputs(11, 5, 300, 8) | {"tile": 128}
    clean = interpreter.submit(head_there, arguments).result()
    broken = arguments | {"hidden_NH": arguments["hidden_NH"].clone()}
    broken["hidden_NH"][2, 3] = torch.nan  # all its logits
    found = interpreter.submit(head_there, broken).result()
    assert bool(found.entropy[2].isnan())
    assert bool(found.entropy_raw[2].isnan())
    assert 0 <= int(found.sample[2]) < 300
    others = [0, 1, 3, 4]
    for name in HeadOutput._fields:
        assert torch.equal(getattr(found, name)[others], getattr(clean, name)[others]), name


@pytest.mark.parametrize("at", [0, 150, 299], ids=["first tile", "a middle tile", "last tile"])
def test_one_nan_logit_is_enough(interpreter: ProcessPoolExecutor, at: int) -> None:
    arguments = inputs(12, 3, 300, 8) | {"tile": 64}
    arguments["weight_VH"][at] = torch.nan
    found = interpreter.submit(head_there, arguments).result()
    assert bool(found.entropy.isnan().all())
    assert bool(found.entropy_raw.isnan().all())
    assert bool(((found.sample >= 0) & (found.sample < 300) & (found.argmax >= 0) & (found.argmax < 300)).all())


def lane_of(calls: Calls) -> list[FinalCanvas | None]:
    """Canvases of three segments in two slots of a small model."""
    model = random_model(3, spread=2.0, peaked=30.0, canvas_length=8)
    tokens = torch.randint(20, 400, (3, model.prompt_length), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        kv, _ = backbone.prefill(model.backbone, backbone.embed(model.backbone, tokens))
    denoise = DenoiseConfig(max_steps=4, entropy_bound=2.0)
    lane = Lane(model, slots=2, canvas_length=8, denoise=denoise, calls=calls)
    waiting, found = [Prepared(row, noise.row_keys(str(row), 0), kv, row) for row in range(3)], {}
    while waiting or lane.active:
        while waiting and lane.free:
            lane.admit(waiting.pop())
        found |= {done.job: done.canvas for done in lane.denoise_once()}
    return [found[row] for row in range(3)]


def lane_there() -> list[FinalCanvas | None]:
    from pipeline.model.denoise import vocabulary_head_triton as fused

    return lane_of(replace(Calls.make(compile=False), tile_step=fused.tile_step))


def test_segments_get_the_same_canvases(interpreter: ProcessPoolExecutor) -> None:
    found = interpreter.submit(lane_there).result()
    expected = lane_of(Calls.make(compile=False))
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.tokens, ours.steps, ours.revisions) == (theirs.tokens, theirs.steps, theirs.revisions)
        assert ours.probability == pytest.approx(theirs.probability, abs=1e-4)
        assert ours.entropy == pytest.approx(theirs.entropy, rel=1e-4, abs=1e-4)
    assert any(sum(canvas.revisions) for canvas in expected)  # something was decided more than once


def resources_there(dtype: str, raw: bool, cubin: str) -> tuple[str, str]:
    """The output of `cuobjdump` for the kernel on a tile of 8,192 for an H100 (compute capability 9.0), and its PTX."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from pipeline.model.denoise import vocabulary_head_triton as fused

    fixed = {"RAW": raw, "BLOCKS": 128, "BLOCK": noise.BLOCK, "PADDING": -1e30, "CHUNK": fused.SOFT_CHUNK}
    types = dict.fromkeys(fused.one_row.arg_names, "*fp32") | dict.fromkeys(fixed, "constexpr")
    types |= {"logits_ptr": f"*{dtype}", "keys_ptr": "*i32", "width": "i32", "hidden": "i32", "softcap": "fp32"}
    types |= dict.fromkeys(("offset_ptr", "argmax_ptr", "block_ptr"), "*i64")
    aligned = {
        (i,): [["tt.divisibility", 16]] for i, kind in enumerate(types.values()) if kind not in ("constexpr", "fp32")
    }
    source = ASTSource(fused.one_row, types, constexprs=fixed, attrs=aligned)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": fused.WARPS})
    Path(cubin).write_bytes(made.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    said = subprocess.run([tool, "-res-usage", cubin], capture_output=True, text=True, check=True)
    return said.stdout, made.asm["ptx"]


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_compiles_for_an_h100_within_its_registers_and_with_the_precise_functions(
    compiler: ProcessPoolExecutor, dtype: str, raw: bool, tmp_path: Path
) -> None:
    usage, ptx = compiler.submit(resources_there, dtype, raw, str(tmp_path / "kernel.cubin")).result()
    assert re.search(r"STACK:0\b.*LOCAL:0\b", usage), usage  # nothing is spilled to memory
    assert int(re.search(r"REG:(\d+)", usage)[1]) <= 64, usage  # two programs of 512 threads on a multiprocessor
    assert ".target sm_90" in ptx
    assert "tanh.approx" not in ptx  # 11 bits
    assert "lg2.approx" not in ptx  # the tail of the Gumbel noise is log of numbers next to 1
