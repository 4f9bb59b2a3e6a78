"""The model whose adapter is trained: it is made from the start, loaded for training, and written as a folder."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.config import ConfigError
from pipeline.model import engines, memory
from pipeline.model.files import checkpoint, hub, importer, layout, weights
from pipeline.model.files.layout import AsrConfig
from pipeline.model.network import backbone, lora
from pipeline.model.network.projector import Projector
from pipeline.model.recogniser import AsrModel
from pipeline.training.adapter_config import AdapterConfig

log = logging.getLogger(__name__)

MARK = ".training"  # the first file of a start: a folder without it was made by somebody else


def prepare_start(config: AdapterConfig) -> Path:
    """Make the model before its first step: FOLDER/start, in format fullcanvas/1.

    Encoder, backbone and tokenizer are links to the files of `model.name`. The adapter is that of `model.name`, with
    new LoRA where it has none, or all new from the seed. It is made once, so that a resumed run starts from the same.
    Raises ConfigError, one line.
    """
    folder, start = Path(config.folder) / "start", config.model
    if (folder / "config.json").exists():
        return folder
    source = layout.directory(start.name, start.revision)
    if engines.engine_of(source) is not engines.DIFFUSION:
        raise ConfigError(f"model.name: {start.name}: no diffusion model; it has no adapter")
    found = layout.read_config(source)
    if start.adapter == "new" and found.hub is not None:
        found = found.model_copy(update={"hub": found.hub.model_copy(update={"adapter": None})})
    pins = {name: part for name, part in hub.pins(source, found.hub, start.revision).items() if name != "adapter"}
    wanted = found.model_copy(update={"lora": config.lora, "hub": _hub(found, pins)})
    state = _adapter(config, source, found, wanted)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).touch()
    (folder / "backbone").mkdir(exist_ok=True)
    for path in frozen_files(source):
        target = folder / path.relative_to(source)
        target.unlink(missing_ok=True)
        target.symlink_to(path.resolve())
    weights.write(state, folder / hub.PARTS["adapter"], torch.float32)
    hashes = {name: value for name, value in hub.manifest(source).items() if (folder / name).is_symlink()}
    (folder / hub.MANIFEST).write_text(json.dumps({"sha256": hashes}))
    layout.write_config(folder, wanted)
    return folder


def _hub(found: AsrConfig, pins: dict[str, hub.HubPart]) -> hub.HubSpec | None:
    """Where the start's parts come from that are no files of its folder."""
    shared = found.hub.shared_encoder if found.hub else None
    return hub.HubSpec(**pins, shared_encoder=shared) if pins or shared else None


def is_foreign(folder: Path) -> bool:
    """Whether something stands at the place of a start that `prepare_start` has not made."""
    return folder.exists() and not (folder / MARK).exists() and (folder.is_file() or any(folder.iterdir()))


def frozen_files(folder: Path) -> list[Path]:
    """The files of encoder, backbone and tokenizer in a folder; parts on the hub have none."""
    encoder = hub.shards(folder / hub.PARTS["encoder"])
    files = [folder / "tokenizer.json", encoder[0].with_name("encoder.safetensors.index.json"), *encoder]
    return [path for path in [*files, *sorted((folder / "backbone").glob("*"))] if path.is_file()]


def strange_files(out: Path, start: Path) -> list[Path]:
    """Names of weights in a folder for a model that the model does not have; a reader would take them for its own."""
    there, own = ({path.relative_to(folder) for path in frozen_files(folder)} for folder in (out, start))
    return sorted(there - own)


