"""Storage: whether the source can be read, the output can be written, and one of several racing writers wins."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from pipeline.audio.decode import decode_all
from pipeline.config import ConfigError, RunConfig
from pipeline.doctor.rows import Result, size
from pipeline.output.commit import committed_units
from pipeline.planning.plan import plan_names
from pipeline.planning.update import compare_source
from pipeline.schemas import BadAudio, BadRecording
from pipeline.sources.formats import list_recordings, read_recording
from pipeline.storage.base import apply, open_existing, open_storage, race_probe
from pipeline.storage.errors import StorageError, reason
from pipeline.storage.patience import retries

TRIED = 5  # recordings of the source; one bad recording does not stop a run
PROBE_BYTES = 1 << 20
KEYS = "the path; for a store the keys, storage.endpoint and the rights to list and read"
RIGHTS = "the path; for a store the keys, storage.endpoint and the rights to put, get, list and delete"


def source(config: RunConfig) -> Iterator[Result]:
    """A row about the first recordings of the source: whether one can be read and decoded."""
    if not config.source.uri:
        yield Result("source", "ok", "source.uri is not given: not checked")
        return
    apply(config.storage)
    started = time.perf_counter()
    try:
        refs = list(islice(list_recordings(config.source), TRIED))
    except (ConfigError, StorageError) as err:
        yield Result("source", "FAIL", str(err), KEYS)
        return
    listed = time.perf_counter() - started
    problems = []
    for ref in refs:
        started = time.perf_counter()
        try:
            audio = read_recording(ref).audio
            read = len(audio) if isinstance(audio, bytes) else ref.size
            decode_all(audio, name=ref.recording_id, max_seconds=config.compute.max_recording_seconds, end_ms=1000)
        except BadAudio as err:
            problems.append(f"{ref.recording_id}: read, but it is not usable audio: {err.detail}")
        except (BadRecording, OSError) as err:
            problems.append(f"{ref.recording_id}: {err}")
        else:
            took = time.perf_counter() - started
            finding = f"{ref.recording_id}: {size(read)} read in {took:.2f} s, listed in {listed:.2f} s"
            bad = f"; {len(problems)} before it cannot be used: {problems[0]}" if problems else ""
            yield Result("source", "warn" if problems else "ok", finding + bad)
            return
    yield Result("source", "FAIL", f"none of the first {len(refs)} recordings can be used: {problems[0]}", KEYS)


def growth(config: RunConfig) -> Iterator[Result]:
    """A row about what the source has gained, changed and lost since this output was planned."""
    storage = open_existing(config.output.uri, config=config.storage) if config.output.uri else None
    if not config.source.uri or storage is None or not plan_names(storage):
        return
    found = compare_source(storage, config.source, committed_units(storage))
    if found is None:
        yield Result("source plan", "ok", "a corpus or dataset is not compared with the plan")
    elif found:
        yield Result("source plan", "warn", f"the source has changed since it was planned: {found}", "plan.update=true")
    else:
        yield Result("source plan", "ok", "the source is as it was planned")


def output(config: RunConfig) -> Iterator[Result]:
    """A row about one object that is put, read, listed and deleted. A folder that it makes is removed again."""
    if not config.output.uri:
        yield Result("output", "ok", "output.uri is not given: not checked")
        return
    with _left_as_it_was(config.output.uri):
        key, body = f"_run/probe-{uuid.uuid4().hex}", os.urandom(PROBE_BYTES)
        before, started = retries.total(), time.perf_counter()
        try:
            storage = open_storage(config.output.uri, config=config.storage)
            storage.put(key, body)
            same = storage.get(key) == body
            listed = key in storage.list("_run/probe-")
            storage.delete(key)
            gone = not storage.exists(key)
        except (ConfigError, StorageError) as err:
            yield Result("output", "FAIL", str(err), RIGHTS)
            return
        except OSError as err:
            yield Result("output", "FAIL", f"output.uri: {config.output.uri}: {reason(err)}", RIGHTS)
            return
    took = time.perf_counter() - started
    wrong = [what for good, what in ((same, "read back"), (listed, "listed"), (gone, "deleted")) if not good]
    if wrong:
        yield Result("output", "FAIL", f"{storage.uri}: an object that was put is not {', '.join(wrong)}", RIGHTS)
        return
    retried = retries.total() - before
    again = f", {retried} retries" if retried else ""
    yield Result("output", "ok", f"{storage.uri}: 1 MiB written, read, listed, deleted in {took:.2f} s{again}")


def race(config: RunConfig) -> Iterator[Result]:
    """A row about writers that race for one object: exactly one must win."""
    if not config.output.uri:
        return
    if config.storage.single_writer:
        advice = "make sure that only one job at a time writes to this output"
        yield Result("output race", "warn", "storage.single_writer=true: not tried", advice)
        return
    with _left_as_it_was(config.output.uri):
        try:
            race_probe(open_storage(config.output.uri, config=config.storage))
        except (ConfigError, StorageError) as err:
            yield Result("output race", "FAIL", str(err), "another store, or storage.single_writer=true")
            return
    yield Result("output race", "ok", "of 9 writers of one object one won, three times")


@contextlib.contextmanager
def _left_as_it_was(uri: str) -> Iterator[None]:
    """Remove the empty folders that a check of a local output makes."""
    root = None if "://" in uri and not uri.startswith("file://") else Path(uri.removeprefix("file://")).expanduser()
    if root is None or root.exists():
        yield
        return
    made = [root, *(parent for parent in root.absolute().parents if not parent.exists())]
    try:
        yield
    finally:
        for folder in (*sorted(root.rglob("*"), reverse=True), *made):
            with contextlib.suppress(OSError):
                folder.rmdir()
