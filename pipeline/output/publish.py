"""Publishes the committed results: two tables that DuckDB, Spark and pandas read, the accounting and a summary.

A local table is replaced as a whole. In an object store that is impossible: its parts are replaced one by one. So the
plan decides which recordings are in which part, and that never changes. A reader may see old and new parts together,
but every recording at most once.

A part that is published as it would be now is kept, and nothing of it is read: neither commits nor data.

If two publications run at the same time, the older one may overwrite parts of the newer one. So every publication ends
with a check, after it has written its summary: are all parts its own? If not, it publishes again. The publication that
ends last sees everything that the other one has written. If a publication is killed before its check, `is_published`
is False and the next run publishes.
"""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from pipeline.config import ConfigError
from pipeline.output.accounting import Tally, count_part
from pipeline.output.calibrator import calibrator_id, of_output
from pipeline.output.commit import SCHEMAS, Commits, collect_garbage
from pipeline.output.part_files import (
    PartTask,
    file_name,
    is_overtaken,
    published_units,
    write_part,
)
from pipeline.output.parts import PUBLISHED, SUMMARY, Part, is_known, parts_of, read_ledger
from pipeline.output.rounds import current_results, planned_now
from pipeline.planning.fingerprint import fingerprint_id
from pipeline.planning.plan import ignored_files, plan_names, read_fingerprint
from pipeline.planning.update import last_changes
from pipeline.schemas import SCHEMA_VERSION
from pipeline.storage.base import OutputError, Replacement, Storage, clear_abandoned, read_json
from pipeline.storage.patience import retries

MAX_PUBLICATIONS = 10  # how often to publish, if other drivers publish at the same time
ACCOUNTING = "_run/accounting.json"


class _Overtaken(Exception):
    """Another driver published while this publication was running."""


