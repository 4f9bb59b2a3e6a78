"""Settings of `jobs.train`: what is synthesised, the size of the model, the phases of training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.config import LANGUAGES, Section
from pipeline.model.files.layout import AsrConfig, EncoderSpec, ProjectorSpec, PromptSpec, TokensSpec

SPECIAL_TOKENS = ("<pad>", "<eos>", "<bos>", "<unk>", "<|turn>", "<turn|>", "<|audio>", "<|audio|>", "<audio|>")
LANGUAGE_TOKENS = tuple(f"<|{code}|>" for code in ("any", *LANGUAGES))
PAD, EOS, BOS, UNK, TURN, END_TURN, BEGIN_AUDIO, AUDIO, END_AUDIO = range(9)


class CorpusSection(Section):
    """Synthesised speech and its feature cache."""

    train_per_language: int = Field(5000, ge=1, description="utterances to train on")
    evaluation_per_language: int = Field(60, ge=1, description="utterances of kept voices and phrases")
    workers: int = Field(2, ge=1, description="processes that synthesise")


class SizeSection(Section):
    """The model's numbers."""

    window_seconds: float = Field(5.12, gt=0, le=30, description="of audio that it hears at once")
    canvas_length: int = Field(16, ge=4, description="tokens")
    vocab_size: int = Field(2048, ge=300, description="tokens at most, bytes and special ones included")
    projector_hidden: int = Field(192, ge=1, description="channels of the projector's convolutions")
    subsample: int = Field(8, ge=1, description="encoder frames per audio slot of the prompt, a power of two")
    hidden: int = Field(192, ge=1, description="width of the backbone")
    layers: int = Field(3, ge=1, description="of the backbone")
    heads: int = Field(4, ge=1, description="query heads")
    kv_heads: int = Field(2, ge=1, description="key and value heads")
    mlp: int = Field(384, ge=1, description="width of the shared feed-forward layer")
    experts: int = Field(2, ge=1, description="of each layer")
    experts_per_token: int = Field(1, ge=1, description="that a token is given to")
    expert_mlp: int = Field(192, ge=1, description="width of an expert")


class PhaseSection(Section):
    """Steps per phase and the optimiser. One cosine over all phases, to `lr_end_fraction` of `lr`."""

    ctc_steps: int = Field(2000, ge=0, description="first phase: the projector alone")
    autoregressive_steps: int = Field(1000, ge=0, description="second phase: next tokens, on the same backbone")
    diffusion_steps: int = Field(6000, ge=0, description="third phase: uniform diffusion")
    batch: int = Field(64, ge=1, description="utterances of a step")
    draws: int = Field(2, ge=1, description="noise draws per prompt pass")
    lr: float = Field(1.5e-3, gt=0, description="highest learning rate")
    lr_end_fraction: float = Field(0.05, ge=0, le=1, description="of it, at the end of the cosine")
    warmup_steps: int = Field(100, ge=0, description="over which the learning rate rises")
    weight_decay: float = Field(0.05, ge=0, description="of matrices")
    ctc_weight: float = Field(0.3, ge=0, description="of the CTC loss after its phase")
    autoregressive_weight: float = Field(0.3, ge=0, description="of the autoregressive loss after its phase")
    all_noise_share: float = Field(0.35, ge=0, le=1, description="examples at t = 1, where decoding starts")
    self_conditioning_share: float = Field(0.5, ge=0, le=1, description="examples with two passes")
    eos_weight: float = Field(0.2, ge=0, le=1, description="weight of the fill after the first end token")
    language_dropout: float = Field(0.15, ge=0, le=1, description="prompts that do not name the language")
    ema: float = Field(0.998, ge=0, lt=1, description="decay of the moving average of the weights, which is exported")
    checkpoint_steps: int = Field(250, ge=1, description="between checkpoints")
    log_steps: int = Field(50, ge=1, description="between lines of the log")


class TrainConfig(Section):
    """The whole of `jobs.train`."""

    folder: str = Field("work/train-tiny", description="corpus, features, checkpoints and the log")
    encoder: str = Field(
        "pipeline/assets/tiny/encoder.safetensors", description="frozen Whisper encoder weights (30 s positions)"
    )
    start: str | None = Field(
        None, description="tiny or a fullcanvas/1 directory whose weights training starts from; null: from random ones"
    )
    export: str = Field("pipeline/assets/tiny", description="where the finished model goes")
    retokenise: bool = Field(
        False, description="train a new tokenizer on the corpus; tokens that `start` knows keep their embeddings"
    )
    also: list[str] = Field([], description="folders of earlier runs whose cached features are trained on as well")
    seed: int = Field(0, ge=0, description="of phrases, voices, weights, batches and noise")
    threads: int = Field(2, ge=1, description="of torch")
    stage: Literal["all", "corpus", "features", "train", "export"] = Field(
        "all", description="one stage only; `all` runs them in this order, each from where it stopped"
    )
    note: str = Field("", description="what else the model card must say of this run")
    corpus: CorpusSection = CorpusSection()
    size: SizeSection = SizeSection()
    phases: PhaseSection = PhaseSection()


def asr_config(size: SizeSection, vocab_size: int) -> AsrConfig:
    """The checkpoint config of an embedded model: whisper-base dimensions in front of a small DiffusionGemma."""
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
            after="<audio|><turn|><|turn>",
            languages={"": "<|any|>", **{code: f"<|{code}|>" for code in LANGUAGES}},
        ),
        tokens=TokensSpec(pad=PAD, eos=[EOS], audio=AUDIO, ctc_blank=PAD),
    )
