"""File names of sources: which are audio, which are sidecars, and the globs of the source section."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_AUDIO = (
    "wav wave flac mp3 mp2 mpga ogg oga opus spx m4a m4b mp4 aac ac3 aif aiff aifc au snd caf w64 rf64 amr 3gp wma "
    "webm mka mkv mov sph ape wv tta"
)
AUDIO = frozenset(_AUDIO.split())
SIDECARS = frozenset(("json", "txt", "cls", "lang"))
MAGIC = re.compile(r"[*?\[{]")
MAX_EXPANSION = 1_000_000  # names that one {..} pattern may stand for
BRACES = re.compile(r"\{([^{}]*)\}")


def split_name(name: str, known: frozenset[str] = AUDIO) -> tuple[str, str] | None:
    """("de/rec.1", "flac") for "de/rec.1.FLAC"; None unless the last extension is a known one of a named file."""
    stem, _, extension = name.rpartition(".")
    extension = extension.lower()
    return (stem, extension) if extension in known and stem and not stem.endswith("/") else None


def is_hidden(name: str) -> bool:
    """Whether a folder or the file itself begins with a dot; "." and ".." do not count."""
    return any(part.startswith(".") and part not in (".", "..") for part in name.split("/"))


def has_magic(name: str) -> bool:
    return MAGIC.search(name) is not None


def literal_prefix(pattern: str) -> str:
    """All before the first wildcard: every name that matches begins with it."""
    return MAGIC.split(pattern, maxsplit=1)[0]


def expand_braces(pattern: str) -> Iterator[str]:
    """ "s-{00..02}.{tar,tgz}" as its names, in order. Raises ValueError where they are more than a million."""
    for count, name in enumerate(_expand(pattern)):
        if count == MAX_EXPANSION:
            raise ValueError(f"the braces stand for more than {MAX_EXPANSION:,} names")
        yield name


def glob_regex(pattern: str, *, within_folder: bool = True) -> re.Pattern[str]:
    """A glob on whole paths: `*` and `?` stay within a folder, `**` crosses folders, `**/` may be no folder at all.

    within_folder=False: `*` and `?` match a slash as well (globs on recording ids). Raises ValueError on "[z-a]".
    """
    one = "[^/]" if within_folder else "."
    try:
        return re.compile("|".join(f"(?:{_translate(name, one)})" for name in expand_braces(pattern)), re.DOTALL)
    except re.error as err:
        raise ValueError(f"no such pattern: {err.msg}") from None


def _translate(pattern: str, one: str) -> str:
    parts = []
    at = 0
    while at < len(pattern):
        rest = pattern[at:]
        if rest.startswith("**/") and (at == 0 or pattern[at - 1] == "/"):
            parts.append("(?:.*/)?")
            at += 3
        elif rest.startswith("**"):
            parts.append(".*")
            at += 2
        elif rest[0] == "*":
            parts.append(f"{one}*")
            at += 1
        elif rest[0] == "?":
            parts.append(one)
            at += 1
        elif (kind := re.match(r"\[(!?)(\]?[^\]/]*)\]", rest)) and kind[2]:
            members = re.sub(r"([\\\[\]&~|^])", r"\\\1", kind[2])
            parts.append(f"[{'^/' if kind[1] else ''}{members}]")
            at += kind.end()
        else:
            parts.append(re.escape(rest[0]))
            at += 1
    return "".join(parts)


def _choices(body: str) -> Iterable[str] | None:
    ends = re.fullmatch(r"(\d+)\.\.(\d+)", body)
    if ends:
        return (f"{number:0{len(ends[1])}d}" for number in range(int(ends[1]), int(ends[2]) + 1))
    return body.split(",") if "," in body else None


def _expand(pattern: str) -> Iterator[str]:
    for found in BRACES.finditer(pattern):
        choices = _choices(found[1])
        if choices is not None:
            for choice in choices:
                yield from _expand(pattern[: found.start()] + choice + pattern[found.end() :])
            return
    yield pattern
