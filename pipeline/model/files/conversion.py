"""Make one folder in format fullcanvas/1 out of parts that other programs have written, for `jobs.import_model`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from pipeline.config import ConfigError
from pipeline.model.files import constants, hub, importer, layout, weights, whisper_import
from pipeline.model.files.import_config import ImportConfig
from pipeline.model.files.layout import AsrConfig
from pipeline.model.network import backbone, lora
from pipeline.model.network.projector import Projector

PARTIAL = ".partial"  # in the output: what a killed import leaves, and the next one replaces


def convert(config: ImportConfig, say: Callable[[str], None]) -> Path:
    """Write config.json, the given parts and their hashes (manifest.json). Returns the folder.

    Parts that are not given stay on the hub, where `base` says so. say: gets one line per adapter weight: what matched,
    and what did not. Raises ConfigError where a part does not fit or an adapter does not match as a whole; then
    nothing is written.
    """
    output = Path(config.output)
    if output.exists() and (not output.is_dir() or set(output.iterdir()) - {output / PARTIAL}):
        raise ConfigError(f"output: {output}: exists already, and is not an empty folder")
    with layout.named("base"):
        made = layout.read_config(layout.directory(config.base))
    made = made.model_copy(update={"name": output.resolve().name})
    encoder = None
    if config.encoder is not None:
        with layout.named("encoder"):
            encoder, spec = whisper_import.read_encoder(_there("encoder", config.encoder), config.encoder_heads)
        made = made.model_copy(update={"encoder": spec})
    adapter = None
    if config.adapter:
        with layout.named("adapter"):
            adapter, made = _adapter(config, made, say)
    links = {}
    if config.backbone is not None:
        with layout.named("backbone"):
            links = _backbone(_there("backbone", config.backbone))

    given = {"encoder": encoder, "adapter": adapter, "backbone": links or None}
    if made.hub is not None:
        kept = {part: None if given[part] else getattr(made.hub, part) for part in hub.PARTS}
        made = made.model_copy(update={"hub": made.hub.model_copy(update=kept) if any(kept.values()) else None})
    _write(output, made, {"encoder": encoder, "adapter": adapter}, links)
    return output


def _write(output: Path, made: AsrConfig, states: dict[str, dict[str, Tensor] | None], links: dict[str, Path]) -> None:
    """Write the folder, which may be there and be empty: a mount, or where somebody stands. So it is not replaced."""
    partial = output / PARTIAL
    shutil.rmtree(partial, ignore_errors=True)
    try:
        (partial / "backbone").mkdir(parents=True)
    except OSError as err:
        raise ConfigError(f"output: {output}: {err.strerror}") from None
    layout.write_config(partial, made)
    for name, state in states.items():
        if state is not None:
            weights.write(state, partial / hub.PARTS[name], torch.float32)
    for name, source in links.items():
        (partial / name).symlink_to(source.resolve())
    hub.write_manifest(partial)
    for path in sorted(partial.iterdir(), key=lambda path: path.name == "config.json"):  # half a folder is no model
        path.rename(output / path.name)
    partial.rmdir()


def _adapter(config: ImportConfig, made: AsrConfig, say: Callable[[str], None]) -> tuple[dict[str, Tensor], AsrConfig]:
    """The adapter's weights under our names, and the config with the LoRA of a PEFT folder."""
    state: dict[str, Tensor] = {}
    for item in config.adapter:
        path = _there("adapter", item)
        if path.is_dir():
            more, spec = importer.read_peft(path)
            made = made.model_copy(update={"lora": spec})
        else:
            more = weights.read_state(path)
        if twice := sorted(state.keys() & more.keys()):
            raise ConfigError(f"adapter: {path}: {twice[0]} is in another of the files as well")
        state |= more
    own = adapter_shapes(made)
    matches = importer.match({name: tuple(weight.shape) for name, weight in state.items()}, own, config.names)
    for line in matches.lines():
        say(line)
    for folder in dict.fromkeys(path if path.is_dir() else path.parent for path in map(Path, config.adapter)):
        for finding in constants.compare(folder, made):
            say(str(finding))
    importer.refuse_partial(matches, "adapter")
    return {ours: state[foreign] for foreign, ours in matches.names.items()}, made


def adapter_shapes(config: AsrConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight that adapter.safetensors must have, from config.json alone."""
    with torch.device("meta"):
        projector = Projector(
            input_dim=config.encoder.d_model, output_dim=config.hidden_size, **config.projector.model_dump()
        )
        state = dict(projector.state_dict())
        if config.lora is not None:
            bare = backbone.build(config.backbone)
            lora.attach(bare, **config.lora.model_dump())
            state |= lora.state(bare)
    return {name: tuple(weight.shape) for name, weight in state.items()}


def _backbone(folder: Path) -> dict[str, Path]:
    """Files of a transformers checkpoint, by their names in our folder. Raises ConfigError where one is missing."""
    files = hub.shards(folder / "model.safetensors")
    optional = [folder / name for name in ("model.safetensors.index.json", "config.json")]
    links = {f"backbone/{path.name}": path for path in (*files, *filter(Path.is_file, optional))}
    links["tokenizer.json"] = folder / "tokenizer.json"
    for path in links.values():
        if not path.is_file():
            raise ConfigError(f"backbone: {path}: No such file or directory")
    return links


def _there(key: str, name: str) -> Path:
    """The path `name` of the setting `key`. Raises ConfigError where there is nothing."""
    path = Path(name)
    if not path.exists():
        raise ConfigError(f"{key}: {path}: No such file or directory")
    return path
