"""How far an output is: what its commits say, and the signs of life of its runs. Nothing is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from pipeline.config import ConfigError
from pipeline.output.accounting import close_books
from pipeline.output.progress import DONE, ENDS, SIGN_SECONDS, SIGNS
from pipeline.output.publish import is_published
from pipeline.output.terminal import by_reason, clock, progress_line
from pipeline.planning.plan import BASE, plan_key
from pipeline.storage.base import Storage, read_json

SILENT_SECONDS = 4 * SIGN_SECONDS  # without a sign for so long a run is dead, or its store or clock is


def read_status(storage: Storage) -> dict[str, Any]:
    """The state of an output and of its runs.

    state: done (complete and published), running, failed or stopped (so the last run has ended), silent (the last run
    gave no sign of life for two minutes: its process is killed, or out of reach), unfinished (no run has left a sign).
    Then the counts of _run/accounting.json, as they are now; rtfx and eta_* of all running shares together; and `runs`:
    the last sign of each share, with its age in seconds. The age compares the clocks of two machines.

    It reads each commit that is not published yet. Raises ConfigError if nothing is planned there.
    """
    if not storage.exists(plan_key(BASE)):
        raise ConfigError(f"output.uri: {storage.uri}: no run has planned anything here")
    books = close_books(storage)
    now = datetime.now(UTC)
    runs = sorted(_signs(storage), key=lambda sign: str(sign["time"]))
    for run in runs:
        run["age_seconds"] = round((now - datetime.fromisoformat(run["time"])).total_seconds())
    live = [run for run in runs if run["state"] not in ENDS and run["age_seconds"] < SILENT_SECONDS]
    published = is_published(storage, books["units_committed"])
    if live:
        state = "running"
    elif books["complete"] and published:
        state = DONE
    elif runs and runs[-1]["state"] != DONE:
        state = runs[-1]["state"] if runs[-1]["state"] in ENDS else "silent"
    else:
        state = "unfinished"
    etas = {name: [run[name] for run in live] for name in ("eta_seconds", "eta_low", "eta_high")}
    return {
        "output": storage.uri,
        "state": state,
        "published": published,
        "rtfx": round(sum(run["rtfx"] or 0 for run in live), 3) if live else None,
        **{name: max(values) if values and None not in values else None for name, values in etas.items()},
        **books,
        "runs": runs,
    }


def status_lines(status: Mapping[str, Any]) -> Iterator[str]:
    """The same for people: the output, its recordings, and a line for each run that has not ended well."""
    is_public = "published" if status["published"] else "not published as it is now"
    yield f"{status['output']}: {status['state']}, {is_public}"
    yield (
        f"{status['units_committed']:,} of {status['units_planned']:,} units · "
        f"{status['recordings_transcribed']:,} of {status['recordings_planned']:,} recordings transcribed, "
        f"{status['recordings_pending']:,} to do · {status['seconds_in'] / 3600:.2f} h of audio"
    )
    yield by_reason(status["dead_letters"], "dead letters")
    if status["damaged"]:
        yield by_reason(status["damaged"], "damaged")
    for complaint in status["complaints"]:
        yield f"WARN the books do not close: {complaint}"
    for run in status["runs"]:
        if run["state"] == DONE:
            continue
        where = (
            f"share {run['share'].replace('of', '/')} on {run['host']}, sign of life {clock(run['age_seconds'])} ago"
        )
        yield f"{where}: {progress_line(run)}{': ' + run['error'] if run['error'] else ''}"


def _signs(storage: Storage) -> Iterator[dict[str, Any]]:
    """The last sign of each share. One that is being replaced, or of another version, is left out."""
    for key in storage.list(SIGNS):
        sign = read_json(storage, key)
        if sign.get("time") and "units_total" in sign:
            yield sign
