"""A new model of any size, before it has weights: the numbers of its config, and a tokenizer for its texts."""

from __future__ import annotations

import json
from collections.abc import Iterable

from pydantic import Field
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from pipeline.config import LANGUAGES, Section
from pipeline.model.files.layout import AsrConfig, EncoderSpec, ProjectorSpec, PromptSpec, TokensSpec

SPECIAL_TOKENS = ("<pad>", "<eos>", "<bos>", "<unk>", "<|turn>", "<turn|>", "<|audio>", "<|audio|>", "<audio|>")
LANGUAGE_TOKENS = tuple(f"<|{code}|>" for code in ("any", *LANGUAGES))
PAD, EOS, BOS, UNK, TURN, END_TURN, BEGIN_AUDIO, AUDIO, END_AUDIO = range(9)
SPACE = "\u2581"  # stands for the space in front of a word
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


class SizeSection(Section):
    """The numbers of a model."""

    window_seconds: float = Field(5.12, gt=0, le=30, description="of audio that the model takes at once")
    canvas_length: int = Field(16, ge=4, description="tokens")
    vocab_size: int = Field(2048, ge=300, description="tokens at most, bytes and special ones included")
    projector_hidden: int = Field(384, ge=1, description="channels of the projector's convolutions")
    subsample: int = Field(8, ge=1, description="encoder frames per audio slot of the prompt, a power of two")
    hidden: int = Field(192, ge=1, description="width of the backbone")
    layers: int = Field(3, ge=1, description="of the backbone")
    heads: int = Field(4, ge=1, description="query heads")
    kv_heads: int = Field(2, ge=1, description="key and value heads")
    mlp: int = Field(384, ge=1, description="width of the shared feed-forward layer")
    experts: int = Field(2, ge=1, description="of each layer")
    experts_per_token: int = Field(1, ge=1, description="that a token is given to")
    expert_mlp: int = Field(192, ge=1, description="width of an expert")


def asr_config(size: SizeSection, vocab_size: int) -> AsrConfig:
    """The config of a model of this size: the dimensions of whisper-base in front of a DiffusionGemma."""
    head_dim = size.hidden // size.heads
    text = {
        "vocab_size": vocab_size,
        "hidden_size": size.hidden,
        "intermediate_size": size.mlp,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "head_dim": head_dim,
        "global_head_dim": head_dim,
        "num_global_key_value_heads": size.kv_heads,
        "sliding_window": 1024,
        "layer_types": ["sliding_attention"] * (size.layers - 1) + ["full_attention"],
        "num_experts": size.experts,
        "top_k_experts": size.experts_per_token,
        "moe_intermediate_size": size.expert_mlp,
        "max_position_embeddings": 2048,
        "pad_token_id": PAD,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
    }
    vision = {  # transformers insists on an image tower: the smallest possible, never used
        "model_type": "gemma4_vision",
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "patch_size": 2,
        "position_embedding_size": 4,
    }
    image_ids = {"image_token_id": vocab_size + 1, "boi_token_id": vocab_size + 2, "eoi_token_id": vocab_size + 3}
    return AsrConfig(
        format="fullcanvas/1",
        name="tiny",
        window_seconds=size.window_seconds,
        canvas_length=size.canvas_length,
        languages=list(LANGUAGES),
        encoder=EncoderSpec(d_model=512, layers=6, heads=8, ffn=2048),
        projector=ProjectorSpec(hidden=size.projector_hidden, subsample=size.subsample, final_norm=True),
        backbone={"text_config": text, "vision_config": vision, "canvas_length": size.canvas_length, **image_ids},
        prompt=PromptSpec(
            before="<bos><|turn>{language}<|audio>",
            after="<audio|>",
            silence="hidden",
            languages={"": "<|any|>", **{code: f"<|{code}|>" for code in LANGUAGES}},
        ),
        tokens=TokensSpec(pad=PAD, eos=[EOS], audio=AUDIO, ctc_blank=PAD),
    )


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train BPE over spaces-as-letters with byte fallback, as Gemma's tokenizer is. The same texts give the same.

    Special tokens come first, in the order of SPECIAL_TOKENS and LANGUAGE_TOKENS; the 256 bytes come last. The
    vocabulary has at most vocab_size tokens, fewer where the texts have too few pairs to merge.
    """
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always", split=True)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1, right=0),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(BYTES),
        show_progress=False,
        special_tokens=[*SPECIAL_TOKENS, *LANGUAGE_TOKENS],
        max_token_length=24,
    )
    tokenizer.train_from_iterator(sorted(texts), trainer)
    tree = json.loads(tokenizer.to_str())
    vocab = tree["model"]["vocab"]
    for token in BYTES:
        vocab[token] = len(vocab)
    return Tokenizer.from_str(json.dumps(tree))
