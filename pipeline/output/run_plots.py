"""The plots of a run's report, each as the text of one <svg>; "" where there is nothing to show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.output.accounting import LENGTHS
from pipeline.output.drawing import SERIES, svg, svg_canvas
from pipeline.output.statistics import LanguageFigures
from pipeline.schemas import SAMPLE_RATE

WIDE, HALF = 10.4, 5.2  # inches of 72 units: the whole width of the page, and half of it
POINTS = 200  # of the throughput
LANGUAGES, NAME = 30, 20  # drawn; characters of a name


def throughput(minutes: Mapping[str, int]) -> str:
    """Seconds of audio committed in a second, over time. minutes: samples at 16 kHz by "2026-01-31T23:59".

    A point is a minute, or as many as make at most POINTS. Less than three minutes are not drawn.
    """
    if not minutes:
        return ""
    samples = {datetime.fromisoformat(minute).replace(tzinfo=UTC): count for minute, count in minutes.items()}
    first, minute = min(samples), timedelta(minutes=1)
    length = (max(samples) - first) // minute + 1
    if length < 3:
        return ""
    each = -(-length // POINTS)
    sums = np.zeros(-(-length // each))
    for when, count in samples.items():
        sums[(when - first) // minute // each] += count
    minutes_of = np.minimum(each, length - each * np.arange(len(sums)))  # the last one may be shorter
    edges = [float(date2num(first + each * minute * place)) for place in range(len(sums) + 1)]
    with svg_canvas("throughput"):
        figure = Figure(figsize=(WIDE, 2.4), layout="constrained")
        axes = figure.subplots()
        axes.stairs(sums / SAMPLE_RATE / 60 / minutes_of, edges, color=SERIES, fill=True, alpha=0.3, linewidth=0)
        axes.stairs(sums / SAMPLE_RATE / 60 / minutes_of, edges, color=SERIES, linewidth=1.2)
        axes.set_ylim(bottom=0)
        axes.set_ylabel("RTFx")
        axes.grid(axis="y")
        locator = AutoDateLocator(minticks=2, maxticks=7)
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
        return svg("throughput", figure, "RTFx over time")


def confidence(languages: Mapping[str, LanguageFigures]) -> str:
    """Median confidence of each language's segments, and a line from the lowest to the highest tenth of them."""
    chosen = [(name, one) for name, one in languages.items() if one.confident.any()][:LANGUAGES]
    if not chosen:
        return ""
    with svg_canvas("confidence"):
        figure = Figure(figsize=(HALF, 0.9 + 0.3 * len(chosen)), layout="constrained")
        axes = figure.subplots()
        places = range(len(chosen))
        low, middle, high = ([one.quantile(part) for _, one in chosen] for part in (0.1, 0.5, 0.9))
        axes.hlines(places, low, high, color=SERIES, linewidth=1.5)  # type: ignore[arg-type]
        axes.plot(middle, places, "o", color=SERIES, markersize=6)  # type: ignore[arg-type]
        axes.set_yticks(places, [name if len(name) <= NAME else f"{name[: NAME - 1]}…" for name, _ in chosen])
        axes.set_ylim(len(chosen) - 0.5, -0.5)
        axes.set_xlim(0, 1)
        axes.set_xlabel("confidence")
        axes.grid(axis="x")
        return svg("confidence", figure, "Confidence by language")


def steps(segments: Mapping[int, int]) -> str:
    """Segments by the steps that they took, in at most 32 classes of equal width."""
    if not segments:
        return ""
    width = -(-(max(segments) + 1) // 32)
    sums = np.zeros(max(segments) // width + 1)
    for count, number in segments.items():
        sums[count // width] += number
    names = [str(place * width) if width == 1 else f"{place * width}+" for place in range(len(sums))]
    return _columns("steps", names, sums.tolist(), "steps", "segments", "Segments by steps")


def lengths(recordings: Mapping[str, int]) -> str:
    """Recordings by their length. recordings: number of them by the class in accounting.LENGTHS."""
    if not any(recordings.values()):
        return ""
    names = ["<1 s", *map(_length, LENGTHS[1:])]
    counts = [recordings.get(str(low), 0) for low in LENGTHS]
    return _columns("lengths", names, counts, "length, from here to the next", "recordings", "Recordings by length")


def _columns(name: str, names: Sequence[str], counts: Sequence[float], across: str, up: str, title: str) -> str:
    with svg_canvas(name):
        figure = Figure(figsize=(HALF, 2.4), layout="constrained")
        axes = figure.subplots()
        places = range(len(names))
        axes.bar(places, counts, color=SERIES)
        every = -(-len(names) // 10)
        axes.set_xticks(places[::every], names[::every], fontsize=9)
        axes.set_xlabel(across)
        axes.set_ylabel(up)
        axes.yaxis.set_major_locator(MaxNLocator("auto", integer=True))
        axes.grid(axis="y")
        return svg(name, figure, title)


def _length(seconds: int) -> str:
    """As "30 s", "5 min" or "1 h"."""
    size, unit = next((size, unit) for size, unit in ((3600, "h"), (60, "min"), (1, "s")) if seconds >= size)
    return f"{seconds // size} {unit}"
