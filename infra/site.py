"""The documentation as a site that needs no network: README.md, all pages of the menu, and whatever they link to.

    python -m infra.site [folder]

Writes FOLDER (out/docs). The files keep their places in the repository, so a link is right there and in the site; a
source file is in the site as it is. A link that leads nowhere, or to an anchor that a page does not have, is an error.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
SETTINGS = ROOT / "infra/mkdocs.yml"
_LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)")


def main(folder: Path) -> int:
    """Build the site. Returns the exit code: 1 where a link is wrong."""
    with tempfile.TemporaryDirectory() as work:
        shutil.copy(SETTINGS, work)
        for file in linked():
            copy = Path(work, "pages", file.relative_to(ROOT))
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copy)
        command = [Path(sys.executable).parent / "zensical", "build", "--strict"]
        done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
        if done.returncode:
            print(done.stdout + done.stderr, file=sys.stderr)
            return 1
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(Path(work, "site"), folder)
    print(folder / "index.html")
    return 0


def linked() -> list[Path]:
    """The pages of the menu and all that they link to, and those pages in turn. Raises FileNotFoundError."""
    found: set[Path] = set()
    left = [ROOT / name for name in names(yaml.safe_load(SETTINGS.read_text(encoding="utf-8"))["nav"])]
    while left:
        path = left.pop()
        if path in found:
            continue
        found.add(path)
        if path.suffix == ".md":
            links = _LINK.findall(path.read_text(encoding="utf-8"))
            left += [(path.parent / link).resolve(strict=True) for link in links]
    return sorted(found)


def names(menu: list[dict[str, object]]) -> Iterator[str]:
    """The files of a menu, whatever its depth."""
    for entry in menu:
        for value in entry.values():
            if isinstance(value, list):
                yield from names(value)
            else:
                yield str(value)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "out/docs")))
