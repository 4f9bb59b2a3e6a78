"""How far a run is, or how it ended: python -m jobs.status OUT, from any machine that reaches the output.

OUT is the address that the run has as output.uri: a folder, or s3://, gs:// or az://bucket/prefix.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

from jobs import cli
from jobs.stopping import leave
from pipeline.config import OutputConfig, Section, StorageConfig

WATCH_SECONDS = 5.0  # between two looks, and ten times as long as a look takes
SWITCHES = {"--watch": "look again every few seconds, until no run is at work", "--json": "print JSON, one line a look"}


class StatusConfig(Section):
    """All settings of `jobs.status`."""

    output: OutputConfig
    storage: StorageConfig = StorageConfig()


def run(config: StatusConfig, *, watch: bool, json: bool) -> int:
    """Print the status, with `watch` again and again. Returns 0."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from pipeline.output.status import status_lines

    looks = _looks(config, watch=watch)
    if not (watch and sys.stdout.isatty()) or json:
        try:
            for status in looks:
                print(_as_json(status) if json else "\n".join(status_lines(status)), flush=True)
        except BrokenPipeError:  # as of `| head -1`, which has read enough
            leave(0)
        return 0
    with Live(console=Console(), auto_refresh=False) as live:
        for status in looks:
            live.update(Text("\n".join(status_lines(status))), refresh=True)
    return 0


def _looks(config: StatusConfig, *, watch: bool) -> Iterator[dict[str, Any]]:
    from pipeline.output.status import read_status
    from pipeline.storage.base import open_storage

    storage = open_storage(config.output.uri, create=False, config=config.storage)
    while True:
        began = time.monotonic()
        status = read_status(storage)
        yield status
        if not watch or status["state"] != "running":
            return
        time.sleep(max(WATCH_SECONDS, 10 * (time.monotonic() - began)))


def _as_json(status: dict[str, Any]) -> str:
    return json.dumps(status, ensure_ascii=False)


def main(arguments: list[str] | None = None) -> int:
    """The job as a command. Returns the exit code of `cli.main`."""
    return cli.main("status", StatusConfig, run, __doc__, arguments, switches=SWITCHES, resumes=False, address=True)


if __name__ == "__main__":
    sys.exit(main())