def _adapter(config: AdapterConfig, source: Path, found: AsrConfig, wanted: AsrConfig) -> dict[str, Tensor]:
    """The weights of projector and LoRA to start from, float32."""
    torch.manual_seed(config.seed)
    projector = Projector(
        input_dim=wanted.encoder.d_model, output_dim=wanted.hidden_size, **wanted.projector.model_dump()
    )
    new = dict(projector.state_dict())
    with torch.device("meta"):
        bare = backbone.build(wanted.backbone)
        lora.attach(bare, **config.lora.model_dump())
    for name, weight in lora.state(bare).items():
        new[name] = torch.zeros(weight.shape)
        if name.endswith(".down"):
            nn.init.kaiming_uniform_(
                new[name], a=5**0.5
            )  # as lora.LoraLinear does; `up` is zero, so that the product is zero
    if config.model.adapter == "new":
        return new
    if found.lora is not None and found.lora != config.lora:
        has = f"rank {found.lora.rank}, alpha {found.lora.alpha:g}, {', '.join(found.lora.targets)}"
        raise ConfigError(f"lora: {config.model.name} has LoRA of {has}; give the same, or model.adapter=new")
    own = {name: tuple(weight.shape) for name, weight in new.items() if found.lora or not name.startswith(lora.PREFIX)}
    stored = weights.read_states(hub.locate(source, found.hub, config.model.revision).adapter, "model.name")
    matches = importer.match({name: tuple(weight.shape) for name, weight in stored.items()}, own)
    importer.refuse_partial(matches, f"model.name: {config.model.name}")
    return new | {ours: stored[theirs].float() for theirs, ours in matches.names.items()}


def build(folder: Path, config: AdapterConfig, device: torch.device) -> AsrModel:
    """Load what `prepare_start` wrote: frozen parts in `model.dtype`, projector and LoRA trainable in float32.

    Raises ConfigError, before it allocates anything, where the GPU has less memory than an evaluation needs.
    """
    dtype: torch.dtype = getattr(torch, config.model.dtype)

    def check(model: AsrModel) -> None:
        slots = config.compute.canvases
        needed = memory.estimate(model, config.denoise, slots=slots, dtype=dtype, merge=False)
        log.info("an evaluation needs %s; what a training step keeps for its backward pass is not counted", needed)
        if device.type == "cuda":
            free = torch.cuda.mem_get_info(device)[0] * min(1.0, config.compute.gpus_per_worker)
            memory.require(needed, int(free), slots=slots, fp8=False)

    model = checkpoint.load(str(folder), device=str(device), dtype=dtype, verify=config.model.verify, check=check)
    adapter = load_file(folder / hub.PARTS["adapter"])
    for name, parameter in trainable(model).items():
        parameter.data = adapter[name].to(device)
        parameter.requires_grad_(True)
    return model


def trainable(model: AsrModel) -> dict[str, nn.Parameter]:
    """The weights of projector and LoRA, by their names in adapter.safetensors."""
    return dict(model.projector.named_parameters()) | lora.state(model.backbone)


@contextlib.contextmanager
def for_inference(model: AsrModel) -> Iterator[None]:
    """Inside the block the adapter has the dtype of the frozen weights: the engine does not use autocast."""
    dtype = model.backbone.lm_head.weight.dtype
    kept = [(parameter, parameter.data) for parameter in trainable(model).values()]
    training = model.backbone.training
    model.eval()
    try:
        for parameter, data in kept:
            parameter.data = data.to(dtype)
        yield
    finally:
        for parameter, data in kept:
            parameter.data = data
        model.backbone.train(training)


def export(config: AdapterConfig, adapter: dict[str, Tensor], card: str) -> Path:
    """Write the folder in format fullcanvas/1. config.json comes last but one, so that half a folder is no model.

    The frozen files are copied byte by byte from the start. Parts on the hub stay there, pinned to their commits.
    """
    start, out = Path(config.folder) / "start", Path(config.output.uri)
    (out / "backbone").mkdir(parents=True, exist_ok=True)
    for name in ("config.json", hub.MANIFEST):
        (out / name).unlink(missing_ok=True)
    for path in frozen_files(start):
        shutil.copyfile(path, out / path.relative_to(start))
    weights.write(adapter, out / hub.PARTS["adapter"], torch.float32)
    (out / "MODEL_CARD.md").write_text(card, encoding="utf-8")
    name = config.output.name or out.resolve().name
    layout.write_config(out, layout.read_config(start).model_copy(update={"name": name}))
    hub.write_manifest(out)
    return out
