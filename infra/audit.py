"""Look for known vulnerabilities in what the locks pin: python -m infra.audit [--if-reachable] [LOCK ...].

pip-audit asks the database OSV, or a mirror of it at OSV_URL, for each package of each lock. Exit codes: 0 none is
known; 1 some are, or a package could not be looked up; 3 the database is out of reach (0 with --if-reachable).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import requests

ROOT = Path(__file__).parents[1]
LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-bench.lock")
OSV = "https://api.osv.dev/v1/query"
SECONDS = 15  # for one answer


def out_of_reach(url: str) -> str | None:
    """Why the database does not answer; None if it does."""
    try:
        requests.post(
            url, json={"package": {"name": "pip", "ecosystem": "PyPI"}, "version": "26.0"}, timeout=SECONDS
        ).raise_for_status()
    except requests.RequestException as err:
        return type(err).__name__
    return None


def main(arguments: list[str] | None = None) -> int:
    """Audit the locks. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m infra.audit", description=__doc__)
    parser.add_argument("locks", nargs="*", default=[str(ROOT / name) for name in LOCKS])
    parser.add_argument("--if-reachable", action="store_true", help="no error where the database is out of reach")
    chosen = parser.parse_args(arguments)
    url = os.environ.get("OSV_URL", OSV)
    if why := out_of_reach(url):
        print(f"{url}: {why}; the locks are not audited (OSV_URL names a mirror)", file=sys.stderr)
        return 0 if chosen.if_reachable else 3
    options = ["--strict", "--no-deps", "--disable-pip", "--progress-spinner", "off", "--timeout", str(SECONDS)]
    files = [word for lock in chosen.locks for word in ("--requirement", lock)]
    command = [sys.executable, "-m", "pip_audit", *options, "--vulnerability-service", "osv", "--osv-url", url, *files]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
