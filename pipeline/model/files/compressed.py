"""A backbone's files as compressed-tensors writes them ("FP8-dynamic"), beside those of transformers.

There each expert is stored by itself (`experts.7.gate_proj.weight`), while the model has one tensor for all experts of
a layer (`experts.gate_up_proj`). Weights in FP8 have a scale per output channel; what the checkpoint's `ignore` list
names is not in FP8. The files' own dtypes say which is which.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pipeline.model.files import weights

ONE = re.compile(r"(?P<experts>.+\.experts)\.(?P<number>\d+)\.(?P<part>gate|up|down)_proj\.weight")
FUSED = re.compile(r"(?P<experts>.+\.experts)\.(?P<part>gate_up|down)_proj(?P<scale>_scale)?")


def in_fp8(files: Iterable[Path], tied: Mapping[str, str]) -> set[str]:
    """Names of the model's modules whose weights the files have in FP8. Raises ConfigError for an unreadable file.

    tied: other names of tied weights, each with the name under which the model has them.
    """
    rename = names(tied)
    stored = {name for path in files for name, dtype in weights.dtypes(path).items() if dtype == weights.STORED_FP8}
    return {re.sub(r"(\.experts)\..*", r"\1", rename(name).removesuffix(".weight")) for name in stored}


def names(tied: Mapping[str, str]) -> Callable[[str], str]:
    """From a stored name to the model's: a tied weight may be stored under any of its names."""

    def rename(stored: str) -> str:
        one = ONE.fullmatch(stored)
        if one is None:
            return tied.get(stored, stored)
        fused = f"{one['experts']}.gate_up_proj"
        return f"{tied.get(fused, fused).removesuffix('.gate_up_proj')}{stored.removeprefix(one['experts'])}"

    return rename


def places(state: Mapping[str, Tensor], files: Iterable[Path]) -> dict[str, Tensor]:
    """A backbone's weights by the names that the files have: where these store experts one by one, views of each."""
    if not any(ONE.fullmatch(name) for path in files for name in weights.dtypes(path)):
        return dict(state)
    made = {}
    for name, tensor in state.items():
        fused = FUSED.fullmatch(name)
        if fused is None:
            made[name] = tensor
            continue
        parts = ("gate", "up") if fused["part"] == "gate_up" else ("down",)
        for number, expert in enumerate(tensor):
            for part, view in zip(parts, expert.chunk(len(parts)), strict=True):
                made[f"{fused['experts']}.{number}.{part}_proj.weight{fused['scale'] or ''}"] = view
    return made


def refuse_other(tree: Mapping[str, Any]) -> None:
    """Compare the section `quantization_config` of a backbone's config.json with what is read here.

    Raises ValueError for any quantisation but compressed-tensors' FP8 with one scale per output channel.
    """
    section = tree.get("quantization_config")
    if section is None:
        return
    wanted = {"type": "float", "num_bits": 8, "strategy": "channel", "symmetric": True}
    kinds = [group.get("weights") or {} for group in (section.get("config_groups") or {}).values()]
    method = section.get("quant_method")
    if method == "compressed-tensors" and all({key: kind.get(key) for key in wanted} == wanted for kind in kinds):
        return
    shown = "; ".join(", ".join(f"{key} {kind.get(key)}" for key in wanted) for kind in kinds)
    raise ValueError(
        f"quantization_config: {method} ({shown or section.get('format')}) is not read, only compressed-tensors' FP8 "
        "with one scale per output channel is"
    )
