"""Adapters of other programs under our names: a table of patterns, all or nothing, with what matched and what did not.

The published adapter's key names were not known to us when this was written; PEFT's are. A name is first stripped of
wrappers, then compared with PATTERNS; `{n}` is a number. Layers of a projector may be numbered as in an nn.Sequential
(0, 2, 4 with the activations between): their order counts. Shapes must be the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pipeline.config import ConfigError
from pipeline.model.files.layout import LoraSpec

WRAPPERS = ("base_model.model.", "state_dict.", "module.", "adapter.", "audio_adapter.", "_orig_mod.")
PROJECTOR = r"(?:audio_|multi_modal_|mm_|speech_)?(?:projector|projection|proj|connector)\."
ATTENTION = r"(?:model\.)*(?P<phase>encoder|decoder)\.(?:language_model\.|text_model\.)?layers\.(?P<layer>\d+)\."
SIDE = r"lora_(?P<side>A|B|a|b|down|up|left|right)(?:\.(?!weight)\w+)?(?:\.weight)?"  # `.default` is PEFT's own
LORA = rf"(?:self_attn\.)?(?P<target>[qkvo]_proj)\.{SIDE}"
KIND = r"\.(?P<kind>weight|bias)"
CONVOLUTION = rf"(?:{PROJECTOR})?(?:convs?|conv_layers|subsample|subsampling|downsample)\.?(?P<order>\d+)\.(?:conv\.)?"
PATTERNS = (  # (pattern of a whole foreign name without wrappers, ours)
    (rf"(?:{PROJECTOR})?(?:input|in_proj|proj_in|linear_in|in|fc1|linear1|linear_1){KIND}", "input.{kind}"),
    (rf"(?:{PROJECTOR})?(?:output|out_proj|proj_out|linear_out|out|fc2|linear2|linear_2){KIND}", "output.{kind}"),
    (rf"{CONVOLUTION}(?P<kind>weight|bias)", "convs.{order}.{kind}"),
    (rf"(?:{PROJECTOR})?(?:norm|ln|layer_norm|final_norm|ln_post){KIND}", "norm.{kind}"),
    (ATTENTION + LORA, "lora.{phase}.layers.{layer}.{target}.{side}"),
)
SIDES = {"A": "down", "a": "down", "down": "down", "left": "down", "B": "up", "b": "up", "up": "up", "right": "up"}


@dataclass(frozen=True, slots=True)
class Matches:
    """Which foreign name is which of ours; what is left on either side."""

    names: dict[str, str]
    unmatched: list[str]
    missing: list[str]

    @property
    def complete(self) -> bool:
        return not self.unmatched and not self.missing

    def lines(self) -> list[str]:
        """One line per name, for the terminal."""
        rows = [f"matched    {foreign} -> {own}" for foreign, own in sorted(self.names.items())]
        return (
            rows + [f"unmatched  {name}" for name in self.unmatched] + [f"missing    {name}" for name in self.missing]
        )


def match(
    foreign: Mapping[str, tuple[int, ...]], own: Mapping[str, tuple[int, ...]], given: Mapping[str, str] | None = None
) -> Matches:
    """Names by the shapes of both sides. given: foreign name to ours, before the table; `` (empty) drops a weight."""
    given = given or {}
    names: dict[str, str] = {}
    unmatched = []
    taken: set[str] = set()
    orders = _orders(foreign)
    for name, shape in foreign.items():
        ours = given.get(name, _translated(name, orders))
        if ours == "" and name in given:
            continue
        if ours is not None and ours in own and own[ours] == tuple(shape) and ours not in taken:
            names[name] = ours
            taken.add(ours)
        else:
            unmatched.append(name)
    return Matches(names, unmatched, [name for name in own if name not in taken])


def refuse_partial(matches: Matches, what: str) -> None:
    """Raises ConfigError, one line with counts and the first names, unless every weight of both sides is matched."""
    if matches.complete:
        return
    parts = []
    if matches.unmatched:
        parts.append(f"{len(matches.unmatched)} unmatched ({_first(matches.unmatched)})")
    if matches.missing:
        parts.append(f"{len(matches.missing)} missing ({_first(matches.missing)})")
    raise ConfigError(
        f"{what}: {len(matches.names)} weights match, {', '.join(parts)}: nothing is loaded in part; "
        "`python -m jobs.import_model` lists all names and takes `names` for those that its table does not know"
    )


def read_state(path: Path) -> dict[str, Tensor]:
    """A state dict from .safetensors, or from a .pt/.bin/.pth file of tensors (nothing else in it is run).

    Nested dicts of tensors are flattened with dots; what is no tensor is passed over. Raises ConfigError.
    """
    try:
        if path.suffix == ".safetensors":
            loaded: dict[str, Tensor] = load_file(path)
            return loaded
        return dict(_flat(torch.load(path, map_location="cpu", weights_only=True, mmap=True)))
    except (OSError, SafetensorError, RuntimeError, ValueError, AttributeError, KeyError, EOFError) as err:
        raise ConfigError(f"{path}: no weights: {' '.join(str(err).split())[:200]}") from None
    except Exception as err:  # noqa: BLE001 - whatever unpickling raises
        raise ConfigError(f"{path}: no weights: {type(err).__name__}") from None


def read_peft(folder: Path) -> tuple[dict[str, Tensor], LoraSpec]:
    """LoRA weights of a PEFT folder and what they mean. Raises ConfigError for a variant that is not plain LoRA."""
    path = folder / "adapter_config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        kind, rank, alpha = config["peft_type"], int(config["r"]), float(config["lora_alpha"])
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise ConfigError(f"{path}: {err}") from None
    other = [key for key in ("use_dora", "rank_pattern", "alpha_pattern", "modules_to_save", "fan_in_fan_out")
             if config.get(key)]  # fmt: skip
    if kind != "LORA" or config.get("bias", "none") != "none" or other:
        raise ConfigError(f"{path}: only plain LoRA without bias is read, not {kind} with {', '.join(other) or 'bias'}")
    if config.get("use_rslora"):
        alpha *= rank**0.5  # scaled by alpha / sqrt(rank) there
    weights = [folder / name for name in ("adapter_model.safetensors", "adapter_model.bin")]
    state = read_state(next((file for file in weights if file.is_file()), weights[0]))
    found = {match["target"] for name in state if (match := re.search(LORA, name))}
    targets = [name for name in ("q_proj", "k_proj", "v_proj", "o_proj") if name in found]
    if not targets:
        raise ConfigError(f"{folder}: no LoRA on q_proj, k_proj, v_proj or o_proj among its {len(state)} weights")
    return state, LoraSpec.model_validate({"rank": rank, "alpha": alpha, "targets": targets})


def _translated(name: str, orders: Mapping[str, int]) -> str | None:
    bare = _bare(name)
    for pattern, ours in PATTERNS:
        if found := re.fullmatch(pattern, bare):
            groups = found.groupdict()
            if "side" in groups:
                groups["side"] = SIDES[groups["side"]]
            if "order" in groups:
                groups["order"] = str(orders[name])
            return ours.format(**groups)
    return None


def _orders(names: Iterable[str]) -> dict[str, int]:
    """The place of each numbered convolution among those of the same kind."""
    numbers: dict[str, list[tuple[int, str]]] = {}
    for name in names:
        if found := re.fullmatch(rf"{CONVOLUTION}(?P<kind>weight|bias)", _bare(name)):
            numbers.setdefault(found["kind"], []).append((int(found["order"]), name))
    return {name: place for rows in numbers.values() for place, (_, name) in enumerate(sorted(rows))}


def _bare(name: str) -> str:
    """Without the wrappers in front."""
    while True:
        for wrapper in WRAPPERS:
            if name.startswith(wrapper):
                name = name.removeprefix(wrapper)
                break
        else:
            return name


def _flat(tree: Any, prefix: str = "") -> Iterable[tuple[str, Tensor]]:
    for key, value in tree.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{key}", value
        elif isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")


def _first(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if names[3:] else "")
