"""The table of formats."""

from __future__ import annotations

from pipeline.config import ConfigError
from pipeline.export import for_people, huggingface, kaldi, lhotse, nemo, webdataset
from pipeline.export.layout import Format, Writer
from pipeline.export.settings import FormatConfig

FORMATS: dict[str, Format] = {
    "nemo": nemo.FORMAT,
    "lhotse": lhotse.FORMAT,
    "webdataset": webdataset.FORMAT,
    "huggingface": huggingface.FORMAT,
    "kaldi": kaldi.FORMAT,
    "srt": for_people.SRT,
    "vtt": for_people.VTT,
    "txt": for_people.TXT,
    "json": for_people.JSON,
}


def writer_of(config: FormatConfig) -> tuple[Writer, bool]:
    """What writes a shard, and whether it takes audio. Raises ConfigError if the format cannot do that."""
    found = FORMATS[config.format]
    if config.all_rows and config.format != "nemo":
        raise ConfigError(f"export.all_rows: only nemo has a mark for rows that are dropped, {config.format} has none")
    ways = {"segments": found.segments, "reference": found.reference}
    name = ("segments" if found.segments else "reference") if config.audio == "auto" else config.audio
    writer = ways[name]
    if writer is None:
        other = next(key for key, value in ways.items() if value)
        raise ConfigError(f"export.audio: {config.format} has no {name}, only {other}")
    return writer, name == "segments"
