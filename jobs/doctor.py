"""Check a machine or a cluster before a run: python -m jobs.doctor --config configs/transcribe.yaml key=value ...

Looks at GPUs, torch, memory, disks, decoders, the model and its hashes, the hub, source, output and Ray. Every check
has a time limit. With RAY_ADDRESS set (as `ray job submit` does) the checks of a machine run on every node. What FAILs
here would stop the run; what is ok here may still fail later. Exit code 1 if a check FAILs. The config is optional.
"""

from __future__ import annotations

import math
import os
import sys

from rich.console import Console

from jobs import cli
from pipeline.config import ConfigError
from pipeline.config_file import load
from pipeline.doctor.settings import DoctorConfig


def main(arguments: list[str] | None = None) -> int:
    """Run all checks, print the table, write the rows if a file is given. Returns the exit code."""
    made = cli.parser("doctor", DoctorConfig, __doc__)
    made.add_argument("--json", metavar="FILE", help="write the rows: check, state, finding, advice, node")
    made.add_argument(
        "--limit",
        metavar="SECONDS",
        type=float,
        default=math.inf,
        help="seconds for each check (default: its own limit)",
    )
    options = made.parse_intermixed_args(arguments)
    try:
        config = load(DoctorConfig, options.config, options.overrides)
        code = run(config, options.json, options.limit)
    except ConfigError as err:
        print(err, file=sys.stderr)
        return cli.EXIT_USAGE
    return _leave_where_a_check_hangs(code)


def run(config: DoctorConfig, json: str | None = None, limit: float = math.inf) -> int:
    """Run all checks and show the rows. Returns 1 if one FAILs. json: a file for the rows. limit: seconds per check."""
    from pipeline.doctor import table
    from pipeline.doctor.examine import examine_machine

    console = Console(stderr=True)
    with console.status("starting") as status:  # shows nothing if stderr is no terminal
        rows = examine_machine(config, lambda name: status.update(f"checking {name}"), limit=limit)
    table.show(rows)
    if json:
        table.write_json(rows, json)
    return int(any(row.state == "FAIL" for row in rows))


def _leave_where_a_check_hangs(code: int) -> int:
    """Return the code, or end the process with it if a check still runs: Python would wait for its threads."""
    from pipeline.doctor.rows import is_hung

    if is_hung():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
