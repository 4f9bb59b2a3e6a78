"""Where source and output may lie: apart, so that a run does not read what it writes, and where they stay."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.config import ConfigError, SourceConfig, place
from pipeline.sources.access import names

# One name of each kind that an output has.
WRITTEN = (
    "_run/plan.parquet",
    "_run/summary.json",
    "_run/config.yaml",
    "commits/00/unit.json",
    "data/unit-attempt.arrow",
    "transcripts/part-00000.parquet",
    "dead_letters/part-00000.parquet",
    "report.html",
)


SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets it for the command of `ray job submit`, and for nothing else


def check_places(source: SourceConfig, output: str) -> None:
    """Raise ConfigError if source or output is relative in a submitted job, or if one lies inside the other."""
    if not (source.format == "huggingface" and not Path(source.uri).exists()):  # owner/name is no path
        check_absolute("source.uri", source.uri)
    check_absolute("output.uri", output)
    check_apart(source.uri, output)


def check_absolute(key: str, uri: str) -> None:
    """Raise ConfigError if `uri` is relative and this is a submitted job: its folder is Ray's, which may delete it."""
    if SUBMITTED not in os.environ or "://" in uri or uri.startswith(("/", "~")):
        return
    absolute = Path(uri).absolute() if Path(uri).exists() else Path.home() / uri
    raise ConfigError(
        f"{key}: {uri}: relative, but the folder of a submitted job is Ray's own, which deletes it: give the absolute "
        f"path on the cluster, such as {absolute}, or the address of a store"
    )


def check_apart(source: str, output: str) -> None:
    """Raise ConfigError if the output lies inside the source, or the source inside the output.

    A glob contains the output only if it matches files that a run writes: /data/*.wav does not contain /data/out.
    A folder that is called like a glob ("talks [2024]") is a folder.
    """
    written = place(output)
    is_there = os.path.exists(place(source))  # noqa: PTH110 - a long glob is no error
    literal = source if is_there else names.literal_prefix(source)
    has_magic = literal != source
    folder = literal.rpartition("/")[0] or ("/" if literal.startswith("/") else ".") if has_magic else source
    root = place(folder)
    if _is_below(written, root) and (not has_magic or _matches(source, literal, root, written)):
        raise ConfigError(f"output.uri: {output}: inside the source {source}; the next run would read what this writes")
    if written != root and _is_below(root, written):
        raise ConfigError(
            f"output.uri: {output}: the source {source} is inside it; write to a folder beside the source"
        )


def _is_below(inner: str, outer: str) -> bool:
    return inner == outer or inner.startswith(f"{outer.rstrip('/')}/")


def _matches(source: str, literal: str, root: str, written: str) -> bool:
    """Whether the glob matches any file that a run writes to `written`. root: the folder of its literal part."""
    pattern = f"{root.rstrip('/')}/{source[len(literal.rpartition('/')[0]) :].lstrip('/')}"
    try:
        matches = names.glob_regex(pattern).fullmatch
    except ValueError:  # not a valid pattern: listing the source says so
        return False
    return any(matches(f"{written}/{name}") for name in WRITTEN)
