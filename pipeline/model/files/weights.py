"""Weights in safetensors files: read tensor by tensor into a model that has its memory already, and written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipeline.config import ConfigError


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
    done: set[str] = set()
    for path in paths:
        try:
            for stored, read in _stored(path):
                name = rename(stored)
                if name is None or (name not in targets and name.startswith(optional)):
                    continue
                if name not in targets:
                    raise ValueError(f"unexpected weight {stored}")
                tensor = read()[: rows[name]] if rows and name in rows else read()
                if tensor.shape == targets[name].shape or not name.startswith(optional):
                    _copy(tensor, targets[name], stored, again=name in done)
                    done.add(name)
        except (OSError, SafetensorError, ValueError) as err:
            raise unusable(path, err) from None
    missing = [name for name in targets if name not in done]
    lost = [name for name in missing if not name.startswith(optional)]
    if lost:
        raise unusable(paths[-1], ValueError(f"missing weights: {', '.join(lost[:3])}{' ...' if lost[3:] else ''}"))
    for name in missing:
        targets[name].zero_()


def _stored(path: Path) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """The names in a file, each with what reads its tensor."""
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - not a mapping
            yield name, partial(file.get_tensor, name)


def _copy(tensor: Tensor, target: Tensor, stored: str, *, again: bool) -> None:
    """Raises ValueError for another shape, and for other values where the target is filled already (again)."""
    if tensor.shape != target.shape:
        raise ValueError(f"{stored} is of shape {list(tensor.shape)} instead of {list(target.shape)}")
    if again and not torch.equal(target, tensor.to(target)):
        raise ValueError(f"{stored} differs from the weight that it is tied to")
    target.copy_(tensor)


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor in a file; no tensor is read. Raises ConfigError."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as err:
        raise unusable(path, err) from None


def whisper_name(name: str) -> str | None:
    """A weight's name in the encoder, from its name in a whole Whisper checkpoint; None for the decoder's weights."""
    name = name.removeprefix("model.")
    if name.startswith(("decoder.", "proj_out.")):
        return None
    return name.removeprefix("encoder.")


def write(state: Mapping[str, Tensor], path: Path, dtype: torch.dtype) -> None:
    """Write a state dict in `dtype`."""
    save_file({name: weight.to(dtype).contiguous() for name, weight in state.items()}, path, metadata={"format": "pt"})
