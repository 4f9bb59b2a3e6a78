"""The commands of the documentation: lines of fenced blocks, as a shell would get them.

A block without a language whose first line is a command has only commands. A command may end in a comment; its first
word may be one of MARKS: no test runs the command, because it needs what the machine of the tests does not have. Such
a word alone on the first line of a block holds for the whole block.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "infra/README.md")
MARKS = {
    "GPU": "an NVIDIA GPU, or weights that only a GPU can hold",
    "cloud": "a cluster, a store or an account",
    "network": "the network: packages or a repository",
    "corpora": "corpora that are on no package registry",
    "hours": "hours, or Debian's speech engines",
}
_BLOCK = re.compile(r"^```(\S*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_PROGRAMS = (r"\.venv/bin/", "python ", "make ", "fullcanvas ", "ray ", "git ", "pip ", "export ", r"[\d*]+ [\d*]+ ")
_PROGRAM = re.compile(rf"# ({'|'.join(MARKS)})$|{'|'.join(_PROGRAMS)}", re.MULTILINE)
_INLINE = re.compile(r"`(?:\.venv/bin/)?(python -m [^`]+|make [a-z][^`]*)`")


@dataclass(frozen=True)
class Command:
    """A command of a page. text: one line without its comment. mark: one of MARKS, or None: a test runs it."""

    page: str
    text: str
    mark: str | None

    @property
    def words(self) -> list[str]:
        """The words of the command."""
        return shlex.split(self.text)

    @property
    def job(self) -> list[str] | None:
        """Name and arguments of the job of ours that it calls, up to an operator of the shell; None: it calls none."""
        words = self.words
        for end in (">>", "2>&1", "|", "&&"):
            if end in words and words.index(end) > 3:
                words = words[: words.index(end)]
        if words[0] == "fullcanvas":
            return [words[1].replace("-", "_"), *words[2:]]
        if "-m" in words and (name := words[words.index("-m") + 1]).startswith("jobs."):
            return [name.removeprefix("jobs."), *words[words.index("-m") + 2 :]]
        return None


def pages() -> list[str]:
    """Every page that has commands for people, by its place in the repository."""
    return [*PAGES, *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and text of each fenced block."""
    return _BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))


def commands(page: str) -> list[Command]:
    """The commands of a page in their order."""
    return [command for language, text in blocks(page) if not language for command in _of_block(page, text)]


def _of_block(page: str, text: str) -> list[Command]:
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip() not in ("", "...")]
    if not lines or not _PROGRAM.match(lines[0]):
        return []
    whole = lines.pop(0)[2:] if lines[0].startswith("# ") else None
    found = []
    for line in lines:
        body, _, comment = line.partition(" # ")
        own = comment.split(" ", 1)[0].strip(":,")
        found.append(Command(page, " ".join(body.split()), own if own in MARKS else whole))
    return found


def named(page: str) -> list[str]:
    """Commands inside the text of a page: `python -m ...` and `make ...`."""
    return _INLINE.findall(_BLOCK.sub("", (ROOT / page).read_text(encoding="utf-8")))
