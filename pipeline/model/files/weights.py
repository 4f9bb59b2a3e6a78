"""Weights in files of safetensors or torch: read tensor by tensor into a model that has its memory, and written.

No code of a torch file is run. Where it holds objects beside tensors, each is read as a `StandIn`.

A weight in FP8 or int8 has its scales beside it, one per row, under its name with `_scale` at the end: in files as
compressed-tensors writes them (`M.weight`, `M.weight_scale`), in those of the embedded Whisper, and among the targets
of a model that keeps FP8 (network/float8.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipeline.config import ConfigError
from pipeline.model.files.hub import SAFE
from pipeline.model.network import float8

SCALE = "_scale"  # ends the name of what belongs to a weight in FP8 or int8
STORED_FP8 = "F8_E4M3"  # safetensors' name of float8_e4m3fn
SCALED = (STORED_FP8, "I8")
ERRORS = (OSError, SafetensorError, ValueError)


class StandIn:
    """Takes the place of any class or function that a torch file names: its own code is not even imported."""

    def __new__(cls, *args: Any) -> StandIn:
        """Keeps what the real one would be called with: tensors among it are weights like others."""
        made = super().__new__(cls)
        made.__dict__["arguments"] = args
        return made


def unusable(path: Path, err: Exception) -> ConfigError:
    """One line that names the file that cannot be used."""
    return ConfigError(f"model.name: {path}: {' '.join(str(err).split()) or type(err).__name__}")


def fill(
    targets: Mapping[str, Tensor],
    files: Iterable[Path],
    *,
    rename: Callable[[str], str | None] = lambda name: name,
    rows: Mapping[str, int] | None = None,
    optional: tuple[str, ...] = (),
) -> None:
    """Copy every target from the files, cast to the target's dtype on the target's device.

    A file is mapped into memory while it is read, so replicas of one machine share its pages, and no second copy is
    made. rename: from a stored name to its target; None skips it. rows: targets of which only the first rows are taken.
    optional: prefixes of targets that may be absent or of another shape in the files; these become zero.
    Raises ConfigError naming the file where a tensor is missing, unknown or of another shape.
    """
    paths = list(files)
    scales = _scales(paths)
    of_fp8 = {name + SCALE for name in targets} & targets.keys()
    done: set[str] = set()
    for path in paths:
        try:
            for stored, read in _stored(path):
                name = rename(stored)
                if name is None or stored in scales or (name not in targets and name.startswith(optional)):
                    continue
                if name not in targets or name in of_fp8:
                    raise ValueError(f"unexpected weight {stored}")
                tensor = read()[: rows[name]] if rows and name in rows else read()
                if tensor.shape == targets[name].shape or not name.startswith(optional):
                    given = (tensor, scales.get(stored + SCALE))
                    _copy(given, (targets[name], targets.get(name + SCALE)), stored, again=name in done)
                    done |= {name, name + SCALE}
        except ERRORS as err:
            raise unusable(path, err) from None
    missing = [name for name in targets if name not in done]
    lost = [name for name in missing if not name.startswith(optional)]
    if lost:
        raise unusable(paths[-1], ValueError(f"missing weights: {', '.join(lost[:3])}{' ...' if lost[3:] else ''}"))
    for name in missing:
        targets[name].zero_()


def read_state(path: Path) -> dict[str, Tensor]:
    """All tensors of a file of safetensors or torch, by their names. Raises ConfigError.

    Names of nested dicts, lists and objects are joined with dots. What is no tensor is left out. Weights with scales
    become float32.
    """
    scales = _scales([path])
    try:
        state = {name: read() for name, read in _stored(path) if name not in scales}
        scaled = {name.removesuffix(SCALE): scale for name, scale in scales.items()}
        return state | {name: float8.dequantise(state[name], s, torch.float32) for name, s in scaled.items()}
    except ERRORS as err:
        raise ConfigError(f"{path}: no weights: {' '.join(str(err).split())[:200]}") from None


def read_states(paths: Iterable[Path], what: str) -> dict[str, Tensor]:
    """All tensors of several files. what: begins the error. Raises ConfigError where two files share a name."""
    state: dict[str, Tensor] = {}
    for path in paths:
        more = read_state(path)
        if twice := sorted(state.keys() & more.keys()):
            raise ConfigError(f"{what}: {path}: {twice[0]} is in another of the files as well")
        state |= more
    return state


def _scales(paths: Iterable[Path]) -> dict[str, Tensor]:
    """The scales of all weights in FP8 or int8 by their names; they may be in another file than their weight.

    Raises ConfigError where one is missing.
    """
    needed = {name + SCALE: path for path in paths for name, dtype in dtypes(path).items() if dtype in SCALED}
    readers = (pair for path in (paths if needed else ()) for pair in _stored(path))
    scales = {name: read().clone() for name, read in readers if name in needed}  # a view would keep its file mapped
    for name, path in needed.items():
        if name not in scales:
            raise unusable(path, ValueError(f"{name.removesuffix(SCALE)} has one byte a value, and {name} is missing"))
    return scales


def _stored(path: Path) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """The names in a file, each with what reads its tensor. Raises one of ERRORS."""
    if path.suffix != SAFE:
        for name, tensor in _torch_file(path).items():
            yield name, partial(tensor.detach)
        return
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - not a mapping
            yield name, partial(file.get_tensor, name)


def _torch_file(path: Path) -> dict[str, Tensor]:
    """The tensors of a torch file, mapped into memory. Raises OSError or ValueError."""
    try:
        unknown = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        with torch.serialization.safe_globals([(StandIn, name) for name in unknown]):
            tree = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        state: dict[str, Tensor] = {}
        for name, tensor in _flat(tree):
            if name in state:
                raise ValueError(f"two weights are called {name}")
            state[name] = tensor
    except (OSError, ValueError):
        raise
    except Exception as err:  # noqa: BLE001 - whatever unpickling raises
        raise ValueError(f"{type(err).__name__}, torch.load(weights_only=True) does not read it") from None
    return state


def _flat(tree: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors of nested dicts, lists and objects with their names, joined with dots."""
    if isinstance(tree, Tensor):
        yield name, tree
        return
    if isinstance(tree, StandIn):
        tree = vars(tree)
    if isinstance(tree, list | tuple):
        tree = dict(enumerate(tree))
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _flat(value, f"{name}.{key}" if name else str(key))


