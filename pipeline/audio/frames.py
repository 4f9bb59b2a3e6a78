"""Decoded FFmpeg frames become arrays of samples: views of their memory, many of them joined into one block.

PyAV's own `to_ndarray` is not used. For mp3 and opus it takes half as long as decoding (measured). It does not know
64-bit integers. With 8 or more planes it reads beyond the last one, which ends the process.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from av.audio.plane import AudioPlane

DTYPES = {name: np.dtype(kind) for name, kind in
          {"u8": "u1", "s16": "i2", "s32": "i4", "s64": "i8", "flt": "f4", "dbl": "f8"}.items()}  # fmt: skip


class Kind(NamedTuple):
    """What frames must have in common to be joined."""

    rate: int  # Hz
    channels: int
    form: str  # FFmpeg's name of the sample format: s16, fltp ... Names that end in p are planar


def kind_of(frame: Any) -> Kind:
    """The kind of an av.AudioFrame."""
    return Kind(frame.sample_rate, frame.layout.nb_channels, frame.format.name)


def dtype_of(kind: Kind) -> np.dtype:
    """The type of one sample."""
    return DTYPES[kind.form.removesuffix("p")]


def planes_of(frame: Any, kind: Kind) -> list[np.ndarray]:
    """The memory of a frame with at least one sample, without a copy.

    Planar formats give one array [frames] per channel; others give one array [frames * channels], channels in turn.
    """
    dtype = dtype_of(kind)
    count, planes = (frame.samples, kind.channels) if kind.form.endswith("p") else (frame.samples * kind.channels, 1)
    memory: list[Any] = [AudioPlane(frame, index) for index in range(planes)]
    return [np.frombuffer(plane, dtype, count) for plane in memory]


def joined(frames: list[list[np.ndarray]], kind: Kind) -> np.ndarray:
    """Join what `planes_of` returned for frames of one kind. Returns a copy, [channels, frames]."""
    planes = [np.concatenate(parts) for parts in zip(*frames, strict=True)]
    if kind.form.endswith("p"):
        return np.stack(planes) if len(planes) > 1 else planes[0][None]
    return planes[0].reshape(-1, kind.channels).T
