"""Search and listen to transcripts in a browser: python -m jobs.browse OUT.

OUT is the address that the run had as output.uri: a folder, or s3://, gs:// or az://bucket/prefix. It prints the
address of a page on this machine, and serves it until Ctrl-C or SIGTERM. Audio comes from the source of the run.
"""

from __future__ import annotations

import sys

from jobs import cli
from jobs.stopping import Stopped, leave
from pipeline.browse.settings import BrowseConfig


def run(config: BrowseConfig) -> int:
    """Serve the page. A stop is its end, with exit code 0."""
    from pipeline.browse.server import PageServer
    from pipeline.storage.base import open_storage

    storage = open_storage(config.output.uri, create=False, config=config.storage)
    server = PageServer(config, storage)
    try:
        print(server.address, flush=True)
        server.serve_forever()
    except Stopped:
        leave(0)  # at once, whatever is being searched
    return 0


def main(arguments: list[str] | None = None) -> int:
    """The job as a command. Returns the exit code of `cli.main`."""
    return cli.main("browse", BrowseConfig, run, __doc__, arguments, resumes=False, address=True)


if __name__ == "__main__":
    sys.exit(main())
