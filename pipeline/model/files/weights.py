"""Weights in safetensors files: read tensor by tensor straight into a model that is already in place, and written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipeline.config import ConfigError


def unusable(path: Path, err: Exception) -> ConfigError:
    """One line that names the file."""
    return ConfigError(f"model.name: {path}: {' '.join(str(err).split()) or type(err).__name__}")


def fill(
    targets: Mapping[str, Tensor],
    files: Iterable[Path],
    *,
    rename: Callable[[str], str | None] = lambda name: name,
    rows: Mapping[str, int] | None = None,
    optional: tuple[str, ...] = (),
) -> None:
    """Copy every target from the files, each tensor once, cast to the target's dtype on the target's device.

    A file is mapped into memory while it is read, so replicas of one machine share its pages, and no second copy is
    made. rename: a stored name's target, None to pass over it. rows: targets of which only the first rows are taken.
    optional: prefixes of targets that may be absent or of another shape; such ones become zero.
    Raises ConfigError naming the file where a tensor is missing, unknown or of another shape.
    """
    paths = list(files)
    done: set[str] = set()
    for path in paths:
        try:
            with safe_open(path, framework="pt") as file:
                for stored in file.keys():  # noqa: SIM118 - not a mapping
                    name = rename(stored)
                    if name is None:
                        continue
                    spare = name.startswith(optional) if optional else False
                    if name not in targets:
                        if spare:
                            continue
                        raise unusable(path, KeyError(f"unexpected weight {stored}"))
                    tensor = file.get_tensor(stored)
                    if rows and name in rows:
                        tensor = tensor[: rows[name]]
                    target = targets[name]
                    if tensor.shape != target.shape:
                        if spare:
                            continue
                        shapes = f"{list(tensor.shape)} instead of {list(target.shape)}"
                        raise unusable(path, ValueError(f"{stored} is of shape {shapes}"))
                    if name in done and not torch.equal(target, tensor.to(target)):
                        raise unusable(path, ValueError(f"{stored} differs from the weight that it is tied to"))
                    target.copy_(tensor)
                    done.add(name)
        except (OSError, SafetensorError) as err:
            raise unusable(path, err) from None
    missing = [name for name in targets if name not in done]
    zero = {name for name in missing if optional and name.startswith(optional)}
    lost = [name for name in missing if name not in zero]
    if lost:
        raise unusable(paths[-1], KeyError(f"missing weights: {', '.join(lost[:3])}{' ...' if lost[3:] else ''}"))
    for name in zero:
        targets[name].zero_()


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a file, without its content. Raises ConfigError."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as err:
        raise unusable(path, err) from None


def whisper_name(name: str) -> str | None:
    """The encoder's own name of a weight in a whole Whisper checkpoint of transformers; None for the decoder's."""
    name = name.removeprefix("model.")
    if name.startswith(("decoder.", "proj_out.")):
        return None
    return name.removeprefix("encoder.")


def write(state: Mapping[str, Tensor], path: Path, dtype: torch.dtype) -> None:
    """Write a state dict in `dtype`."""
    save_file({name: weight.to(dtype).contiguous() for name, weight in state.items()}, path, metadata={"format": "pt"})
