"""An evaluation as one self-contained HTML page: the verdict first, then what it rests on, then worst utterances."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pyarrow as pa
from markupsafe import Markup

from pipeline.evaluation import plots
from pipeline.evaluation.page import page, plot, section, table
from pipeline.evaluation.reliability import reliability
from pipeline.evaluation.result import Evaluation, Rates, Verdict
from pipeline.evaluation.wording import (
    NOTHING,
    finding,
    interval,
    percent,
    points,
    probability,
    setting_labels,
    shortened,
    utc,
)
from pipeline.evaluation.worst import listing, worst

WORST = 50  # utterances shown
SPEAKERS = 100  # shown, those with most errors first

_RATES = (
    *("group", "key", "metric", "rate", "95 % interval", "coverage", "S", "D", "I", "hits", "WER", "CER", "merged WER"),
    *("recordings", "dead", "missing", "empty references", "audio hours"),
)
_RATES_NOTE = (
    "S, D, I and hits count words, for CER characters. Recordings that are dead letters or missing count as deletions; "
    "coverage is the share of those transcribed. Recordings with an empty reference are left out; in brackets the "
    "words that were heard in them. Merged: compounds written apart or together are equal."
)
_COMPARISON = (
    *("language", "finding", "metric", "difference", "bounds", "p (Holm)", "p", "p (MAPSSWE)", "detectable"),
    *("rate", "baseline", "recordings", "left out", "blocks"),
)
_COMPARISON_NOTE = (
    "Differences in percentage points, new minus baseline, on the recordings both have with the same reference. Each "
    "bound holds by itself with 1 - alpha of the gate, 95 % unless that is set. p: one-sided, that the new one is no "
    "worse; Holm: corrected for the number of languages; MAPSSWE: two-sided. Detectable: the smallest difference "
    "that is seen with 80 % power; a smaller one may be there and not be found. Blocks are speakers, or recordings "
    "where those are unknown."
)
_ABOUT = ("model", "revision", "config_hash", "normaliser", "code_version", "hardware")  # first, in this order
_PARTS = (
    *(("rates", "Rates"), ("comparison", "Comparison"), ("plots", "Plots"), ("breakdown", "Breakdowns")),
    *(("sweep", "Sweep"), ("failed", "Not transcribed"), ("worst", "Worst utterances"), ("confidence", "Confidence")),
)


def render(evaluation: Evaluation, rows: pa.Table) -> str:
    """The page as text. rows: schemas.EVALUATED, all of this evaluation.

    Everything that comes from outside is escaped. Nothing is loaded from elsewhere but the audio that somebody plays.
    """
    chosen = worst(rows, WORST)
    bodies = {
        "rates": [_rates(evaluation)],
        "comparison": [_comparison(evaluation)],
        "plots": [_plots(evaluation)],
        "breakdown": [_breakdown(evaluation, group) for group in ("speaker", "duration", "snr")],
        "sweep": [_sweep(evaluation), plot(plots.sweep(evaluation.sweep), "Error rate against speed", wide=True)],
        "failed": [_failed(rows)],
        "worst": [_note(_shown(len(chosen))), listing(chosen)] if chosen else [],
        "confidence": [_confidence(rows)],
    }
    sections = [(name, title, section(name, title, *bodies[name])) for name, title in _PARTS]
    links = Markup().join(Markup('<a href="#{}">{}</a>').format(name, title) for name, title, body in sections if body)
    head = Markup('<h1 dir="auto">Evaluation {}</h1>\n<p class="soft">{}</p>').format(
        evaluation.evaluation, utc(evaluation.evaluated_at)
    )
    title = f"{'passed' if evaluation.verdict.passed else 'FAILED'}: {evaluation.evaluation}"
    parts = [head, _verdict(evaluation.verdict), Markup('<nav aria-label="parts">{}</nav>').format(links)]
    return page(title, [*parts, _about(evaluation), *(body for _, _, body in sections)])


def _verdict(verdict: Verdict) -> Markup:
    kind, word = ("passed", "Passed") if verdict.passed else ("failed", "Failed")
    shown = Markup('<div class="verdict {}"><strong>{}</strong>{}</div>').format(
        kind, word, _reasons(shortened(list(verdict.failures)))
    )
    if len(verdict.failures) > len(shortened(list(verdict.failures))):
        shown += Markup("<details><summary>all {} reasons</summary>{}</details>").format(
            len(verdict.failures), _reasons(verdict.failures)
        )
    if verdict.warnings:
        shown += Markup('<div class="verdict warned"><strong>Warnings</strong>{}</div>').format(
            _reasons(verdict.warnings)
        )
    return shown


def _reasons(reasons: Sequence[str]) -> Markup:
    items = Markup().join(Markup("<li>{}</li>").format(reason) for reason in reasons)
    return Markup("<ul>{}</ul>").format(items) if items else Markup()


def _about(evaluation: Evaluation) -> Markup:
    names = [name for name in _ABOUT if name in evaluation.about]
    names += [name for name in evaluation.about if name not in names]
    facts = [(name.replace("_", " "), evaluation.about[name]) for name in names]
    facts.append(("evaluated", utc(evaluation.evaluated_at)))
    facts += [("baseline", evaluation.baseline)] if evaluation.baseline else []
    items = Markup().join(Markup('<dt>{}</dt><dd dir="auto">{}</dd>').format(name, text) for name, text in facts)
    return section("about", "About", Markup("<dl>{}</dl>").format(items))


def _rates(evaluation: Evaluation) -> Markup:
    shown = [rates for group in ("all", "set", "language") for rates in evaluation.rates if rates.group == group]
    rows = [_rates_row(rates) for rates in shown]
    if not rows:
        return Markup()
    return _note(_RATES_NOTE) + table("Rates of everything, of each set and of each language", _RATES, rows, text=3)


def _breakdown(evaluation: Evaluation, group: str) -> Markup:
    shown = [rates for rates in evaluation.rates if rates.group == group]
    total = len(shown)
    if group == "speaker":
        shown = sorted(shown, key=lambda rates: (-rates.counts.errors, rates.key))[:SPEAKERS]
    name = {"speaker": "speaker", "duration": "duration", "snr": "signal-to-noise ratio"}[group]
    most = f", the {len(shown)} with most errors of {total}" if len(shown) < total else ""
    rows = [_rates_row(rates)[1:] for rates in shown]  # all of one group
    figures = table(f"By {name}{most}", _RATES[1:], rows, text=2)
    if not figures:
        return Markup()
    return Markup("<details{}><summary>By {} ({})</summary>{}</details>").format(
        Markup("") if group == "speaker" else Markup(" open"), name, total, figures
    )


def _rates_row(rates: Rates) -> list[str | Markup]:
    counts = rates.counts
    coverage = NOTHING if rates.coverage is None else f"{100 * rates.coverage:.1f} %"
    complete = rates.transcribed == rates.recordings
    empty = f"{rates.empty_references} ({rates.phantom_words})" if rates.empty_references else "0"
    numbers = (counts.substitutions, counts.deletions, counts.insertions, counts.hits)
    return [
        rates.group,
        rates.key,
        rates.metric,
        Markup("<b>{}</b>").format(percent(counts.rate)),
        interval(rates.low, rates.high),
        coverage if complete else Markup('<span class="bad">{}</span>').format(coverage),
        *(str(number) for number in numbers),
        *(percent(one.rate) for one in (rates.words, rates.chars, rates.merged)),
        *(str(number) for number in (rates.recordings, rates.dead, rates.missing)),
        empty,
        f"{rates.seconds / 3600:.2f}",
    ]


def _comparison(evaluation: Evaluation) -> Markup:
    rows: list[list[str | Markup]] = []
    for one in evaluation.comparisons:
        kind = "bad" if one.regressed else "good" if one.high < 0 else "soft"
        rows.append(
            [
                one.language,
                Markup('<span class="{}">{}</span>').format(kind, finding(one)),
                one.metric,
                Markup("<b>{}</b>").format(points(one.difference)),
                f"[{points(one.low)}, {points(one.high)}]",
                *(probability(p) for p in (one.p_holm, one.p, one.p_mapsswe)),
                f"{100 * one.detectable:.2f}",
                *(percent(rate) for rate in (one.rate, one.baseline_rate)),
                *(str(number) for number in (one.recordings, one.left_out, one.blocks)),
            ]
        )
    if not rows:
        return Markup()
    return _note(_COMPARISON_NOTE) + table(
        f"Against {evaluation.baseline or 'the baseline'}", _COMPARISON, rows, text=3
    )


def _note(text: str) -> Markup:
    return Markup('<p class="soft">{}</p>\n').format(text)


def _plots(evaluation: Evaluation) -> Markup:
    drawn = [
        plot(
            plots.over_time(evaluation.history),
            "Error rate over time with 95 % intervals; dotted line: another model from here on",
            wide=True,
        ),
        plot(
            plots.by_language(evaluation.rates, evaluation.comparisons),
            "Error rate by language with 95 % interval; the baseline's on the recordings both have",
            wide=True,
        ),
        plot(
            plots.by_duration(evaluation.rates),
            "Error rate by duration in seconds with 95 % interval; below, the number of recordings",
            wide=True,
        ),
    ]
    return Markup("\n").join(one for one in drawn if one)


def _sweep(evaluation: Evaluation) -> Markup:
    if not evaluation.sweep:
        return Markup()
    languages = list(dict.fromkeys(language for point in evaluation.sweep for language in point.rates))
    header = ("settings", "rate", "95 % interval", *languages, "coverage", "pipeline_rtfx", "steps")
    rows = [
        [
            label,
            Markup("<b>{}</b>").format(percent(point.overall.counts.rate)),
            interval(point.overall.low, point.overall.high),
            *(percent(point.rates[name].counts.rate) if name in point.rates else NOTHING for name in languages),
            NOTHING if point.overall.coverage is None else f"{100 * point.overall.coverage:.1f} %",
            NOTHING if point.rtfx is None else f"{point.rtfx:.1f}",
            NOTHING if point.steps is None else f"{point.steps:.1f}",
        ]
        for point, label in zip(evaluation.sweep, setting_labels(evaluation.sweep), strict=True)
    ]
    return table("Every combination of the swept settings", header, rows)


def _failed(rows: pa.Table) -> Markup:
    columns = ("set", "language", "status", "reason")
    found = Counter(
        tuple(row[name] or "" for name in columns)
        for row in rows.select(list(columns)).to_pylist()
        if row["status"] != "transcribed"
    )
    counted = [[*key, str(number)] for key, number in sorted(found.items())]
    return table("Recordings without a transcript", (*columns, "recordings"), counted, text=4)


def _shown(count: int) -> str:
    most = f"The {count} transcribed utterances" if count > 1 else "The transcribed utterance"
    return f"{most} with most errors, by errors, then by rate."


def _confidence(rows: pa.Table) -> Markup:
    drawn = plots.calibration(reliability(rows))
    return plot(
        drawn,
        "Mean confidence of recordings against the share of heard words (characters of Mandarin) that are right, both "
        "weighted by words; on the dashed line confidence keeps its word. Below, recordings in each bin.",
    )
