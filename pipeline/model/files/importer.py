"""Adapters of other programs under our names: weights are matched by role and shape, all of them or none.

The name of a LoRA weight says its role, whatever else stands in it: encoder or decoder, the number of the layer, q, k,
v or o, A or B. The modules of a projector differ in the shapes of their weights; its convolutions share one shape, and
the numbers in their names give their order. A bias belongs to the weight beside it.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import pydantic
from torch import Tensor

from pipeline.config import ConfigError
from pipeline.config_file import mistakes
from pipeline.model.files.layout import LoraSpec
from pipeline.model.files.weights import read_state, shapes

PHASES = {"encoder": "encoder", "enc": "encoder", "decoder": "decoder", "dec": "decoder"}
TARGETS = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "o_proj"}
SIDES = {"a": "down", "down": "down", "b": "up", "up": "up"}
CONVOLUTIONS = "convs."  # beginning of our names of them
LIKE_NORM = "output.bias"  # has the shape of the LayerNorm's two weights

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Matches:
    """Which foreign name is which of ours, and what is left on either side with its shape."""

    names: dict[str, str]
    unmatched: dict[str, tuple[int, ...]]
    missing: dict[str, tuple[int, ...]]

    @property
    def complete(self) -> bool:
        """Whether every weight of both sides is matched."""
        return not self.unmatched and not self.missing

    @property
    def foreign(self) -> bool:
        """Whether any name is not ours."""
        return any(theirs != ours for theirs, ours in self.names.items())

    def lines(self) -> list[str]:
        """The table of what went where: a line per weight, and one for all layers where only the number differs."""
        layers = Counter(_any_layer(foreign, own) for foreign, own in self.names.items())
        return [
            *(
                f"matched    {foreign} -> {own}{f' ({count} layers)' if '*' in own else ''}"
                for (foreign, own), count in sorted(layers.items())
            ),
            *(f"unmatched  {name} {list(shape)}" for name, shape in self.unmatched.items()),
            *(f"missing    {name} {list(shape)}" for name, shape in self.missing.items()),
        ]


def match(foreign: Shapes, own: Shapes, given: Mapping[str, str] | None = None) -> Matches:
    """Which of our weights each foreign one is. Both sides: name to shape.

    given: foreign name to ours, which comes before everything else. An empty name leaves the weight out, or all whose
    names match (`optimizer.*`), but never one that a LayerNorm could have. A name that is ours already stays. A weight
    of ours that two foreign ones claim is given to neither.
    """
    given = given or {}
    claims: dict[str, str] = {}
    for name in foreign:
        ours = given.get(name, name if name in own else _lora_name(name))
        if ours is not None:
            claims[name] = ours
    claims |= _projector(
        {name: shape for name, shape in foreign.items() if name not in claims},
        {name: shape for name, shape in own.items() if name not in claims.values()},
    )
    often = Counter(claims.values())
    names = {
        theirs: ours for theirs, ours in claims.items() if own.get(ours) == tuple(foreign[theirs]) and often[ours] == 1
    }
    patterns = [name for name, ours in given.items() if not ours]
    dropped = {
        name
        for name, shape in foreign.items()
        if tuple(shape) != own.get(LIKE_NORM) and any(name == one or fnmatchcase(name, one) for one in patterns)
    }
    matched = set(names.values())
    return Matches(
        names,
        {name: shape for name, shape in foreign.items() if name not in names and name not in dropped},
        {name: shape for name, shape in own.items() if name not in matched},
    )


def match_files(paths: Iterable[Path], own: Shapes) -> Matches:
    """Which of our weights each one in an adapter's files is; complete. Reads names and shapes. Raises ConfigError."""
    paths = list(paths)
    foreign: dict[str, tuple[int, ...]] = {}
    for path in paths:
        more = shapes(path)
        if twice := sorted(foreign.keys() & more.keys()):
            raise ConfigError(
                f"model.name: {path}: {twice[0]} is in another file of the adapter as well: choose one with "
                "`python -m jobs.import_model adapter=[FILE]`"
            )
        foreign |= more
    matches = match(foreign, own)
    refuse_partial(matches, f"model.name: {', '.join(map(str, paths))}")
    return matches


