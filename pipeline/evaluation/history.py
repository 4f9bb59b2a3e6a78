"""Past evaluations: rows as Parquet by date, set and language, a small result for each, baselines by name.

OUT/evaluations/date=YYYY-MM-DD/set=NAME/language=xx/EVALUATION.parquet   a row per recording, schemas.EVALUATED
OUT/results/EVALUATION.json                                              rates, settings, comparisons, verdict
OUT/results/EVALUATION.started                                           when it began; a resume keeps this date
OUT/baselines/NAME.json                                                  which evaluation NAME stands for
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.config import ConfigError, StorageConfig
from pipeline.evaluation.result import RECORDED, Evaluation, Point, rate_of
from pipeline.evaluation.settings import PREVIOUS
from pipeline.schemas import EVALUATED
from pipeline.storage.base import Storage, delete_all, open_storage, read_json

ROWS, RESULTS, BASELINES = "evaluations", "results", "baselines"
PARTITIONS = ("date", "set", "language")
_KEY = re.compile(rf"{ROWS}/date=([^/]+)/set=([^/]+)/language=([^/]+)/([^/]+)\.parquet")


class Baseline(NamedTuple):
    """An earlier evaluation: its rows (schemas.EVALUATED), and its result, which is empty where only rows were kept."""

    rows: pa.Table
    result: dict[str, Any]


def write_rows(storage: Storage, rows: pa.Table) -> set[str]:
    """Write the rows of one evaluation, a file per date, set and language, and return the keys.

    Writing an evaluation again replaces its files; one of a language that it no longer has is deleted.
    """
    written = set()
    for group in rows.group_by(list(PARTITIONS)).aggregate([]).to_pylist():
        mask = pa.scalar(True)
        for name in PARTITIONS:
            mask = pc.and_(mask, pc.equal(rows[name], group[name]))
        chosen = rows.filter(mask)
        key = _row_key(group, chosen["evaluation"][0].as_py())
        with storage.scratch() as directory:
            path = directory / "rows.parquet"
            pq.write_table(chosen.drop_columns(list(PARTITIONS)), path, compression="zstd")
            storage.put(key, path.read_bytes())
        written.add(key)
    files = {key.rpartition("/")[2] for key in written}
    same_days = [key for date in pc.unique(rows["date"]).to_pylist() for key in storage.list(f"{ROWS}/date={date}/")]
    delete_all(storage, [key for key in same_days if key.rpartition("/")[2] in files and key not in written])
    return written


def read_rows(storage: Storage, evaluation: str) -> pa.Table:
    """The rows of one evaluation: schemas.EVALUATED. Raises ConfigError where there are none."""
    tables = []
    for key in storage.list(f"{ROWS}/"):
        match = _KEY.fullmatch(key)
        if not match or match[4] != evaluation:
            continue
        with storage.open(key) as stream, pq.ParquetFile(stream) as file:
            table = file.read()
        for place, name in enumerate(PARTITIONS):
            table = table.add_column(place, name, pa.array([match[place + 1]] * table.num_rows, pa.string()))
        for name in set(EVALUATED.names) - set(table.column_names):  # an earlier version wrote it
            table = table.append_column(EVALUATED.field(name), pa.nulls(table.num_rows, EVALUATED.field(name).type))
        tables.append(table.select(EVALUATED.names).cast(EVALUATED))
    if not tables:
        raise ConfigError(f"baseline: {storage.uri}: no rows of the evaluation {evaluation}")
    return pa.concat_tables(tables)


def write_result(storage: Storage, name: str, evaluation: Evaluation) -> str:
    """Write the result as JSON, without the rates of speakers, durations and noise: they follow from the rows.

    Returns its key.
    """
    key = f"{RESULTS}/{evaluation.evaluation}.json"
    rates = [asdict(rates) | {"rate": rates.counts.rate} for rates in evaluation.rates if rates.group in RECORDED]
    content = {"name": name} | asdict(evaluation) | {"history": [], "rates": rates}
    storage.put(key, json.dumps(content, indent=1, default=_text).encode())
    return key


def keep(
    storage: Storage, target: str, name: str, evaluation: Evaluation, rows: pa.Table, config: StorageConfig
) -> None:
    """Make an evaluation the baseline `target`: a NAME in its own output, or an address.

    An address then contains this evaluation only; the rows and results of earlier ones are deleted there.
    """
    if "/" not in target:
        content = {"evaluation": evaluation.evaluation}
        storage.put(f"{BASELINES}/{target}.json", json.dumps(content).encode())
        return
    other = open_storage(target, config=config)
    written = write_rows(other, rows) | {write_result(other, name, evaluation)}
    delete_all(other, [key for kind in (ROWS, RESULTS) for key in other.list(f"{kind}/") if key not in written])


def results(storage: Storage) -> list[dict[str, Any]]:
    """All results, oldest first. Files that are not results of this version are left out."""
    known = []
    for key in storage.list(f"{RESULTS}/"):
        content = read_json(storage, key)
        if {"name", "evaluation", "evaluated_at", "rates", "about"} <= set(content):
            known.append(content)
    return sorted(known, key=lambda one: (one["evaluated_at"], one["evaluation"]))


def is_corrupted(result: dict[str, Any]) -> bool:
    """Whether its hypotheses were damaged on purpose; then it is no baseline and no point of a plot."""
    return bool(result["about"].get("corrupt"))


def points(known: list[dict[str, Any]], name: str, *, last: int = 100) -> list[Point]:
    """Rates by language of the `last` evaluations of this name, for the plot over time. known: from `results`."""
    return [
        Point(
            evaluated_at=datetime.fromisoformat(one["evaluated_at"]),
            evaluation=one["evaluation"],
            model=one["about"].get("model", ""),
            language=rate["key"],
            metric=rate["metric"],
            rate=rate_of(rate) or 0.0,
            low=rate["low"],
            high=rate["high"],
        )
        for one in [one for one in known if one["name"] == name and not is_corrupted(one)][-last:]
        for rate in one["rates"]
        if rate["group"] == "language" and rate["low"] is not None
    ]


def baseline(storage: Storage, named: str, name: str, evaluation: str, config: StorageConfig) -> Baseline | None:
    """The baseline: a kept NAME, `previous`, or at the address of another output of jobs.evaluate.

    evaluation: the present one; it is never its own baseline, and corrupted evaluations are none either. None where
    `previous` does not exist yet. Raises ConfigError, one line, where any other baseline does not exist, or where the
    NAME stands for the present evaluation.
    """
    if named == PREVIOUS:
        earlier = [one["evaluation"] for one in results(storage) if one["name"] == name and not is_corrupted(one)]
        earlier = [one for one in earlier if one != evaluation]
        return _baseline(storage, earlier[-1]) if earlier else None
    if "/" not in named:
        key = f"{BASELINES}/{named}.json"
        if storage.exists(key):
            if not isinstance(kept_one := read_json(storage, key).get("evaluation"), str):
                raise ConfigError(f"baseline: {named}: {storage.uri}/{key} names no evaluation")
            if kept_one == evaluation:
                raise ConfigError(f"baseline: {named}: is {evaluation}, which this would replace: give it another run=")
            return _baseline(storage, kept_one)
        kept = ", ".join(sorted(_kept(storage))) or "none"
        raise ConfigError(f"baseline: {named}: not kept in {storage.uri} (kept there: {kept})")
    other = open_storage(named, create=False, config=config)
    stored = sorted({match[4] for key in other.list(f"{ROWS}/") if (match := _KEY.fullmatch(key))})
    known = results(other)
    if len(stored) == 1 and not any(is_corrupted(one) for one in known):
        return _baseline(other, stored[0])
    sound = [one["evaluation"] for one in known if not is_corrupted(one)]
    if not sound:
        raise ConfigError(f"baseline: {named}: {len(stored)} evaluations there, and no result says which is last")
    return _baseline(other, sound[-1])


def _baseline(storage: Storage, evaluation: str) -> Baseline:
    key = f"{RESULTS}/{evaluation}.json"
    return Baseline(read_rows(storage, evaluation), read_json(storage, key) if storage.exists(key) else {})


def started(storage: Storage, evaluation: str) -> datetime:
    """When this evaluation began, UTC. A resume gets the same time."""
    key = f"{RESULTS}/{evaluation}.started"
    now = datetime.now(UTC).replace(microsecond=0)
    storage.put_if_absent(key, now.isoformat().encode())
    return datetime.fromisoformat(storage.get(key).decode())


def _row_key(group: dict[str, str], evaluation: str) -> str:
    folder = "/".join(f"{name}={group[name]}" for name in PARTITIONS)
    return f"{ROWS}/{folder}/{evaluation}.parquet"


def _kept(storage: Storage) -> Iterator[str]:
    for key in storage.list(f"{BASELINES}/"):
        yield key.removeprefix(f"{BASELINES}/").removesuffix(".json")


def _text(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
