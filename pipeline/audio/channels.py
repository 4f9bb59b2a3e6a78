"""Which tracks and channels of a recording become signals of their own."""

from __future__ import annotations

from typing import Literal, NamedTuple

from pipeline.audio.decode import Contents
from pipeline.audio.headers import check_format
from pipeline.config import SourceConfig
from pipeline.schemas import SAMPLE_RATE, RecordingRef


class Channel(NamedTuple):
    """What is decoded as one signal: a track and a channel of it (None: the mean of all).

    label: `channel` of its segments. and_above: it also has the channels that begin later, behind the last known one.
    """

    track: int
    channel: int | None
    label: int | None
    and_above: bool = False


def wanted_channels(ref: RecordingRef, found: Contents, source: SourceConfig) -> list[Channel]:
    """What is recognised of a recording, by source.track and source.channels.

    With source.channels=split these are all channels of a track, else it is one: the channel that the manifest
    selects, or the mean of all. Several are numbered from 0, over all tracks. Raises BadAudio if there are too many.
    """
    track: int | Literal["default", "all"] = source.track
    default = next(iter(found.channels))
    numbers = sorted(found.channels) if track == "all" else [default if track == "default" else track]
    split = source.channels == "split" and ref.channel is None
    for count in found.channels.values() if split else ():
        check_format(SAMPLE_RATE, count, name=ref.source_member or ref.source_uri)
    pairs = [
        (number, channel)
        for number in numbers
        for channel in (range(found.channels.get(number, 1)) if split else [ref.channel])
    ]
    is_one = len(pairs) == 1 and not split
    return [
        Channel(number, one, one if is_one else label, split and one == found.channels.get(number, 1) - 1)
        for label, (number, one) in enumerate(pairs)
    ]