def publish_tables(storage: Storage, *, notes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Publish everything that is committed now. Returns the content of _run/summary.json, which includes `notes`.

    It may run at any time and as often as you like; the same commits give the same bytes. Every data file that is read
    is compared with its commit and every unit with the plan. If another driver publishes meanwhile, this one publishes
    again. Afterwards the data of lost attempts is deleted.

    Raises ConfigError if nothing is planned. Raises OutputError, one line that names the file, if the output is damaged
    or if the books of a complete run do not close; the tables that were published before stay readable.
    """
    names = plan_names(storage)
    if not names:
        raise ConfigError(f"output.uri: {storage.uri}: nothing is planned here yet")
    for number in range(MAX_PUBLICATIONS):
        started = time.monotonic()
        with contextlib.suppress(_Overtaken):
            summary = _publish_once(storage, names, dict(notes or {}))
            collect_garbage(storage)
            clear_abandoned(storage)
            return summary
        took = time.monotonic() - started
        time.sleep(random.uniform(0, 2 + number) * took)  # a random time, so that two drivers do not meet again
    raise OutputError(f"{storage.uri}: other drivers keep publishing here; run publish=true after they have ended")


def is_published(storage: Storage, committed: int) -> bool:
    """Whether the tables contain exactly `committed` units of all plans, and all parts are from one publication."""
    written, summary = read_json(storage, PUBLISHED).get("versions"), read_json(storage, SUMMARY)
    is_all = published_units(storage) == committed and summary.get("plans") == len(plan_names(storage))
    is_all &= summary.get("calibrator") == calibrator_id(storage)
    return bool(written) and is_all and written == _versions(storage)


def refreshed_summary(storage: Storage) -> dict[str, Any]:
    """The summary of the last publication, with what the last comparison of the source has found. It is kept so."""
    summary = read_json(storage, SUMMARY)
    if summary.get("source_changes") != (found := asdict(last_changes(storage))):
        summary["source_changes"] = found
        storage.put(SUMMARY, _as_json(summary))
    return summary


def _publish_once(storage: Storage, names: list[str], notes: dict[str, Any]) -> dict[str, Any]:
    """Publish what is committed now, and return the summary. Raises _Overtaken if another driver publishes too."""
    before, ledger, there = published_units(storage), read_ledger(storage), _versions(storage)
    commits = Commits(storage)
    committed, calibrator = len(commits.units), of_output(storage)
    results = current_results(storage, names, commits.units)
    tally = Tally(*planned_now(storage, names, commits.units, results))
    *parts, rest = parts_of(storage, names, commits, results)
    entries: dict[str, dict[str, Any]] = {}
    with contextlib.ExitStack() as stack:
        tables: dict[str, Replacement] = {
            name: stack.enter_context(storage.replace(name)) for name in reversed(SCHEMAS)
        }
        changed = [part for part in parts if not _keep(part, ledger.get(part.name), there, tables, entries)]
        fingerprint = fingerprint_id(read_fingerprint(storage))
        for part in changed:
            written = write_part(PartTask(storage, part, tables, fingerprint, before, committed, calibrator))
            if written is None:
                raise _Overtaken
            for name, version in written.files.items():
                tables[name].versions[f"{name}/{file_name(written.part.number or 0)}"] = version
            entries[written.part.name] = _entry(written.part, written.tally, written.rows, written.files)
        known = ledger.get(rest.name)
        entries[rest.name] = (
            known if known and is_known(known, rest) else _entry(rest, count_part(storage, rest), {}, {})
        )
        for entry in entries.values():
            tally.merge(Tally.from_json(entry["tally"]))
        _check_books(storage, tally, entries)
    if is_overtaken(storage, before, committed):
        raise _Overtaken
    versions = {key: version for table in tables.values() for key, version in table.versions.items()}
    summary = (
        _summary(tally)
        | {"ignored_files": ignored_files(storage), "calibrator": calibrator.id if calibrator else ""}
        | {"plans": len(names), "source_changes": asdict(last_changes(storage))}
        | notes
    )
    storage.put(SUMMARY, _as_json(summary))
    storage.put(PUBLISHED, _as_json({"versions": versions, "parts": entries}))
    if _versions(storage) != versions:
        raise _Overtaken
    return summary


def _keep(
    part: Part,
    entry: dict[str, Any] | None,
    there: Mapping[str, str],
    tables: Mapping[str, Replacement],
    entries: dict[str, dict[str, Any]],
) -> bool:
    """Keep the files of a part if they are as they would be now. Then `entries` gets its entry of the ledger.

    there: the versions of all files. Raises _Overtaken if one is replaced at this moment.
    """
    assert part.number is not None
    if entry is None or not is_known(entry, part):
        return False
    keys = {name: f"{name}/{file_name(part.number)}" for name in SCHEMAS if entry["files"].get(name)}
    if any(there.get(key) != entry["files"][name] for name, key in keys.items()):
        return False
    for name, key in keys.items():
        if not tables[name].keep(file_name(part.number), there[key]):
            raise _Overtaken
    entries[part.name] = entry
    return True


def _versions(storage: Storage) -> dict[str, str]:
    """The version of each part that is in the storage now, by key."""
    return {key: version for name in SCHEMAS for key, version in storage.versions(f"{name}/").items()}


def _entry(part: Part, tally: Tally, rows: Mapping[str, int], files: Mapping[str, str]) -> dict[str, Any]:
    """What the ledger notes of a part. files: the version of its file in each table."""
    return {"digest": part.digest, "rows": dict(rows), "files": dict(files), "tally": tally.to_json()}


def _check_books(storage: Storage, tally: Tally, entries: Mapping[str, Mapping[str, Any]]) -> None:
    """Write _run/accounting.json. Raises OutputError if the books do not close or do not agree with the tables."""
    storage.put(ACCOUNTING, _as_json(tally.report()))
    complaints = tally.complaints()
    for name, counted in (("transcripts", tally.rows), ("dead_letters", tally.dead.total())):
        rows = sum(entry["rows"].get(name, 0) for entry in entries.values())
        if rows != counted:
            complaints.append(f"{rows} rows of {name}, but {counted} in the commits")
    if complaints:
        raise OutputError(f"{storage.uri}/{ACCOUNTING}: the books do not close: {'; '.join(complaints)}")


def _summary(tally: Tally) -> dict[str, Any]:
    report = tally.report()
    same_names = (
        *("closed", "complete", "units_planned", "units_committed", "dead_letters", "damaged", "segments", "left_out"),
        *("recordings_damaged", "recordings_unread", "bytes_unread"),
    )
    return {
        "schema_version": SCHEMA_VERSION,
        **{name: report[name] for name in same_names},
        "recordings": report["recordings_planned"],
        "recordings_transcribed": report["recordings_transcribed"],
        "recordings_dead_lettered": report["recordings_dead_lettered"],
        "audio_hours": round(report["seconds_in"] / 3600, 4),
        "storage_retries": dict(retries),
        "published": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _as_json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, indent=1).encode() + b"\n"
