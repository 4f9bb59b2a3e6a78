"""Make the pictures of a run for the README, infra/terminal.svg and infra/report.png, from what `make demo` has left.

    python -m infra.pictures [OUT]

The terminal shows the run's last sign of life and its summary (pipeline/output/terminal.py). The report is
OUT/report.html as Chromium shows it; Debian's package chromium must be installed.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from pipeline.output.parts import SUMMARY
from pipeline.output.progress import SIGNS
from pipeline.output.terminal import progress_view, summary_line
from pipeline.storage.base import open_storage, read_json

HERE = Path(__file__).parent
COLUMNS = 100
SIZE = (1280, 1350)  # pixels of the report


def terminal(sign: Mapping[str, Any], summary: Mapping[str, Any], command: str) -> str:
    """The SVG of a terminal after a run. It loads no fonts. sign: of _run/progress; summary: of _run/summary.json."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(f"$ {command}", highlight=False)
    console.print(progress_view(sign))
    console.print(f"\n{summary_line(summary)}", highlight=False, markup=False)
    svg = console.export_svg(title=command, unique_id="terminal")
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)


def report(page: Path, picture: Path) -> None:
    """Write a PNG of the top of a page. Raises CalledProcessError where Chromium cannot."""
    with tempfile.TemporaryDirectory() as profile:
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}"]
        options += ["--window-size={},{}".format(*SIZE), f"--screenshot={picture}"]
        subprocess.run(["chromium", *options, page.resolve().as_uri()], check=True, capture_output=True)


def main(arguments: list[str]) -> None:
    """Make both pictures."""
    output = Path(arguments[0] if arguments else "out/demo")
    storage = open_storage(str(output), create=False)
    (sign,) = (read_json(storage, key) for key in storage.list(SIGNS))
    drawn = terminal(sign, read_json(storage, SUMMARY), "make demo")
    (HERE / "terminal.svg").write_text(drawn, encoding="utf-8")
    report(output / "report.html", HERE / "report.png")


if __name__ == "__main__":
    main(sys.argv[1:])
