"""Make the embedded model: corpus, features, tokenizer, training, measurement, export. Every stage resumes."""

from __future__ import annotations

import logging
import shutil
import tempfile
from pathlib import Path

import torch
from tokenizers import Tokenizer

from infra.tiny import data, measure
from infra.tiny.recipe import PhaseSection, TrainConfig
from infra.tiny.retokenise import retokenised
from infra.tiny.synthesis import Split, synthesise
from infra.tiny.widen import widened
from pipeline.config import ConfigError, DenoiseConfig
from pipeline.model.files import checkpoint, hub, layout, weights
from pipeline.model.files.layout import AsrConfig
from pipeline.model.network.encoder import AudioEncoder
from pipeline.model.new_model import EOS, asr_config, train_tokenizer
from pipeline.model.recogniser import AsrModel
from pipeline.training import resume
from pipeline.training.batches import Batches
from pipeline.training.loop import Trainer
from pipeline.training.losses import Teacher
from pipeline.training.parallel import Group

log = logging.getLogger(__name__)


def check(config: TrainConfig) -> None:
    """Find useless files and folders before hours of work. Raises ConfigError, one line that names the key."""
    for key, folder in (("folder", config.folder), ("export", config.export)):
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as err:
            raise ConfigError(f"{key}: {folder}: {err.strerror}") from None
    _whisper(config)
    if config.retokenise and not config.start:
        raise ConfigError("retokenise: needs `start`; without one, a new tokenizer is trained anyway")
    for part in ("projector", "backbone"):
        if sum(getattr(share, part) for share in config.shares) >= 1:
            raise ConfigError(f"shares: their {part} is 1 or more together; nothing is left of this run")
    _check_also(config)
    shares = [(f"shares[{i}].of", share.of) for i, share in enumerate(config.shares)]
    for key, name in (("start", config.start), ("teacher", config.teacher), *shares):
        if name:
            with layout.named(key):
                layout.describe(name)


def _check_also(config: TrainConfig) -> None:
    """Raise ConfigError for a folder without cached features, with those of another window, or named twice."""
    folders = [Path(config.folder), *map(Path, config.also)]
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ConfigError("also: a folder named twice, or `folder` itself: its phrases would count twice")
    frames = asr_config(config.size, config.size.vocab_size).encoder_frames
    for name in config.also:
        cached = data.cached_frames(Path(name) / "features")
        if not cached:
            raise ConfigError(f"also: {name}/features: no cached features; run its own config with stage=features")
        if other := cached - {frames}:
            raise ConfigError(
                f"also: {name}/features: its windows have {min(other)} frames, those of this run {frames}"
            )


def make_corpus(config: TrainConfig) -> None:
    """Synthesise both splits. Raises ConfigError naming the Debian package of a missing speech engine."""
    folder, c = Path(config.folder), config.corpus
    counts: dict[Split, int] = {"evaluation": c.evaluation_per_language, "train": c.train_per_language}
    seeds = {"train": config.seed, "evaluation": config.seed if c.evaluation_seed is None else c.evaluation_seed}
    for split, count in counts.items():
        synthesise(
            folder / split,
            split=split,
            per_language=count,
            seed=seeds[split],
            workers=c.workers,
            short_share=c.short_share,
        )


def make_features(config: TrainConfig) -> None:
    """Run the frozen encoder once over the training corpus and keep its output."""
    size = asr_config(config.size, config.size.vocab_size)
    e = size.encoder
    encoder = AudioEncoder(
        d_model=e.d_model,
        layers=e.layers,
        heads=e.heads,
        ffn=e.ffn,
        mels=e.mels,
        window_seconds=size.window_seconds,
    ).eval()
    encoder.load_whisper(_whisper(config))
    encoder.whisper.to(getattr(torch, config.phases.precision))
    folder = Path(config.folder)
    data.cache_features(folder / "train", folder / "features", encoder, window_samples=size.window_samples)


def trainer(config: TrainConfig) -> Trainer:
    """Make model, tokenizer and batches of a run that `check` has passed, as they are before the first step."""
    folder = Path(config.folder)
    if not any((folder / "features").glob("*.json")):
        raise ConfigError(f"folder: {folder}/features: no cached features; run with stage=all or stage=features")
    cache = data.FeatureCache(*(Path(name) / "features" for name in (config.folder, *config.also)))
    model = _started(config, folder, cache) if config.start else _random(config, folder, cache)
    real_slots = [model.config.real_slots(samples) for samples in cache.samples]
    frames = model.config.encoder_frames // model.config.audio_slots  # of a slot

    def features(rows: list[int], _: int) -> torch.Tensor:
        return cache.features(rows)[:, : frames * (1 + max(real_slots[row] for row in rows))]  # one slot of silence

    batches = Batches(
        cache.texts,
        cache.languages,
        features,
        real_slots,
        model.tokenizer,
        canvas_length=config.size.canvas_length,
        batch=config.phases.batch,
        seed=config.seed,
        eos=EOS,
    )
    log.info("training on %d phrases, %d left out as longer than the canvas", len(batches.rows), batches.too_long)
    settings = {"seed": config.seed, "utterances": len(batches.rows)} | config.phases.deciding()
    earlier, defaults = config.phases.earlier_steps, PhaseSection().deciding()
    resume.agree(folder, settings, steps="phases.diffusion_steps", earlier=earlier, defaults=defaults)
    return made(model, batches, config.phases, seed=config.seed, folder=folder, teacher=_teacher(config, folder))


def _teacher(config: TrainConfig, folder: Path) -> Teacher | None:
    """The model whose answers are learned, in its own prompt: by default the one that the training started from."""
    if not config.phases.teacher_weight:
        return None
    model = checkpoint.load(config.teacher or str(folder / "start")).requires_grad_(False)
    return Teacher(model, config.phases.teacher_weight, config.phases.teacher_sure)


