"""The data card of an export: what is in it, where it is from, how good it is, and how to make it again."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pipeline
from pipeline.export.figures import Figures
from pipeline.export.origin import Run
from pipeline.export.settings import ExportConfig
from pipeline.export.shards import Dropped

CARD = "DATA_CARD.md"


def render(
    config: ExportConfig, run: Run, figures: Figures, dropped: Dropped, problems: Sequence[Mapping[str, str]]
) -> str:
    """The card as Markdown. The same export has the same card."""
    rows = figures["rows_by_split"] if figures else Counter()
    expected = figures.get("expected", Counter())
    about = [
        f"# {config.export.format}: {rows.total():,} rows, {_hours(figures['ms_by_split'].total())} hours",
        "",
        "Texts are recognised by a machine. Nobody has read them.",
        "",
        f"- source: {run.config.source.uri}",
        f"- rows from: {config.input.uri}",
        f"- made by: {_listed(figures['models'])}, revision {run.config.model.revision or 'none given'}",
        f"- confidence: {_listed(figures['confidences'])}; calibrator {run.calibrator or 'none'}",
        f"- expected WER: {_percent(expected)}",
        f"- licence of the recordings: {_listed(figures['licences'])}",
        "",
    ]
    return "\n".join([*about, *_tables(figures, dropped, problems), *_again(config)])


def _tables(figures: Figures, dropped: Dropped, problems: Sequence[Mapping[str, str]]) -> Iterator[str]:
    for name in ("split", "language"):
        yield from _table(name, figures[f"rows_by_{name}"], figures[f"ms_by_{name}"])
    if dropped.rows:
        yield from _table("dropped because", dropped.rows, dropped.milliseconds)
    if problems:
        yield "Rows without audio, each with its recording in problems.jsonl: " + _listed(
            Counter(line["reason"] for line in problems)
        )
        yield ""


def _table(name: str, rows: Mapping[str, int], milliseconds: Mapping[str, int]) -> Iterator[str]:
    yield f"| {name} | rows | hours |"
    yield "| --- | ---: | ---: |"
    for key, number in sorted(rows.items(), key=lambda item: (-item[1], item[0])):
        yield f"| {key} | {number:,} | {_hours(milliseconds[key])} |"
    yield ""


def _again(config: ExportConfig) -> list[str]:
    """The command that makes the export again."""
    flat = {
        f"{section}.{key}": value
        for section, values in config.model_dump(mode="json", exclude_defaults=True).items()
        for key, value in values.items()
    }
    words = shlex.join(["fullcanvas", "export", *(f"{key}={_text(value)}" for key, value in flat.items())])
    return [f"Made by fullcanvas {pipeline.__version__}. To make it again:", "", "```", words, "```", ""]


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _percent(expected: Mapping[str, float]) -> str:
    if not expected.get("words"):
        return "unknown: no confidence is calibrated"
    return f"{expected['errors'] / expected['words']:.1%} of {expected['words']:,} words that have one"


def _listed(counts: Mapping[str, int]) -> str:
    """Names, most frequent first; with their numbers if there are several."""
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{name} ({number:,})" for name, number in sorted(counts.items(), key=lambda item: -item[1]))


def _hours(milliseconds: float) -> str:
    return f"{milliseconds / 3_600_000:,.3f}"
