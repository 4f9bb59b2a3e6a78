"""What people found in an audit: the error rate of the kept labels, with its interval."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.config import ConfigError
from pipeline.labels.risk import Risk, bounded

_NEEDED = ("label_id", "stratum", "weight", "words", "errors")


class Verdicts(NamedTuple):
    """rows: the judged labels: stratum, weight, words, errors. missing: strata with kept words and no verdict."""

    rows: list[dict[str, float | str]]
    missing: list[str]


def read_verdicts(path: Path) -> Verdicts:
    """A file that audit.html saved. Raises ConfigError, one line that names file and row.

    The judged labels of a stratum stand for all of its kept words, also where others of it have no verdict. Files of
    several people may be joined to one: a label counts once, and has one verdict at most.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as err:
        raise ConfigError(f"audit.verdicts: {path}: {getattr(err, 'strerror', None) or err}") from None
    if missing := [name for name in _NEEDED if not rows or name not in rows[0]]:
        raise ConfigError(f"audit.verdicts: {path}: no column {missing[0]}, or no row")
    found: list[dict[str, Any]] = []
    kept, heard = Counter[str](), Counter[str]()  # words of each stratum
    judged: dict[str, bool] = {}  # by label: files of two people may have it twice, and one of them its verdict
    for number, row in enumerate(rows, start=2):
        is_judged = bool((row["errors"] or "").strip())
        numbers = _numbers(row, ("weight", "words", *(["errors"] if is_judged else [])))
        if numbers is None:
            raise ConfigError(f"audit.verdicts: {path}: line {number}: weight, words or errors is no number from 0 on")
        if is_judged and judged.get(row["label_id"]):
            raise ConfigError(f"audit.verdicts: {path}: line {number}: a second verdict on {row['label_id']}")
        if row["label_id"] not in judged:
            kept[row["stratum"]] += numbers["weight"] * numbers["words"]  # type: ignore[assignment]
        judged[row["label_id"]] = is_judged or judged.get(row["label_id"], False)
        if is_judged:
            heard[row["stratum"]] += numbers["words"]  # type: ignore[assignment]
            found.append({"stratum": row["stratum"]} | numbers)
    if not found:
        raise ConfigError(f"audit.verdicts: {path}: no row has a verdict (errors)")
    for one in found:
        one["weight"] = kept[one["stratum"]] / (heard[one["stratum"]] or 1)
    return Verdicts(found, sorted(name for name in kept if kept[name] and not heard[name]))


def _numbers(row: Mapping[str, str | None], names: Iterable[str]) -> dict[str, float] | None:
    """These columns of a row; None where one is no finite number from 0 on."""
    try:
        numbers = {name: float(row[name] or "") for name in names}
    except ValueError:
        return None
    return numbers if all(number >= 0 and np.isfinite(number) for number in numbers.values()) else None


def audited_risk(rows: list[dict[str, float | str]], level: float) -> Risk:
    """The error rate of all kept labels: errors and words of each stratum, by its weight.

    The variance is that of a combined ratio over strata, each with its own spread (Cochran, Sampling Techniques,
    6.11). No bound is nearer than the exact binomial one of the audited words.
    """
    weight, words, errors = (np.array([row[name] for row in rows], float) for name in ("weight", "words", "errors"))
    total = float((weight * words).sum())
    if not total:
        raise ConfigError("audit.verdicts: no audited label has a word")
    rate = float((weight * errors).sum()) / total
    residual = weight * (errors - rate * words)
    strata: dict[object, list[float]] = defaultdict(list)
    for row, value in zip(rows, residual, strict=True):
        strata[row["stratum"]].append(float(value))
    variance = sum(len(own) * float(np.var(own, ddof=1)) for own in strata.values() if len(own) > 1)
    freedom = max(1, len(rows) - len(strata))
    spread = float(np.sqrt(variance)) / total
    return bounded(rate, spread, freedom, rate * float(words.sum()), float(words.sum()), level=level)
