"""Make one folder of a model's parts: python -m jobs.import_model output=DIR adapter=[FILE] encoder=FILE ..."""

from __future__ import annotations

import sys

from jobs import cli
from pipeline.model.files.import_config import ImportConfig


def run(config: ImportConfig) -> int:
    """Print which weight went where and the folder's name. Returns the exit code."""
    from pipeline.model.files import conversion

    folder = conversion.convert(config, print)
    print(f"model.name={folder}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """The job as a command. Returns the exit code of `cli.main`."""
    return cli.main("import_model", ImportConfig, run, __doc__, arguments)


if __name__ == "__main__":
    sys.exit(main())
