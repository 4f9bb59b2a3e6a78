"""OUT/report.html: one page of a run that loads nothing: its settings, time and cost, what failed, some transcripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.config import public
from pipeline.output import run_plots
from pipeline.output.accounting import Tally
from pipeline.output.page import playable, render_page
from pipeline.output.parts import read_ledger
from pipeline.output.run_facts import RunFacts
from pipeline.output.statistics import LanguageFigures, Statistics, chosen_rows, statistics_of
from pipeline.output.tables import joined, sample_letters
from pipeline.schemas import REASONS
from pipeline.storage.base import Storage

SAMPLE = 20  # recordings, drawn at random
LETTERS, SLOWEST = 50, 10  # recordings shown
LONGEST = 2_000  # characters of a text
_SEGMENT = ["language", "text", "confidence", "start_ms", "end_ms", "problem", "source_uri", "source_member"]
_SECONDS = (  # label and what accounting.json calls it
    *(("in", "in"), ("transcribed", "transcribed"), ("silence", "silence")),
    *(("damaged", "lost"), ("dead-lettered", "dead_lettered")),
)


def write_report(storage: Storage, summary: Mapping[str, Any], accounting: Mapping[str, Any]) -> None:
    """Write report.html from what is published. summary: of `publish`. accounting: accounting.json."""
    tally = Tally()
    for entry in read_ledger(storage).values():
        tally.merge(Tally.from_json(entry["tally"]))
    found = statistics_of(storage, slowest=SLOWEST, sample=SAMPLE)
    samples = list(chosen_rows(storage, found.chosen, _SEGMENT))
    facts = RunFacts(storage, summary, tally.minutes)
    letters = sample_letters(storage, LETTERS)
    text = render(storage.uri, accounting, facts, tally.lengths, found, samples, letters)
    storage.put("report.html", text.encode())


def render(
    uri: str,
    accounting: Mapping[str, Any],
    facts: RunFacts,
    lengths: Mapping[str, int],
    found: Statistics,
    samples: Sequence[Sequence[Mapping[str, Any]]],
    letters: Sequence[Mapping[str, str | None]],
) -> str:
    """The page as text. Everything that comes from outside is escaped; nothing is loaded but audio that is played.

    lengths: `Tally.lengths`. samples: the segments of each recording, rows of schemas.TRANSCRIPT. letters: dead ones,
    as `sample_letters` gives them.
    """
    summary = facts.summary
    return render_page(
        "run.html.j2",
        uri=uri,
        accounting=accounting,
        about=[*facts.about(), *_counts(summary)],
        changed=facts.changed_settings(),
        settings=facts.all_settings(),
        compared=facts.compared(),
        remark=facts.remark(),
        plots={
            "throughput": run_plots.throughput(facts.minutes),
            "lengths": run_plots.lengths(lengths),
            "confidence": run_plots.confidence(found.languages),
            "steps": run_plots.steps(found.steps),
        },
        seconds=[(label, f"{accounting[f'seconds_{name}']:,.3f}") for label, name in _SECONDS],
        languages=[(name, _language(one)) for name, one in found.languages.items()],
        slowest=[
            (one.recording_id, [f"{one.steps:,}", f"{one.seconds:,.1f}", f"{one.steps / max(one.seconds, 0.001):,.1f}"])
            for one in found.slowest
        ],
        dead=_reasons(summary["dead_letters"]),
        damaged=_reasons(summary["damaged"]),
        letters=[{**letter, "place": _place(letter)} for letter in letters],
        samples=[_sample(segments) for segments in samples],
        transcribed=f"{summary['recordings_transcribed']:,}",
    )


def _counts(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        ("recordings", f"{summary['recordings']:,}"),
        ("transcribed", f"{summary['recordings_transcribed']:,}, {summary['recordings_damaged']:,} of them damaged"),
        ("dead letters", f"{summary['recordings_dead_lettered']:,}"),
        ("segments", f"{summary['segments']:,}"),
        ("audio hours", f"{summary['audio_hours']:,.3f}"),
        ("units", f"{summary['units_committed']:,} of {summary['units_planned']:,}"),
    ]


def _language(one: LanguageFigures) -> list[str]:
    confidences = [one.quantile(part) for part in (0.5, 0.1, 0.9)]
    known = ["–" if value is None else f"{value:.2f}" for value in confidences]
    return [f"{one.milliseconds / 3_600_000:,.4f}", f"{one.segments:,}", *known]


def _reasons(counts: Mapping[str, int]) -> list[tuple[str, str, str]]:
    return [(reason, REASONS[reason], f"{count:,}") for reason, count in counts.items()]


def _sample(segments: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One recording for the page. The player begins with its first segment and ends with its last one."""
    first = segments[0]
    text, confidence = joined((row["text"], row["confidence"]) for row in segments)
    start, end = min(row["start_ms"] for row in segments) / 1000, max(row["end_ms"] for row in segments) / 1000
    figures = [first["language"] or "unknown language", f"{end - start:,.1f} s"]
    figures += [f"confidence {confidence:.2f}"] if confidence is not None else []
    figures += [f"damaged: {first['problem']}"] if first["problem"] else []
    address = playable(place := _place(first))
    return {
        "recording_id": first["recording_id"],
        "language": first["language"],
        "figures": figures,
        "text": text if len(text) <= LONGEST else f"{text[:LONGEST]}…",
        "place": place,
        "address": address and f"{address}#t={start:g},{end:g}",
    }


def _place(row: Mapping[str, str | None]) -> str:
    """Where the audio is, without secrets: "/in/a.flac" or "/in/a.tar!b.flac"."""
    return public(row["source_uri"] or "") + (f"!{row['source_member']}" if row["source_member"] else "")
