"""Settings of `infra.tiny.train`: what is synthesised, how large the model is, how long each phase trains."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from pipeline.config import Section
from pipeline.model.new_model import SizeSection
from pipeline.training.schedule import TrainingSteps


class CorpusSection(Section):
    """Synthesised speech and its feature cache."""

    train_per_language: int = Field(5000, ge=1, description="utterances to train on")
    evaluation_per_language: int = Field(60, ge=1, description="utterances of held-out voices and phrases")
    evaluation_seed: int | None = Field(None, ge=0, description="of the held-out utterances; null: `seed`")
    short_share: float = Field(0.0, ge=0, le=1, description="of the training utterances: one word of one syllable")
    workers: int = Field(2, ge=1, description="processes that synthesise")


class PhaseSection(TrainingSteps):
    """Steps per phase, and what differs from an adapter's training. One cosine over all phases."""

    ctc_steps: int = Field(2000, ge=0, description="first phase: the projector alone")
    autoregressive_steps: int = Field(1000, ge=0, description="second phase: next tokens, on the same backbone")
    diffusion_steps: int = Field(6000, ge=0, description="third phase: uniform diffusion")
    batch: int = Field(64, ge=1, description="utterances of a step")
    lr: float = Field(1.5e-3, gt=0, description="highest learning rate")
    lr_end_fraction: float = Field(0.05, ge=0, le=1, description="of it, at the end of the cosine")
    warmup_steps: int = Field(100, ge=0, description="over which the learning rate rises")
    weight_decay: float = Field(0.05, ge=0, description="of matrices")
    beta2: float = Field(0.98, gt=0, lt=1, description="decay of AdamW's second moment; that of the first is 0.9")
    ema: float = Field(0.998, ge=0, lt=1, description="decay of the moving average of the weights, which is exported")
    trained: Literal["all", "projector"] = Field("all", description="the projector alone, or the backbone too")
    teacher_weight: float = Field(
        0.0, ge=0, le=1, description="of the distribution of `start` as it is, beside the true token; 0: no teacher"
    )
    teacher_sure: float = Field(0.7, gt=0, description="nats: it teaches rows whose text it predicts better than that")
    ctc_consistency: float = Field(
        0.0, ge=0, description="of how far CTC's distributions of two alterations of the same audio are apart"
    )
    checkpoint_steps: int = Field(250, ge=1, description="between checkpoints")
    log_steps: int = Field(50, ge=1, description="between lines of the log")

    @property
    def earlier_steps(self) -> int:
        """Steps before the diffusion phase."""
        return self.ctc_steps + self.autoregressive_steps

    def deciding(self) -> dict[str, Any]:
        """What the weights depend on, by key."""
        tree = self.model_dump(exclude={"checkpoint_steps", "log_steps"})
        return {f"phases.{name}": value for name, value in tree.items()}


class ShareSection(Section):
    """What an earlier model has of the exported weights (arXiv 2109.01903)."""

    of: str = Field(description="tiny, or a fullcanvas/1 directory; its projector may be narrower")
    projector: float = Field(gt=0, lt=1, description="of the projector's weights")
    backbone: float = Field(gt=0, lt=1, description="of the backbone's weights")


class TrainConfig(Section):
    """All settings of `infra.tiny.train`."""

    folder: str = Field("work/train-tiny", description="corpus, features, checkpoints and the log")
    encoder: str = Field("whisper-base", description="the embedded model whose encoder this one has, frozen")
    start: str | None = Field(
        None, description="tiny, or a fullcanvas/1 directory whose weights training starts from; null: random weights"
    )
    teacher: str | None = Field(None, description="a fullcanvas/1 directory that teaches; null: `start` as it is")
    export: str = Field("pipeline/assets/tiny", description="where the finished model goes")
    shares: list[ShareSection] = Field(
        [], description="earlier models in the mean that is exported; the rest is this run"
    )
    retokenise: bool = Field(
        False, description="train a new tokenizer on the corpus; tokens that `start` knows keep their embeddings"
    )
    also: list[str] = Field([], description="folders of earlier runs whose cached features are trained on too")
    seed: int = Field(0, ge=0, description="of phrases, voices, weights, batches and noise")
    threads: int = Field(2, ge=1, description="of torch")
    stage: Literal["all", "corpus", "features", "train", "export"] = Field(
        "all", description="one stage; `all` runs them in this order, each from where it stopped"
    )
    note: str = Field("", description="what else the model card must say of this run")
    corpus: CorpusSection = CorpusSection()
    size: SizeSection = SizeSection()
    phases: PhaseSection = PhaseSection()