def refuse_partial(matches: Matches, what: str) -> None:
    """Raises ConfigError, one line with counts and the first names, unless every weight of both sides is matched."""
    if matches.complete:
        return
    parts = []
    if matches.unmatched:
        parts.append(f"{len(matches.unmatched)} unmatched ({_first(matches.unmatched)})")
    if matches.missing:
        parts.append(f"{len(matches.missing)} missing ({_first(matches.missing)})")
    left = matches.unmatched | matches.missing
    if any(len(shape) == 1 and not name.endswith(".bias") for name, shape in left.items()):
        parts.append("perhaps of the LayerNorm that projector.final_norm in config.json turns on and off")
    raise ConfigError(
        f"{what}: {len(matches.names)} weights match, {', '.join(parts)}: nothing is loaded in part; "
        "`python -m jobs.import_model` lists all names, and `names` gives ours for those whose role is not recognised"
    )


def read_peft(folder: Path) -> tuple[dict[str, Tensor], LoraSpec]:
    """The LoRA weights of a PEFT folder and their settings. Raises ConfigError for anything but plain LoRA."""
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
    roles = [role for name in state if (role := _lora_name(name)) is not None]
    targets = [target for target in TARGETS.values() if any(f".{target}." in role for role in roles)]
    if not targets:
        raise ConfigError(f"{folder}: no LoRA on q_proj, k_proj, v_proj or o_proj among its {len(state)} weights")
    try:
        return state, LoraSpec.model_validate({"rank": rank, "alpha": alpha, "targets": targets})
    except pydantic.ValidationError as err:
        raise ConfigError(f"{path}: {mistakes(err, LoraSpec)[0]}") from None


def _lora_name(name: str) -> str | None:
    """Our name of a LoRA weight; None where the words of `name` leave its role open."""
    words = re.split(r"[^a-z0-9]+", name.lower())
    roles = [{table[word] for word in words if word in table} for table in (PHASES, TARGETS, SIDES)]
    numbers = {int(word) for word in words if word.isdecimal()}
    if len(numbers) != 1 or any(len(role) != 1 for role in roles):
        return None
    phase, target, side = (role.pop() for role in roles)
    return f"lora.{phase}.layers.{numbers.pop()}.{target}.{side}"


def _any_layer(foreign: str, own: str) -> tuple[str, str]:
    """Both names with `*` for the number of the layer."""
    found = re.fullmatch(r"(lora\.\w+\.layers\.)(\d+)(\..+)", own)
    if found is None:
        return foreign, own
    anywhere, places = re.subn(rf"(?<!\d)0*{found[2]}(?!\d)", "*", foreign)
    return (anywhere, f"{found[1]}*{found[3]}") if places == 1 else (foreign, own)


def _projector(foreign: Shapes, own: Shapes) -> dict[str, str]:
    """Foreign name to ours for modules whose weights have a shape that no other has, and for the convolutions."""
    theirs, ours = _modules(foreign), _modules(own)
    claims: dict[str, str] = {}
    for shape, mine in ours.items():
        others = sorted(theirs.get(shape, ()), key=_numbers)
        ordered = len({_numbers(module) for module in others}) == len(others)
        alone = len(mine) == 1 or all(module.startswith(CONVOLUTIONS) for module in mine)
        if alone and ordered and len(others) == len(mine):
            for module, known in zip(others, sorted(mine, key=_numbers), strict=True):
                claims |= {f"{module}{kind}": f"{known}{kind}" for kind in (".weight", ".bias")}
    return {name: claimed for name, claimed in claims.items() if name in foreign}


def _modules(shapes: Shapes) -> dict[tuple[int, ...], list[str]]:
    """Names of modules by the shape of their weight."""
    modules = defaultdict(list)
    for name, shape in shapes.items():
        if name.endswith(".weight"):
            modules[tuple(shape)].append(name.removesuffix(".weight"))
    return modules


def _numbers(name: str) -> tuple[int, ...]:
    """All numbers in a name: names with numbers sort by them as a person would."""
    return tuple(int(number) for number in re.findall(r"\d+", name))


def _first(names: Iterable[str]) -> str:
    first = list(names)
    return ", ".join(first[:3]) + (", ..." if first[3:] else "")
