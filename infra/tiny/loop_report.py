"""What infra.tiny.loop has measured: the figures of report.json, and the tables of docs/labels.md."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from infra.tiny import loop_sets, loop_speech
from pipeline.evaluation.made_with import git_commit
from pipeline.evaluation.result import Counts, Difference, headline
from pipeline.evaluation.score import char_counts, word_counts
from pipeline.evaluation.side_by_side_report import DIFFERENCES, between, difference_row, table_lines
from pipeline.evaluation.wording import percent
from pipeline.text.normalise import normaliser

KINDS = ("recordings", "number", "error rate of their labels", "kept", "error rate of the kept")
RATES = ("model", "labels", "hours", "errors in them", "error rate on held-out voices", "95 % interval")
COLUMNS = ["recording_id", "language", "text", "reference", "kept", "metadata"]


def counts(text: str, reference: str, language: str) -> Counts:
    """The errors of a text against what was said, as jobs.evaluate counts them."""
    count, normal = char_counts if headline(language) == "CER" else word_counts, normaliser("auto", language)
    return count(normal(reference), normal(text))


def by_kind(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """By the kind of recording: how many there are and were kept, and the error rates of all labels and of the kept.

    rows: COLUMNS of schemas.LABELS, one label of each recording.
    """
    found: dict[str, list[tuple[bool, Counts]]] = defaultdict(list)
    for row in rows:
        errors = counts(row["text"] or "", row["reference"] or "", row["language"])
        found[json.loads(row["metadata"])["kind"]].append((row["kept"], errors))
    found["together"] = [one for listed in found.values() for one in listed]
    return {kind: _figures(found[kind]) for kind in (*loop_speech.MAKERS, "together") if kind in found}


def _figures(labels: list[tuple[bool, Counts]]) -> dict[str, Any]:
    kept = [errors for is_kept, errors in labels if is_kept]
    return {
        "recordings": len(labels),
        "kept": len(kept),
        "rate": sum((errors for _, errors in labels), Counts()).rate,
        "rate_kept": sum(kept, Counts()).rate,
    }


def collect(folder: Path) -> dict[str, Any]:
    """All figures of a loop whose steps have ended."""
    labels = [row for path in sorted((folder / "labels" / "labels").glob("*.parquet")) for row in _rows(path)]
    said = {row["recording_id"]: row for row in labels}
    students = {}
    for name in loop_sets.STUDENTS:
        lines = loop_sets.read(folder / "students" / f"{name}.jsonl")
        errors = sum((counts(line["text"], *_said(said[line["recording_id"]])) for line in lines), Counts())
        students[name] = {"labels": len(lines), "hours": loop_sets.seconds(lines) / 3600, "label_rate": errors.rate}
    funnel = json.loads((folder / "labels" / "funnel.json").read_text())
    compared = json.loads((folder / "evaluation" / "comparison.json").read_text())
    return {
        "commit": git_commit() or "",
        "seconds": {path.name: int(path.read_text()) for path in sorted((folder / "done").iterdir())},
        "expected": funnel["expected"],
        "kinds": by_kind(labels),
        "students": students,
        "rates": {name: _overall(model["rates"]) for name, model in compared["models"].items()},
        "differences": compared["differences"],
    }


def _rows(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path, columns=COLUMNS).to_pylist()
    return rows


def _said(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["reference"] or "", row["language"]


def _overall(rates: list[dict[str, Any]]) -> dict[str, Any]:
    return next({key: one[key] for key in ("rate", "low", "high")} for one in rates if one["group"] == "all")


def markdown(report: Mapping[str, Any]) -> str:
    """The tables: what the selection kept, what each student learned from, how much better the first one is."""
    kinds = [
        (kind, str(one["recordings"]), percent(one["rate"]), str(one["kept"]), percent(one["rate_kept"]))
        for kind, one in report["kinds"].items()
    ]
    rates = [
        (name, *_learned(report["students"].get(name)), percent(one["rate"]), between(percent, one["low"], one["high"]))
        for name, one in report["rates"].items()
    ]
    compared = [Difference(**one) for one in report["differences"] if one["model"] == loop_sets.SELECTED]
    expected, minutes = report["expected"], sum(report["seconds"].values()) / 60
    lines = [
        *table_lines(KINDS, kinds),
        "",
        f"Expected error rate of what was kept: {percent(expected['rate'])} "
        f"({between(percent, expected['low'], expected['high'])}).",
        "",
        *table_lines(RATES, rates),
        "",
        *table_lines(DIFFERENCES, map(difference_row, compared)),
        "",
        f"All steps: {minutes:.0f} minutes; commit {report['commit'] or 'unknown'}.",
    ]
    return "\n".join(lines) + "\n"


def _learned(student: Mapping[str, Any] | None) -> tuple[str, str, str]:
    """What a student has learned from; the teacher has learned from nothing here."""
    if student is None:
        return "", "", ""
    return str(student["labels"]), f"{student['hours']:.2f}", percent(student["label_rate"])