def _copy(
    given: tuple[Tensor, Tensor | None], target: tuple[Tensor, Tensor | None], stored: str, *, again: bool
) -> None:
    """Copy a stored weight into its target; the second of both pairs are the scales of what has some.

    Raises ValueError for another shape, and for other values where the target is filled already (again).
    """
    tensor, scale = given
    if tensor.shape != target[0].shape:
        raise ValueError(f"{stored} is of shape {list(tensor.shape)} instead of {list(target[0].shape)}")
    if scale is not None and scale.shape != (*tensor.shape[:-1], 1):
        wanted = [*tensor.shape[:-1], 1]
        raise ValueError(f"{stored}{SCALE} is of shape {list(scale.shape)} instead of {wanted}")
    for value, into in float8.pairs(given, target):
        if again and not torch.equal(into, value.to(into)):
            raise ValueError(f"{stored} differs from the weight that it is tied to")
        into.copy_(value)


def dtypes(path: Path) -> dict[str, str]:
    """Name and dtype ("BF16") of every tensor in a safetensors file; no tensor is read. Empty for a torch file.

    Raises ConfigError.
    """
    if path.suffix != SAFE:
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    except ERRORS as err:
        raise unusable(path, err) from None


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor in a file; no tensor is read. Raises ConfigError."""
    try:
        if path.suffix != SAFE:
            return {name: tuple(tensor.shape) for name, tensor in _torch_file(path).items()}
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except ERRORS as err:
        raise unusable(path, err) from None


def whisper_name(name: str) -> str | None:
    """A weight's name in the encoder, from its name in a whole Whisper checkpoint; None for the decoder's weights."""
    name = name.removeprefix("model.")
    if name.startswith(("decoder.", "proj_out.")):
        return None
    return name.removeprefix("encoder.")


def write(state: Mapping[str, Tensor], path: Path, dtype: torch.dtype) -> None:
    """Write a state dict in `dtype`. Raises ValueError for weights in FP8, which would lose their scales."""
    if any(weight.dtype == float8.FP8 for weight in state.values()):
        raise ValueError("a model that was loaded in FP8 is not written: load it with fp8=False")
    path.touch()
    mode = path.stat().st_mode
    save_file({name: weight.to(dtype).contiguous() for name, weight in state.items()}, path, metadata={"format": "pt"})
    path.chmod(mode)  # safetensors makes a file that its owner alone can read; the workers of a cluster are other users
