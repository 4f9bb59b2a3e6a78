"""Names of files in a source: audio or sidecar, hidden or not, and the patterns of source.uri, include and exclude."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import TypeVar

T = TypeVar("T")
_AUDIO = (
    "wav wave bwf flac mp3 mp2 mp1 mpga mpa ogg oga ogv ogx opus spx m4a m4b m4p m4r m4v mp4 mp4a f4a f4v aac adts ac3 "
    "ec3 eac3 dts aif aiff aifc au snd caf w64 rf64 amr awb 3gp 3gpp 3g2 3gp2 wma wmv asf webm mka mkv mk3d mov qt avi "
    "flv ts mts m2ts m2t mpeg mpg mpe vob sph nist ape wv tta voc gsm dss mpc"
)
AUDIO = frozenset(_AUDIO.split())
SIDECARS = frozenset(("json", "txt", "lab", "cls", "lang"))  # of these .txt and .lab are the text
MAGIC = re.compile(r"[*?\[{]")
MAX_EXPANSION = 1_000_000  # names that the braces of one pattern may stand for
BRACES = re.compile(r"\{([^{}]*)\}")


def split_name(name: str, known: frozenset[str] = AUDIO) -> tuple[str, str] | None:
    """Split a name before its extension: ("de/rec.1", "flac") for "de/rec.1.FLAC".

    Returns None if the extension is not in `known`, or if nothing stands before it.
    """
    stem, _, extension = name.rpartition(".")
    extension = extension.lower()
    return (stem, extension) if extension in known and stem and not stem.endswith("/") else None


def extension_of(name: str) -> str:
    """What stands behind the last dot of a file's own name, in lower case; "" without a dot."""
    return name.rpartition("/")[2].rpartition(".")[2].lower() if "." in name.rpartition("/")[2] else ""


def companions(name: str, sidecars: Mapping[str, Mapping[str, T]], stems: Container[str]) -> tuple[str, ...]:
    """Return the keys of `sidecars` that belong to the audio file `name`: the name itself and its stem.

    sidecars: by what stands before the extension. stems: of all audio. If both have none, the stem loses its last part
    after a dot ("k.clean" becomes "k"), until there are sidecars, or audio of its own, to which they belong.
    """
    stem = name.rpartition(".")[0]
    found = tuple(key for key in (name, stem) if key in sidecars)
    folder, slash, base = stem.rpartition("/")
    while not found and "." in base.lstrip("."):
        base = base.rpartition(".")[0]
        key = f"{folder}{slash}{base}"
        if key in stems:
            break
        found = (key,) if key in sidecars else ()
    return found


def is_hidden(name: str) -> bool:
    """Return whether the file or one of its folders begins with a dot. "." and ".." do not count."""
    return any(part.startswith(".") and part not in (".", "..") for part in name.split("/"))


def has_magic(name: str) -> bool:
    """Return whether the name contains a wildcard or an open brace."""
    return MAGIC.search(name) is not None


def literal_prefix(pattern: str) -> str:
    """Return all that stands before the first wildcard. Every name that matches the pattern begins with it."""
    return MAGIC.split(pattern, maxsplit=1)[0]


def expand_braces(pattern: str) -> Iterator[str]:
    """Yield the names that the braces stand for, in order: six names for "s-{00..02}.{tar,tgz}".

    Raises ValueError if there are more than a million.
    """
    for count, name in enumerate(_expand(pattern)):
        if count == MAX_EXPANSION:
            raise ValueError(f"the braces stand for more than {MAX_EXPANSION:,} names")
        yield name


def glob_regex(pattern: str, *, within_folder: bool = True) -> re.Pattern[str]:
    """Return the regular expression of a glob on whole paths.

    `*` and `?` match no slash, `**` matches anything, `**/` matches any number of folders, also none. With
    within_folder=False `*` and `?` match a slash too: recording ids contain slashes. Raises ValueError if the pattern
    is not valid, for example "[z-a]".
    """
    character = "[^/]" if within_folder else "."
    try:
        return re.compile("|".join(f"(?:{_translate(name, character)})" for name in expand_braces(pattern)), re.DOTALL)
    except re.error as err:
        raise ValueError(f"not a valid pattern: {err.msg}") from None


def _translate(pattern: str, character: str) -> str:
    """Translate a glob without braces. character: what `?` matches."""
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
            parts.append(f"{character}*")
            at += 1
        elif rest[0] == "?":
            parts.append(character)
            at += 1
        elif (bracket := re.match(r"\[(!?)(\]?[^\]/]*)\]", rest)) and bracket[2]:
            members = re.sub(r"([\\\[\]&~|^])", r"\\\1", bracket[2])
            parts.append(f"[{'^/' if bracket[1] else ''}{members}]")
            at += bracket.end()
        else:
            parts.append(re.escape(rest[0]))
            at += 1
    return "".join(parts)


def _choices(body: str) -> Iterable[str] | None:
    """Return what a pair of braces stands for: "00..02" is 00, 01, 02; "a,b" is a, b. None for any other text."""
    ends = re.fullmatch(r"(\d+)\.\.(\d+)", body)
    if ends:
        return (f"{number:0{len(ends[1])}d}" for number in range(int(ends[1]), int(ends[2]) + 1))
    return body.split(",") if "," in body else None


def _expand(pattern: str) -> Iterator[str]:
    for braces in BRACES.finditer(pattern):
        choices = _choices(braces[1])
        if choices is not None:
            for choice in choices:
                yield from _expand(pattern[: braces.start()] + choice + pattern[braces.end() :])
            return
    yield pattern
