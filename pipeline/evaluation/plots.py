"""The plots of the evaluation report, each as the text of one <svg>; "" where there is nothing to show."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.figure import Figure

from pipeline.evaluation.rates import Bin, calibration_error
from pipeline.evaluation.result import Comparison, Point, Rates, SweepPoint
from pipeline.evaluation.wording import as_utc, setting_labels
from pipeline.output.drawing import INK, OTHER, SERIES, svg, svg_canvas

_BUCKET = re.compile(r"(?:(?!below )(?P<language>\S+) )?(?P<bucket>(?:below )?\d.*)")
WIDE, HALF = 10.4, 5.2  # inches of 72 units: the whole width of the page, and half of it
PANELS = 3  # side by side
MARKED = 40  # up to so many points have a mark and a line for the interval; more points have a band


def over_time(history: Sequence[Point]) -> str:
    """Rate with 95 % interval by date, a panel per language; a dotted line where the model changed."""
    languages = sorted({(point.language, point.metric) for point in history})
    if not languages:
        return ""
    with svg_canvas("over-time"):
        figure, panels = _panels(len(languages))
        for (language, metric), axes in zip(languages, panels, strict=True):
            chosen = sorted(
                (point for point in history if (point.language, point.metric) == (language, metric)),
                key=lambda point: as_utc(point.evaluated_at),
            )
            dates = [float(date2num(as_utc(point.evaluated_at))) for point in chosen]
            for earlier, later, date in zip(chosen, chosen[1:], dates[1:], strict=False):
                if earlier.model != later.model:
                    axes.axvline(date, color=OTHER, linestyle=":", linewidth=1)
            rates = [100 * point.rate for point in chosen]
            axes.plot(dates, rates, "o-" if len(chosen) <= MARKED else "-", color=SERIES, markersize=3.5, linewidth=1.2)
            if len(chosen) <= MARKED:
                reach = _reach(rates, [(point.low, point.high) for point in chosen])
                axes.errorbar(dates, rates, yerr=reach, fmt="none", color=SERIES, elinewidth=1)
            else:
                low, high = [100 * point.low for point in chosen], [100 * point.high for point in chosen]
                axes.fill_between(dates, low, high, color=SERIES, alpha=0.25, linewidth=0)
            axes.set_title(f"{_short(language)} ({metric}, %)")
            axes.grid(axis="y")
            locator = AutoDateLocator(minticks=2, maxticks=5)
            axes.xaxis.set_major_locator(locator)
            axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
        return svg("over-time", figure, f"Error rate over time: {_names(name for name, _ in languages)}")


def by_language(rates: Sequence[Rates], comparisons: Sequence[Comparison] = ()) -> str:
    """Rate of each language with 95 % interval; hollow marks are the baseline."""
    chosen = [one for one in rates if one.group == "language" and one.counts.rate is not None]
    if not chosen:
        return ""
    baselines = {(one.language, one.metric): one.baseline_rate for one in comparisons}
    with svg_canvas("by-language"):
        figure = Figure(figsize=(WIDE, 0.9 + 0.36 * len(chosen)), layout="constrained")
        axes = figure.subplots()
        places = list(range(len(chosen)))
        values = [100 * (one.counts.rate or 0.0) for one in chosen]
        _dots(axes, values, places, [(one.low, one.high) for one in chosen], across=True)
        pairs = [
            (100 * baselines[key], place)
            for place, one in zip(places, chosen, strict=True)
            if (key := (one.key, one.metric)) in baselines
        ]
        if pairs:
            axes.plot(
                *zip(*pairs, strict=True), "D", color=OTHER, markerfacecolor="none", markersize=7, label="baseline"
            )
            figure.legend(loc="outside upper right")
        axes.set_yticks(places, [f"{_short(one.key)} ({one.metric})" for one in chosen])
        axes.set_ylim(len(chosen) - 0.5, -0.5)
        axes.set_xlim(left=0)
        axes.set_xlabel("error rate, %")
        axes.grid(axis="x")
        return svg("by-language", figure, f"Error rate by language: {_names(one.key for one in chosen)}")


def by_duration(rates: Sequence[Rates]) -> str:
    """Rate of each range of durations with 95 % interval, a panel per language.

    The keys of the group are "5-10 s" or, by language, "en 5-10 s". The ranges keep their order.
    """
    panels_of: dict[str, list[tuple[str, Rates]]] = {}
    for one in rates:
        if one.group == "duration" and one.counts.rate is not None and (match := _BUCKET.fullmatch(one.key)):
            panels_of.setdefault(match["language"] or "all", []).append((match["bucket"], one))
    if not panels_of:
        return ""
    with svg_canvas("by-duration"):
        figure, panels = _panels(len(panels_of))
        for axes, (language, buckets) in zip(panels, panels_of.items(), strict=True):
            places = list(range(len(buckets)))
            values = [100 * (one.counts.rate or 0.0) for _, one in buckets]
            _dots(axes, places, values, [(one.low, one.high) for _, one in buckets], across=False)
            axes.set_xticks(
                places, [f"{_short(_briefly(bucket))}\n{one.recordings}" for bucket, one in buckets], fontsize=9
            )
            axes.set_xlim(-0.5, len(buckets) - 0.5)
            axes.set_ylim(bottom=0)
            axes.set_title(f"{_short(language)} ({buckets[0][1].metric}, %)")
            axes.grid(axis="y")
        return svg("by-duration", figure, "Error rate by duration of the recordings")


def side_by_side(rates: Mapping[str, Sequence[Rates]]) -> str:
    """Rate of each model with 95 % interval, a panel per language. rates: by the name of the model."""
    by_key: dict[tuple[str, str], list[tuple[str, Rates]]] = {}
    for model, given in rates.items():
        for one in given:
            if one.group == "language" and one.counts.rate is not None:
                by_key.setdefault((one.key, one.metric), []).append((model, one))
    if not by_key:
        return ""
    with svg_canvas("side-by-side"):
        figure, panels = _panels(len(by_key))
        for ((language, metric), chosen), axes in zip(by_key.items(), panels, strict=True):
            values = [100 * (one.counts.rate or 0.0) for _, one in chosen]
            places = list(range(len(chosen)))
            _dots(axes, places, values, [(one.low, one.high) for _, one in chosen], across=False)
            axes.set_xticks(places, [_short(model, 40 // len(chosen)) for model, _ in chosen], fontsize=9)
            axes.set_xlim(-0.5, len(chosen) - 0.5)
            axes.set_ylim(bottom=0)
            axes.set_title(f"{_short(language)} ({metric}, %)")
            axes.grid(axis="y")
        return svg("side-by-side", figure, f"Error rate of each model: {_names(name for name, _ in by_key)}")


def calibration(bins: Sequence[Bin]) -> str:
    """Reliability diagram: mean confidence against the share of right words, with counts."""
    error = calibration_error(bins)
    if error is None:
        return ""
    with svg_canvas("calibration"):
        figure = Figure(figsize=(HALF, 3.8), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        above.plot([0, 1], [0, 1], color=INK, linestyle="--", linewidth=0.8)
        confidences, accuracies = [one.confidence for one in bins], [one.accuracy for one in bins]
        above.plot(confidences, accuracies, "o-", color=SERIES, markersize=4.5, linewidth=1.2)
        above.set_xlim(0, 1)
        above.set_ylim(0, 1.04)
        above.set_ylabel("words right")
        above.set_title(f"expected calibration error {error:.3f}")
        above.grid()
        middles = [(one.low + one.high) / 2 for one in bins]
        widths = [0.9 * (one.high - one.low) for one in bins]
        bars = below.bar(middles, [one.recordings for one in bins], width=widths, color=SERIES)
        below.bar_label(bars, fontsize=8, padding=1)
        below.margins(y=0.35)
        below.set_ylabel("recordings")
        below.set_xlabel("mean confidence")
        return svg("calibration", figure, f"Confidence against accuracy; expected calibration error {error:.3f}")


def sweep(points: Sequence[SweepPoint]) -> str:
    """Rate against speed, a point per combination of settings, named after the settings that differ."""
    chosen = [(point.rtfx, point.overall.counts.rate, point) for point in points]
    timed = [(rtfx, 100 * rate, point) for rtfx, rate, point in chosen if rtfx is not None and rate is not None]
    if not timed:
        return ""
    with svg_canvas("sweep"):
        figure = Figure(figsize=(WIDE, 3.6), layout="constrained")
        axes = figure.subplots()
        speeds, rates = [rtfx for rtfx, _, _ in timed], [rate for _, rate, _ in timed]
        _dots(axes, speeds, rates, [(point.overall.low, point.overall.high) for _, _, point in timed], across=False)
        labels = [_short(label, 60) for label in setting_labels([point for _, _, point in timed])]
        axes.margins(x=0.12, y=0.15)
        for speed, rate, label, offset in _apart(axes, speeds, rates, labels):
            side = "left" if offset[0] > 0 else "right"
            axes.annotate(label, (speed, rate), offset, textcoords="offset points", fontsize=9, ha=side, va="center")
        axes.set_xlabel("pipeline_rtfx, seconds of audio per second (faster to the right)")
        axes.set_ylabel(f"{timed[0][2].overall.metric}, % (better below)")
        axes.grid()
        return svg("sweep", figure, "Error rate against speed of the swept settings")


def _dots(
    axes: Axes,
    x: Sequence[float],
    y: Sequence[float],
    bounds: Sequence[tuple[float | None, float | None]],
    *,
    across: bool,
) -> None:
    """Points with their interval as a line, horizontal (`across`) or vertical. bounds: rates, not percent."""
    reach = _reach(x if across else y, bounds)
    sideways, upright = (reach, None) if across else (None, reach)
    axes.errorbar(x, y, xerr=sideways, yerr=upright, fmt="o", color=SERIES, markersize=5, elinewidth=1.6, capsize=3)


def _reach(
    values: Sequence[float], bounds: Sequence[tuple[float | None, float | None]]
) -> tuple[list[float], list[float]]:
    """How far each interval reaches below and above its value, in percent; 0 where there is no interval."""
    below = [
        0.0 if low is None else max(0.0, value - 100 * low) for value, (low, _) in zip(values, bounds, strict=True)
    ]
    above = [
        0.0 if high is None else max(0.0, 100 * high - value) for value, (_, high) in zip(values, bounds, strict=True)
    ]
    return below, above


def _apart(
    axes: Axes, x: Sequence[float], y: Sequence[float], labels: Sequence[str]
) -> Iterator[tuple[float, float, str, tuple[float, float]]]:
    """Each point with its label and the offset of the label in points, chosen so that labels do not overlap."""
    width, height = 72 * 0.92 * WIDE, 72 * 2.7  # of the axes, about
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    taken: list[tuple[float, float, float, float]] = []
    for speed, rate, label in zip(x, y, labels, strict=True):
        place = ((speed - left) / (right - left) * width, (rate - bottom) / (top - bottom) * height)
        long = 5.0 * len(label)  # of 9 point letters, about
        choices = []
        for across in (7.0, -7.0):
            for up in (0.0, 12.0, -12.0, 24.0, -24.0, 36.0, -36.0):
                start = place[0] + across - (long if across < 0 else 0)
                box = (start, start + long, place[1] + up - 6, place[1] + up + 6)
                hits = sum(box[0] < b[1] and b[0] < box[1] and box[2] < b[3] and b[2] < box[3] for b in taken)
                outside = box[0] < 0 or box[1] > width or box[2] < 0 or box[3] > height
                choices.append((hits + outside, abs(up), across < 0, (across, up), box))
        *_, offset, box = min(choices)
        taken.append(box)
        yield speed, rate, label, offset


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    """A figure with that many panels, at most PANELS side by side."""
    across = min(PANELS, count)
    down = -(-count // across)
    figure = Figure(figsize=(WIDE, 0.5 + 2.0 * down), layout="constrained")
    panels: list[Axes] = list(figure.subplots(down, across, squeeze=False).flat)
    for unused in panels[count:]:
        unused.remove()
    return figure, panels[:count]


def _briefly(bucket: str) -> str:
    """Short names, since six fit below a panel: "<2" for "below 2 s", "5-10", "30+" for "30 s and more"."""
    return bucket.replace("below ", "<").replace(" and more", "+").replace(" s", "")


def _short(name: str, most: int = 20) -> str:
    """A name cut to `most` characters, to leave room for the drawing."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _names(names: Iterable[str]) -> str:
    return ", ".join(names)
