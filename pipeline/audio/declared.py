"""What the header of a recording says, read without decoding."""

from __future__ import annotations

import io
from typing import NamedTuple

from pipeline.audio.track import AudioTrack
from pipeline.schemas import Recording


class Header(NamedTuple):
    """Of the default track. seconds: of the whole file; None: the header does not say it. rate: in Hz."""

    seconds: float | None
    rate: int
    channels: int


def header_of(read: Recording, name: str) -> Header:
    """What a recording says that was fetched; it is closed then. Raises BadAudio if it is not audio."""
    try:
        file = io.BytesIO(read.audio) if isinstance(read.audio, bytes) else read.audio
        with AudioTrack(file, name) as audio:
            track, length = audio.track, audio.container.duration
            seconds = float(track.duration * track.time_base) if track.duration else length and length / 1e6
            return Header(seconds or None, track.codec_context.sample_rate, track.codec_context.channels)
    finally:
        read.close()