def made(
    model: AsrModel,
    batches: Batches,
    phases: PhaseSection,
    *,
    seed: int,
    folder: Path,
    teacher: Teacher | None = None,
) -> Trainer:
    """The loop of pipeline.training in three phases: over the projector and, if `trained` is "all", the backbone.

    The encoder and the unused image tower stay as they are.
    """
    trained = ("projector.", "backbone.") if phases.trained == "all" else ("projector.",)
    encoder = model.backbone.model.encoder
    unused = {id(p) for part in (encoder.vision_tower, encoder.embed_vision) for p in part.parameters()}
    return Trainer(
        model,
        batches,
        phases,
        phases={
            "ctc": phases.ctc_steps,
            "autoregressive": phases.autoregressive_steps,
            "diffusion": phases.diffusion_steps,
        },
        parameters={
            name: parameter
            for name, parameter in model.named_parameters()
            if name.startswith(trained) and id(parameter) not in unused
        },
        features=data.two_altered if phases.ctc_consistency else data.altered,
        folder=folder,
        seed=seed,
        group=Group(torch.device("cpu")),
        average_decay=phases.ema,
        teacher=teacher,
        ctc_consistency=phases.ctc_consistency,
    )


def evaluate(run: Trainer, config: TrainConfig) -> measure.Measurement:
    """Measure what is exported on held-out voices and phrases, with the production engine and 16 steps.

    Raises ConfigError where the training has not ended.
    """
    run.restore()
    if run.done < run.total:
        raise ConfigError(f"stage: trained for {run.done} of {run.total} steps; go on with stage=train or stage=all")
    shares = [(share, dict(_widened(checkpoint.load(share.of), config).named_parameters())) for share in config.shares]
    for name, weight in zip(run.named, run.average, strict=True):
        parts = [getattr(share, name.split(".")[0]) for share, _ in shares]  # "projector" or "backbone"
        weight.mul_(1 - sum(parts))
        for part, (_, earlier) in zip(parts, shares, strict=True):
            weight.add_(earlier[name].detach(), alpha=part)
    run.use_average()
    run.model.eval().requires_grad_(False)
    return measure.measure(run.model, Path(config.folder) / "evaluation", DenoiseConfig(max_steps=16))


def export(run: Trainer, config: TrainConfig, measurement: measure.Measurement, command: str) -> None:
    """Write the model's folder with its model card."""
    folder = Path(config.export)
    checkpoint.save(run.model, folder, shared_encoder=config.encoder)
    card = measure.card(measurement, config, run.done, resume.changes(run.folder), command)
    (folder / "MODEL_CARD.md").write_text(card, encoding="utf-8")


def _tokenizer(config: TrainConfig, folder: Path, cache: data.FeatureCache) -> Tokenizer:
    """The folder's tokenizer; where it has none, a new one, trained on the texts of the corpus."""
    path = folder / "tokenizer.json"
    if not path.exists():
        train_tokenizer(cache.texts, config.size.vocab_size).save(str(path))
    return Tokenizer.from_file(str(path))


def _random(config: TrainConfig, folder: Path, cache: data.FeatureCache) -> AsrModel:
    """A model with weights drawn from the seed."""
    tokenizer = _tokenizer(config, folder, cache)
    torch.manual_seed(config.seed)
    model = AsrModel(asr_config(config.size, tokenizer.get_vocab_size()), tokenizer)
    model.encoder.load_whisper(_whisper(config))
    return model


def _started(config: TrainConfig, folder: Path, cache: data.FeatureCache) -> AsrModel:
    """The model that `start` names, trainable. Raises ConfigError where its numbers are not those of `size`.

    Its projector may have fewer channels, and gets more then. The model is copied to the folder first. So `export` may
    overwrite the place it came from, and a resumed run starts from the same weights.
    """
    copied = folder / "start"
    if not copied.exists():
        temporary = copied.with_suffix(".tmp")
        shutil.copytree(layout.directory(str(config.start)), temporary, dirs_exist_ok=True)
        temporary.replace(copied)
    model = checkpoint.load(str(copied))
    wanted = asr_config(config.size, model.tokenizer.get_vocab_size())
    model = _widened(model, config)
    # Training teaches another prompt.
    if model.config.model_copy(update={"prompt": wanted.prompt, "hub": None}) != wanted:
        raise ConfigError(f"start: {config.start}: its numbers are not those of the size section")
    model = _with_config(model, wanted)
    if config.retokenise:
        tokenizer = _tokenizer(config, folder, cache)
        model = retokenised(model, tokenizer, asr_config(config.size, tokenizer.get_vocab_size()))
    return model.requires_grad_(True)


def _widened(model: AsrModel, config: TrainConfig) -> AsrModel:
    """The model with the projector's channels of `size`, where it has fewer."""
    hidden = config.size.projector_hidden
    return widened(model, hidden, config.seed) if hidden > model.config.projector.hidden else model


def _with_config(model: AsrModel, config: AsrConfig) -> AsrModel:
    """The same weights and tokenizer in a model of another config."""
    other = AsrModel(config, model.tokenizer)
    other.load_state_dict(model.state_dict())
    return other


def _whisper(config: TrainConfig) -> dict[str, torch.Tensor]:
    """The weights of the frozen encoder, float32. Raises ConfigError."""
    path = layout.ASSETS / config.encoder / hub.PARTS["encoder"]
    if not path.is_file():
        raise ConfigError(f"encoder: {config.encoder}: no such file: {path}")
    state = weights.read_state(path)
    return {name: tensor.float() for key, tensor in state.items() if (name := weights.whisper_name(key)) is not None}
