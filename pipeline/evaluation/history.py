"""Evaluations that stay: rows as Parquet by date, set and language, a small result beside them, baselines by name.

OUT/evaluations/date=YYYY-MM-DD/set=NAME/language=xx/EVALUATION.parquet   a row per recording, schemas.EVALUATED
OUT/results/EVALUATION.json                                              rates, comparisons, verdict: one object each
OUT/results/EVALUATION.started                                           when it began, so that a resume keeps its date
OUT/baselines/NAME.json                                                  which evaluation NAME stands for
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.config import ConfigError, StorageConfig
from pipeline.evaluation.result import Evaluation, Point
from pipeline.schemas import EVALUATED
from pipeline.storage.base import Storage, open_storage, read_json

ROWS, RESULTS, BASELINES = "evaluations", "results", "baselines"
PARTITIONS = ("date", "set", "language")
PREVIOUS = "previous"
_KEY = re.compile(rf"{ROWS}/date=([^/]+)/set=([^/]+)/language=([^/]+)/([^/]+)\.parquet")


def write_rows(storage: Storage, rows: pa.Table) -> set[str]:
    """Rows of one evaluation, a file per date, set and language; written again they replace themselves. The keys."""
    written = set()
    for group in rows.group_by(list(PARTITIONS)).aggregate([]).to_pylist():
        mask = pa.scalar(True)
        for name in PARTITIONS:
            mask = pc.and_(mask, pc.equal(rows[name], group[name]))
        held = rows.filter(mask)
        key = _row_key(group, held["evaluation"][0].as_py())
        with storage.scratch() as directory:
            path = directory / "rows.parquet"
            pq.write_table(held.drop_columns(list(PARTITIONS)), path, compression="zstd")
            storage.put(key, path.read_bytes())
        written.add(key)
    return written


def read_rows(storage: Storage, evaluation: str) -> pa.Table:
    """The rows of one evaluation. Raises ConfigError where there are none."""
    tables = []
    for key in storage.list(f"{ROWS}/"):
        match = _KEY.fullmatch(key)
        if not match or match[4] != evaluation:
            continue
        with storage.open(key) as stream, pq.ParquetFile(stream) as file:
            table = file.read()
        for place, name in enumerate(PARTITIONS):
            table = table.add_column(place, name, pa.array([match[place + 1]] * table.num_rows, pa.string()))
        tables.append(table.select(EVALUATED.names).cast(EVALUATED))
    if not tables:
        raise ConfigError(f"baseline: {storage.uri}: no rows of the evaluation {evaluation}")
    return pa.concat_tables(tables)


def write_result(storage: Storage, name: str, evaluation: Evaluation) -> None:
    """The result as JSON; rates of speakers, lengths and noise follow from the rows and are left out."""
    rates = [asdict(rate) for rate in evaluation.rates if rate.group in ("all", "set", "language")]
    content = {"name": name} | asdict(evaluation) | {"history": [], "rates": rates}
    storage.put(f"{RESULTS}/{evaluation.evaluation}.json", json.dumps(content, indent=1, default=_text).encode())


def keep(storage: Storage, target: str, rows: pa.Table, config: StorageConfig) -> None:
    """Make an evaluation the baseline `target`: a NAME in its own output, or an address that then holds it alone."""
    if "/" not in target:
        content = {"evaluation": rows["evaluation"][0].as_py()}
        storage.put(f"{BASELINES}/{target}.json", json.dumps(content).encode())
        return
    other = open_storage(target, config=config)
    written = write_rows(other, rows)
    for key in list(other.list(f"{ROWS}/")):
        if key not in written:
            other.delete(key)


def results(storage: Storage) -> list[dict[str, Any]]:
    """All results, oldest first. What is no result of this version is left out."""
    found = []
    for key in storage.list(f"{RESULTS}/"):
        content = read_json(storage, key)
        if {"name", "evaluation", "evaluated_at", "rates", "about"} <= set(content):
            found.append(content)
    return sorted(found, key=lambda one: (one["evaluated_at"], one["evaluation"]))


def is_corrupted(result: dict[str, Any]) -> bool:
    """Whether its hypotheses were damaged on purpose: no baseline, and no point of a plot."""
    return bool(result["about"].get("corrupt"))


def points(found: list[dict[str, Any]], name: str, *, last: int = 100) -> list[Point]:
    """Rates by language of the last evaluations of this name, for the plot over time."""
    return [
        Point(
            evaluated_at=datetime.fromisoformat(one["evaluated_at"]),
            evaluation=one["evaluation"],
            model=one["about"].get("model", ""),
            language=rate["key"],
            metric=rate["metric"],
            rate=_headline(rate),
            low=rate["low"],
            high=rate["high"],
        )
        for one in [one for one in found if one["name"] == name and not is_corrupted(one)][-last:]
        for rate in one["rates"]
        if rate["group"] == "language" and rate["low"] is not None
    ]


def baseline_rows(
    storage: Storage, baseline: str, name: str, evaluation: str, config: StorageConfig
) -> pa.Table | None:
    """The rows that `baseline` stands for: a kept NAME, `previous`, or the address of another output of jobs.evaluate.

    evaluation: the present one, which is not its own predecessor. None where `previous` has none yet. Corrupted ones
    are never meant. Raises ConfigError, one line, where there is no other.
    """
    if baseline == PREVIOUS:
        earlier = [one["evaluation"] for one in results(storage) if one["name"] == name and not is_corrupted(one)]
        earlier = [one for one in earlier if one != evaluation]
        return read_rows(storage, earlier[-1]) if earlier else None
    if "/" not in baseline:
        key = f"{BASELINES}/{baseline}.json"
        if storage.exists(key):
            if not isinstance(meant := read_json(storage, key).get("evaluation"), str):
                raise ConfigError(f"baseline: {baseline}: {storage.uri}/{key} names no evaluation")
            return read_rows(storage, meant)
        kept = ", ".join(sorted(_kept(storage))) or "none"
        raise ConfigError(f"baseline: {baseline}: not kept in {storage.uri} (kept there: {kept})")
    other = open_storage(baseline, create=False, config=config)
    held = sorted({match[4] for key in other.list(f"{ROWS}/") if (match := _KEY.fullmatch(key))})
    told = results(other)
    if len(held) != 1 or any(is_corrupted(one) for one in told):
        dated = [one["evaluation"] for one in told if not is_corrupted(one)]
        if not dated:
            raise ConfigError(f"baseline: {baseline}: {len(held)} evaluations there, and no result says which is last")
        held = dated[-1:]
    return read_rows(other, held[0])


def started(storage: Storage, evaluation: str) -> datetime:
    """When this evaluation began, UTC; the same for everybody who goes on with it."""
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


def _headline(rate: dict[str, Any]) -> float:
    c = rate["chars" if rate["metric"] == "CER" else "words"]
    return float(c["substitutions"] + c["deletions"] + c["insertions"]) / (
        c["hits"] + c["substitutions"] + c["deletions"]
    )


def _text(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
