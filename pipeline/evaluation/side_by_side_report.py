"""Several models side by side in words: an HTML page, and Markdown, which also is what the terminal shows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from pipeline.evaluation import plots
from pipeline.evaluation.result import Difference, Evaluation, Rates, SideBySide
from pipeline.evaluation.wording import NOTHING, decimal, percent, points, probability, share, third
from pipeline.output.page import markdown, render_page

MODELS = ("model", "error rate", "95 % interval", "coverage", "audio minutes", "pipeline_rtfx", "processor_rtfx")
RATES = ("group", "key", "metric", "model", "error rate", "95 % interval", "errors / units", "recordings")
DIFFERENCES = ("model", "minus", "language", "difference", "95 % interval", "p", "rates", "recordings", "blocks")
WORDS = ("language", "model", "words", "right", "mean confidence", "ECE", "AUROC")

NOTES = {
    "models": "Error rate of everything, Mandarin in characters; recordings without a transcript count as deletions. "
    "pipeline_rtfx: seconds of audio per second of the clock, from the first actor to the last commit, so loading the "
    "model counts and so does other work on the machine. processor_rtfx: seconds of audio per second of a processor "
    "in the processes of the model, loading included.",
    "differences": "Percentage points, the first model minus the other, on the recordings that both have: negative is "
    "better. Paired bootstrap over speakers, or over recordings where the speaker is unknown or the only one. p is "
    "two-sided, corrected after Holm for all lines of this table.",
    "words": "Recognised words (characters of Mandarin): how many are right, against the confidence of the model in "
    "them. ECE: mean distance of confidence and rightness over 15 bins, best 0. AUROC: how often a right word has more "
    "confidence than a wrong one, best 1, by chance 0.5. Deleted words have no confidence.",
}


def render(found: SideBySide, up: str = "") -> str:
    """The page as text. Everything that comes from outside is escaped. up: the way to the folder of models/: "../"."""
    return render_page(
        "side_by_side.html.j2",
        found=found,
        up=up,
        notes=NOTES,
        headers={"models": MODELS, "rates": RATES, "differences": DIFFERENCES, "words": WORDS},
        models=list(model_rows(found)),
        rates=list(rate_rows(found)),
        differences=[difference_row(one) for one in found.differences],
        words=list(word_rows(found)),
        plot=plots.side_by_side({name: one.rates for name, one in found.evaluations.items()}),
    )


def report_lines(found: SideBySide) -> list[str]:
    """The report as Markdown, one string per line."""
    lines = [f"# Side by side: {markdown(found.name)}, {markdown(found.run)}"]
    for title, name, table in (
        ("Models", "models", table_lines(MODELS, model_rows(found))),
        ("Rates", "", table_lines(RATES, rate_rows(found))),
        ("Differences", "differences", table_lines(DIFFERENCES, map(difference_row, found.differences))),
        ("Confidence of words", "words", table_lines(WORDS, word_rows(found))),
    ):
        if len(table) > 2:
            lines += ["", f"## {title}", "", *([NOTES[name], ""] if name else []), *table]
    for name, one in found.evaluations.items():
        if one.verdict.failures:
            lines += ["", f"{markdown(name)} failed: {markdown('; '.join(one.verdict.failures))}"]
    return lines


def table_lines(header: Sequence[str], rows: Iterable[tuple[str, ...]]) -> list[str]:
    """A Markdown table, one string per line; its cells are escaped."""
    cells = [header, ["---"] * len(header), *([markdown(cell) for cell in row] for row in rows)]
    return [f"| {' | '.join(row)} |" for row in cells]


def between(wording: Callable[[float], str], low: float | None, high: float | None) -> str:
    """An interval: "4.71 % to 5.38 %". wording: of each bound."""
    return NOTHING if low is None or high is None else f"{wording(low)} to {wording(high)}"


def model_rows(found: SideBySide) -> Iterator[tuple[str, ...]]:
    """A row of MODELS for each model."""
    for name, one in found.evaluations.items():
        overall = next(rates for rates in one.rates if rates.group == "all")
        speed = one.speed
        yield (
            name,
            percent(overall.counts.rate),
            between(percent, overall.low, overall.high),
            share(overall.coverage),
            f"{speed.audio_seconds / 60:.1f}",
            decimal(speed.rtfx),
            decimal(speed.processor_rtfx),
        )


def rate_rows(found: SideBySide) -> Iterator[tuple[str, ...]]:
    """A row of RATES for each set, each language and each model; sets only where they differ from the languages."""
    keys = [(group, key) for group in ("set", "language") for key in _keys(found.evaluations.values(), group)]
    languages = sum(group == "language" for group, _ in keys)
    for group, key in keys:
        if group == "set" and len(keys) == 2 * languages:
            continue
        for name, one in found.evaluations.items():
            for rates in one.rates:
                if (rates.group, rates.key) == (group, key):
                    yield _rate_row(name, rates)


def _rate_row(name: str, rates: Rates) -> tuple[str, ...]:
    return (
        rates.group,
        rates.key,
        rates.metric,
        name,
        percent(rates.counts.rate),
        between(percent, rates.low, rates.high),
        f"{rates.counts.errors} / {rates.counts.units}",
        str(rates.recordings),
    )


def difference_row(one: Difference) -> tuple[str, ...]:
    """A row of DIFFERENCES."""
    return (
        one.model,
        one.other,
        one.language,
        points(one.difference),
        between(points, one.low, one.high),
        probability(one.p_holm),
        f"{percent(one.rate)}, {percent(one.other_rate)}",
        str(one.recordings),
        str(one.blocks),
    )


def word_rows(found: SideBySide) -> Iterator[tuple[str, ...]]:
    """A row of WORDS for each language and each model."""
    languages = dict.fromkeys(word.language for one in found.evaluations.values() for word in one.words)
    for language in languages:
        for name, one in found.evaluations.items():
            for word in one.words:
                if word.language == language:
                    yield (
                        language,
                        name,
                        str(word.words),
                        share(word.accuracy),
                        f"{word.confidence:.2f}",
                        third(word.ece),
                        third(word.auroc),
                    )


def _keys(evaluations: Iterable[Evaluation], group: str) -> list[str]:
    """The keys of a group in the order of the evaluations, each once."""
    return list(dict.fromkeys(rates.key for one in evaluations for rates in one.rates if rates.group == group))
