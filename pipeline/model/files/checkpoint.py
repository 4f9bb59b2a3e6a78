"""Load and save a recogniser of any size in format `fullcanvas/1` (layout.py)."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import Tokenizer

from pipeline.model.files import compressed, constants, hub, importer, weights
from pipeline.model.files.allocation import allocate
from pipeline.model.files.layout import AsrConfig, directory, read_config, write_config
from pipeline.model.files.weights import unusable
from pipeline.model.network import backbone, float8, lora
from pipeline.model.recogniser import AsrModel, adapter_state, backbone_state, encoder_state

log = logging.getLogger(__name__)
VISION = ("model.encoder.vision_tower.", "model.encoder.embed_vision.")  # transformers' image tower, never used


def load(
    name: str,
    revision: str | None = None,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    fp8: bool = False,
    verify: bool = False,
    merge: bool = False,
    check: Callable[[AsrModel], None] | None = None,
) -> AsrModel:
    """A recogniser ready for inference. Raises ConfigError where a file is missing or does not fit.

    Weights exist once, on `device` in `dtype`: files are mapped into memory and copied from there, tensor by tensor.
    Buffers that are computed, not loaded (mel filters, rotary frequencies), are float32 whatever the dtype.
    fp8: see `outline`. verify: first compare all known hashes (`hub.verify`). merge: merge LoRA into the weights
    (`lora.merge`). check: called with the model on the meta device before anything is allocated; it may raise.

    The backbone does not come through transformers' `from_pretrained`. From bfloat16 files to float32 its process takes
    1.47 times the weights, this one 0.97 times (measured with shards of 4 MB, 107 MB in all; the tests allow 1.1). And
    where a file has a tied weight twice with different values, it unties the two without an error.
    """
    folder = directory(name, revision)
    config = read_config(folder)
    files = hub.locate(folder, config.hub, revision)
    if verify:
        hub.verify(folder, files)
    model = outline(folder, config, files, device=device, dtype=dtype, fp8=fp8)
    if check is not None:
        check(model)
    own = {name: tuple(weight.shape) for name, weight in adapter_state(model).items()}
    matches = importer.match_files(files.adapter, own)
    if matches.foreign:
        for line in matches.lines():
            log.info("%s", line)
    for finding in constants.compare(files.adapter[0].parent, config):
        log.log(logging.WARNING if finding.differs else logging.INFO, "%s", finding)
    allocate(model, device=device, dtype=dtype)
    weights.fill(encoder_state(model), files.encoder, rename=weights.whisper_name, rows=model.encoder.rows)
    weights.fill(adapter_state(model), files.adapter, rename=matches.names.get)
    state, tied = backbone_state(model.backbone)
    places = compressed.places(state, files.backbone)
    weights.fill(places, files.backbone, rename=compressed.names(tied), optional=VISION)
    if merge:
        lora.merge(model.backbone)
    return model


def outline(
    folder: Path, config: AsrConfig, files: hub.Files, *, device: str, dtype: torch.dtype, fp8: bool
) -> AsrModel:
    """The model on the meta device, as it will be loaded: shapes and dtypes, no values.

    fp8: most matrices of the backbone stay in FP8 (network/float8.py): those that the files have in FP8, or, where the
    files have none, all that may be. False: everything is in `dtype`. Raises ConfigError where the parts do not fit.
    """
    try:
        tokenizer = Tokenizer.from_file(str(files.tokenizer))
    except Exception as err:  # noqa: BLE001 - tokenizers raises bare Exception
        raise unusable(files.tokenizer, err) from None
    try:
        with torch.device("meta"):
            model = AsrModel(config, tokenizer)
    except Exception as err:  # noqa: BLE001 - whatever torch and transformers raise on numbers that do not fit together
        raise unusable(folder / "config.json", err) from None
    _check_numbers(config, files.backbone[0].with_name("config.json"))
    if fp8:
        stored = compressed.in_fp8(files.backbone, backbone_state(model.backbone)[1])
        with torch.device("meta"):
            float8.convert(model.backbone, float8.Kernels.of(device, dtype), stored or None)
    return model


def _check_numbers(config: AsrConfig, path: Path) -> None:
    """Compare the backbone's own config, where it has one, with ours: equal shapes may still compute something else.

    Raises ConfigError naming the numbers that differ.
    """
    if not path.is_file():
        return
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        compressed.refuse_other(tree)
        different = backbone.differences(config.backbone, tree)
    except Exception as err:  # noqa: BLE001 - whatever transformers raises on a file that is no config
        raise unusable(path, err) from None
    if different:
        raise unusable(path, ValueError(f"other numbers than in the model's config.json: {'; '.join(different)}"))


def save(
    model: AsrModel, folder: Path, *, shared_encoder: str | None = None, dtype: torch.dtype = torch.float16
) -> None:
    """Write all weights in `dtype` into a folder.

    shared_encoder: the embedded model that has the same encoder; then none is written.
    Raises ValueError for a model whose LoRA is merged: its base weights are gone.
    """
    if model.config.lora is not None and not lora.state(model.backbone):
        raise ValueError("a model whose LoRA is merged cannot be saved")
    (folder / "backbone").mkdir(parents=True, exist_ok=True)
    config = model.config
    if shared_encoder:
        config = config.model_copy(update={"hub": hub.HubSpec(shared_encoder=shared_encoder)})
    write_config(folder, config)
    model.tokenizer.save(str(folder / "tokenizer.json"))
    if not shared_encoder:
        weights.write(encoder_state(model), folder / hub.PARTS["encoder"], dtype)
    weights.write(adapter_state(model), folder / hub.PARTS["adapter"], dtype)
    weights.write(backbone_state(model.backbone)[0], folder / hub.PARTS["backbone"], dtype)
    model.backbone.config.save_pretrained(folder / "backbone")
