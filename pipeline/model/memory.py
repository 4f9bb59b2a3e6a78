"""How much accelerator memory a model with its slots will take, computed before it is loaded."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Any

import torch

from pipeline.config import ConfigError, DenoiseConfig, RunConfig
from pipeline.model.denoise import canvas_policy
from pipeline.model.denoise.compiled import prompt_widths
from pipeline.model.denoise.vocabulary_head import FLOATS, TILES
from pipeline.model.files import checkpoint, hub, layout
from pipeline.model.network import float8, lora
from pipeline.model.number_type import torch_type
from pipeline.model.recogniser import AsrModel

GIB = 2**30
CONTEXT = 3 * GIB // 2  # CUDA context, cuBLAS workspaces, and memory that the allocator loses to fragments
COPIES = 4  # float32 tiles of logits that exist at once in the head: logits, weights, and copies of inductor


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes, by their use."""

    weights: int  # without LoRA
    lora: int  # merged: a second copy of q, k, v and o; in training the adapters themselves
    kv: int  # of the prompts: all slots of all lanes, and two batches that wait for a slot
    canvases: int  # the state of all slots, and what CTC needs of their audio
    activations: int  # of a denoising step or of a prompt pass, whichever takes more; with FP8 also weights made anew
    head: int  # a tile of logits, and soft embeddings
    context: int = CONTEXT

    @property
    def total(self) -> int:
        """All bytes."""
        return int(sum(astuple(self)))

    def __str__(self) -> str:
        parts = ("weights", "lora", "kv", "canvases", "activations", "head", "context")
        named = ", ".join(f"{name} {getattr(self, name) / GIB:.1f}" for name in parts)
        return f"{self.total / GIB:.1f} GiB ({named})"


def estimate(model: AsrModel, denoise: DenoiseConfig, *, slots: int, dtype: torch.dtype, merge: bool = True) -> Memory:
    """What a model takes in `dtype` with `slots` canvases per lane. The model may be on the meta device.

    merge: whether its LoRA, not merged yet, will be (`lora.merge`).
    Weights, LoRA, KV and canvases are exact; activations are counted from the widest tensors of a layer. Weights in FP8
    take one byte and their scales four, whatever `dtype` is.
    """
    size = dtype.itemsize
    text: Any = model.backbone.config.text_config
    lengths = canvas_policy.lengths(denoise.canvas_length, own=model.config.canvas_length)
    hidden, prompt, longest = model.config.hidden_size, model.prompt_length, max(lengths)
    prefill = -(-slots // 4)

    position = widest = 0  # bytes of keys and values per position: of all layers together, of the widest layer
    queries = 0
    for layer in model.backbone.model.decoder.layers:
        attention: Any = layer.self_attn
        own = 2 * attention.k_proj.out_features * size
        position, widest = position + own, max(widest, own)
        queries = max(queries, attention.q_proj.out_features)
    audio = model.config.audio_slots
    stored = sum(prompt_widths(prompt, audio, length, static=False)[-1] for length in lengths)
    widest_prompt = prompt_widths(prompt, audio, 0, static=False)[-1]
    rows = slots * len(lengths) + 2 * prefill
    heard = rows * audio * (hidden * size + 8 + 4)  # audio vectors, best token and log-sum-exp of each slot, for CTC
    state = hidden * size + 4 * 8  # soft embeddings; canvas, argmax, early argmax, first stable step, revisions

    expert = text.top_k_experts * (2 * hidden + 3 * text.moe_intermediate_size)
    token = size * (6 * hidden + 3 * queries + 3 * text.intermediate_size + expert)
    # A layer concatenates the prompt's keys and values with the canvas's, and repeats them per query head.
    repeated = 2 * queries * size + widest
    passes = 1 if denoise.guidance == 1 else 2  # whose final hidden states exist at once
    step = slots * (longest * (token + passes * size * hidden) + (prompt + longest) * repeated)
    prompts = prefill * prompt * (token + repeated)
    tile_rows = min(slots * longest, FLOATS // TILES[1])
    adapters = sum(weight.numel() for weight in lora.state(model.backbone).values())
    fixed = float8.parameters(model)
    weights = [(weight, weight.dtype if id(weight) in fixed else dtype) for weight in model.parameters()]
    return Memory(
        weights=sum(weight.numel() * stored.itemsize for weight, stored in weights) - size * adapters,
        lora=size * (lora.copied(model.backbone) if merge else adapters),
        kv=(slots * stored + 2 * prefill * widest_prompt) * position,
        canvases=slots * sum(lengths) * state + heard,
        activations=max(step, prompts) + float8.unpacked_bytes(model, dtype),
        head=COPIES * 4 * FLOATS + 2 * 4 * tile_rows * hidden + slots * longest * hidden * size,
    )


def beforehand(config: RunConfig) -> Memory:
    """What a replica of a run will take. Reads the model's config, tokenizer and names of weights, but no weights.

    Raises ConfigError where a file is missing or does not fit.
    """
    name, revision = config.model.name, config.model.revision
    device, dtype = config.model.device, torch_type(config.model.dtype, config.model.device)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    folder = layout.directory(name, revision)
    spec = layout.read_config(folder)
    files = hub.locate(folder, spec.hub, revision)
    model = checkpoint.outline(folder, spec, files, device=device, dtype=dtype, fp8=config.model.weights == "fp8")
    return estimate(model, config.denoise, slots=config.compute.canvases, dtype=dtype)


def require(needed: Memory, free: int, *, slots: int, fp8: bool = True) -> None:
    """Raises ConfigError where `free` bytes are not enough. It says what takes how much, and what to change.

    fp8: whether the job has model.weights.
    """
    if needed.total <= free:
        return
    fixed = needed.weights + needed.lora + needed.context
    per_slot = max(1, needed.total - fixed - needed.head) / slots
    fit = int((free - fixed - needed.head) // per_slot)
    no_fit = "no number of canvases fits: a larger GPU, model.dtype=bfloat16" + (" or model.weights=fp8" if fp8 else "")
    advice = f"compute.canvases={fit} would fit" if fit >= 1 else no_fit
    raise ConfigError(
        f"compute.canvases: {slots} canvases need {needed} of GPU memory, and {free / GIB:.1f} GiB are free: {advice}"
    )
