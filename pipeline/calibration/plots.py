"""The plots of a calibration, each as the text of one <svg>."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from pipeline.calibration.figures import Scored
from pipeline.evaluation.confidence import risk_coverage
from pipeline.output.drawing import INK, OTHER, SERIES, svg, svg_canvas

BINS = 10
SIZE = (5.2, 3.8)  # inches of 72 units: half of the page
STYLES = {"calibrated": (SERIES, "o-"), "raw": (OTHER, "s--")}


def reliability(rows: Scored, predictors: Sequence[str]) -> str:
    """Mean confidence against mean accuracy, in bins of equal width; the area of a mark is the share of the rows."""
    name = f"reliability-{rows.level}"
    with svg_canvas(name):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=INK, linestyle=":", linewidth=0.8)
        for predictor in predictors:
            confidence = rows.predictors[predictor]
            index = np.minimum((confidence * BINS).astype(int), BINS - 1)
            count = np.bincount(index, minlength=BINS)
            filled = count > 0
            sums = [np.bincount(index, of, minlength=BINS)[filled] for of in (confidence, rows.accuracy)]
            x, y = (of_bin / count[filled] for of_bin in sums)
            colour, style = STYLES[predictor]
            axes.plot(x, y, style[1:], color=colour, linewidth=1.2, label=predictor)
            axes.scatter(x, y, s=6 + 200 * count[filled] / len(confidence), color=colour, marker=style[0], alpha=0.6)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.04)
        axes.set_xlabel("confidence")
        axes.set_ylabel("share right" if rows.level == "word" else "1 - WER")
        axes.grid()
        axes.legend(loc="upper left")
        return svg(name, figure, f"Confidence of {rows.level}s against how right they are")


def risk(rows: Scored, predictors: Sequence[str]) -> str:
    """The error rate of what is kept, by the share that is kept, the surest first."""
    name = f"risk-{rows.level}"
    with svg_canvas(name):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots()
        for predictor in predictors:
            coverage, risks = risk_coverage(rows.predictors[predictor], rows.errors, rows.units)
            colour, style = STYLES.get(predictor, (INK, "x:"))
            axes.plot(100 * coverage, 100 * risks, style[1:], color=colour, linewidth=1.2, label=predictor)
        axes.set_xlim(0, 100)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("kept, %")
        axes.set_ylabel("wrong words among the kept, %" if rows.level == "word" else "WER of the kept, %")
        axes.grid()
        axes.legend(loc="upper left")
        return svg(name, figure, f"Error rate of the kept {rows.level}s by the share that is kept")
