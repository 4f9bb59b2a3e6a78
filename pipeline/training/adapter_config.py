"""Settings of `jobs.train`: from which model, on which audio, with which losses, on how many workers."""

from __future__ import annotations

from typing import Any, Literal

import pydantic
from pydantic import Field

from pipeline.config import DenoiseConfig, Misfit, Section, SegmentConfig, SourceConfig, StorageConfig
from pipeline.model.files.layout import LoraSpec
from pipeline.training.schedule import TrainingSteps


class AdapterOutput(Section):
    """The finished model."""

    uri: str = Field(min_length=1, description="a local folder; jobs.transcribe takes it as model.name")
    name: str | None = Field(None, min_length=1, description="of the model; null: the folder's")


class StartConfig(Section):
    """The model whose encoder and backbone stay as they are."""

    name: str = Field("tiny", description="tiny | diffusion-gemma-asr-small | a directory in format fullcanvas/1")
    revision: str | None = Field(None, description="commits of parts on the hub, as in jobs.transcribe")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="of the frozen weights")
    verify: bool = Field(True, description="compare SHA-256 hashes with manifest.json or the hub before loading")
    adapter: Literal["continue", "new"] = Field(
        "continue", description="continue from its projector (and LoRA, if it has one); new: from random ones"
    )


class AdapterSteps(TrainingSteps):
    """What the training of an adapter has beside the settings of every training."""

    steps: int = Field(2000, ge=1, le=100_000_000, description="of the optimiser")
    fill: Literal["eos", "pad"] = Field(
        "eos", description="what stands on the canvas behind text and end token; eos_weight is its weight in the loss"
    )
    canvas_length: int | None = Field(
        None, ge=2, le=1_024, description="tokens of the full canvas in training; null: the model's"
    )
    canvas_step: int | None = Field(
        None,
        ge=1,
        le=1_024,
        description="canvases as long as the batch's longest text, up to a multiple of this; null: full",
    )
    full_canvas_share: float = Field(
        0.25, ge=0, le=1, description="batches on the full canvas all the same, as in denoising"
    )
    gradient_checkpointing: bool = Field(False, description="layers are computed again instead of kept in memory")
    evaluate_steps: int | None = Field(
        200,
        ge=1,
        le=100_000_000,
        description="between evaluations; one comes before the first step, too; null: two in every epoch",
    )
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="of what goes into LoRA, in training alone")


class AudioAugment(Section):
    """What happens to the audio of a training example, drawn anew in every epoch."""

    RANGES = (("snr_db_min", "snr_db_max"),)

    noise_share: float = Field(0.5, ge=0, le=1, description="examples with added noise, white to brown")
    snr_db_min: float = Field(10.0, ge=-100, le=200, description="dB of speech over noise, noisiest example")
    snr_db_max: float = Field(
        40.0, ge=-100, le=200, description="dB of speech over noise, cleanest of the noisy examples"
    )
    time_masks: int = Field(2, ge=0, le=1_000, description="hidden spans of the mel features")
    time_mask_ms: int = Field(200, ge=0, le=30_000, description="longest span, ms")
    mel_masks: int = Field(1, ge=0, le=128, description="hidden bands of the mel features")
    mel_mask_bins: int = Field(10, ge=0, le=128, description="widest band, bins")


class WorkerConfig(Section):
    """Ray Train workers."""

    workers: int = Field(1, ge=0, le=10_000, description="processes that train; 0: this process, without Ray")
    gpus_per_worker: float = Field(0.0, ge=0, le=64, description="0: on the CPU")
    cpus_per_worker: float = Field(1.0, ge=0, le=1_024, description="logical CPUs of a worker")
    threads_per_worker: int = Field(1, ge=1, le=1_024, description="torch threads of a worker on the CPU")
    max_failures: int = Field(
        2,
        ge=0,
        le=1_000_000,
        description="so many times Ray Train starts again from the checkpoint after a worker died",
    )
    canvases: int = Field(16, ge=1, le=65_536, description="canvas slots of the engine that evaluates")


class AdapterConfig(Section):
    """All settings of `jobs.train`."""

    source: SourceConfig
    evaluation: dict[str, SourceConfig] = Field(
        min_length=1, description="sources that are not trained on, by name; they choose the best step"
    )
    output: AdapterOutput
    folder: str = Field("work/train-adapter", description="audio, checkpoints and the log; shared by all machines")
    storage: StorageConfig = StorageConfig()
    model: StartConfig = StartConfig()
    lora: LoraSpec = LoraSpec(rank=16, alpha=32, targets=["q_proj", "k_proj", "v_proj", "o_proj"])
    train: AdapterSteps = AdapterSteps()
    augment: AudioAugment = AudioAugment()
    segment: SegmentConfig = SegmentConfig()
    denoise: DenoiseConfig = DenoiseConfig()
    compute: WorkerConfig = WorkerConfig()
    grounding_margin: float = Field(
        0.3, ge=0, le=100, description="so much higher must the error rate be with the audio shuffled"
    )
    seed: int = Field(0, ge=0, lt=2**31, description="of new weights, batches, noise and masks")

    @pydantic.model_validator(mode="after")
    def _precise(self) -> AdapterConfig:
        if self.model.dtype == "bfloat16" and self.train.precision == "float32":
            raise Misfit("train.precision", "float32 needs model.dtype=float32; frozen bfloat16 weights need autocast")
        return self

    def deciding(self) -> dict[str, Any]:
        """What the trained weights depend on, by full key: a run with other values does not go on from a checkpoint."""
        tree = self.model_dump(mode="json", exclude={"output", "folder", "storage", "compute"})
        for name in ("checkpoint_steps", "log_steps"):
            del tree["train"][name]
        del tree["model"]["verify"]
        flat: dict[str, Any] = {"workers": max(1, self.compute.workers)}
        for section, value in tree.items():
            if isinstance(value, dict):
                flat |= {f"{section}.{key}": inner for key, inner in value.items()}
            else:
                flat[section] = value
        return flat
