"""Fit a calibrator on transcripts with references, and report how good it is for speakers it was not fitted on."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np

from pipeline.calibration.figures import Figures, Scored, figures_of, scored
from pipeline.calibration.fit import fit_calibrator, held_out
from pipeline.calibration.report import render
from pipeline.calibration.samples import NormaliserOf, Samples, read_samples
from pipeline.calibration.settings import CalibrateConfig, CalibrateSet
from pipeline.config import ConfigError, StorageConfig
from pipeline.evaluation import history
from pipeline.output.calibrator import ALL, FILE, Calibrator
from pipeline.planning.plan import plan_names
from pipeline.storage.base import Storage, open_input, open_storage
from pipeline.text.normalise import normaliser

REPORT_JSON, REPORT_HTML = "report.json", "report.html"
_RUN = re.compile(r"runs/[^/]+/([^/]+)-([0-9a-f]{8})/_run/plan\.parquet")


@dataclass(frozen=True, slots=True)
class Calibration:
    """A fitted calibrator and its report. figures: by level, group and predictor, on speakers that were held out."""

    calibrator: Calibrator
    about: dict[str, Any]
    figures: list[Figures]
    rows: tuple[Scored, Scored]  # words and segments


def run_calibration(config: CalibrateConfig) -> Calibration:
    """Fit, measure, write calibrator.json, report.json and report.html to the output. Raises ConfigError."""
    if not config.sets:
        raise ConfigError("sets: none; give sets.NAME.output=ADDRESS of transcripts with references")
    calibration = fit_and_measure(read_samples(set_outputs(config.sets, config.storage), config.source_column))
    write(calibration, open_storage(config.output.uri, config=config.storage))
    return calibration


def set_outputs(sets: Mapping[str, CalibrateSet], config: StorageConfig) -> list[tuple[str, Storage, NormaliserOf]]:
    """What `read_samples` reads of these sets. Raises ConfigError."""
    return [
        (name if len(found) == 1 else f"{name}/{inner}", storage, partial(normaliser, one.normaliser))
        for name, one in sets.items()
        for found in [list(transcribed(one.output, config))]
        for inner, storage in found
    ]


def write(calibration: Calibration, target: Storage) -> None:
    """Put calibrator.json, report.json and report.html."""
    target.put(FILE, calibration.calibrator.to_json())
    report = calibration.about | {"figures": [asdict(one) for one in calibration.figures]}
    target.put(REPORT_JSON, json.dumps(report, indent=1, ensure_ascii=False).encode() + b"\n")
    page = render(calibration.about, calibration.figures, calibration.rows)
    target.put(REPORT_HTML, page.encode())


def fit_and_measure(samples: Samples) -> Calibration:
    """Fit on all samples, and measure with speakers held out. Raises ConfigError where the samples are not enough."""
    models = sorted(set(samples.features.model.tolist()))
    if len(models) > 1:
        raise ConfigError(f"sets: transcripts of {', '.join(models)}: a calibrator is for one model")
    fitted = {
        "date": datetime.now(UTC).date().isoformat(),
        "fingerprints": list(samples.fingerprints),
        "speakers": len(np.unique(samples.speaker)),
        "segments": len(samples.units),
        "words": len(samples.right),
    }
    try:
        judged = held_out(samples)
        calibrator = fit_calibrator(samples, fitted)
    except ValueError as err:
        raise ConfigError(f"sets: not enough to fit a calibrator on: {err}") from None
    rows = scored(samples, judged)
    about = {
        "model": models[0],
        "calibrator": calibrator.id,
        "fitted": fitted,
        "languages": [name for name in calibrator.curves if name != ALL],
        "confidence_source": dict(sorted(Counter(filter(None, judged.source.tolist())).items())),
    }
    return Calibration(calibrator, about, [one for of_level in rows for one in figures_of(of_level)], rows)


def transcribed(uri: str, config: StorageConfig) -> Iterator[tuple[str, Storage]]:
    """The outputs of jobs.transcribe at an address, with the names of their sets.

    It is one itself, or an output of jobs.evaluate: then those of its newest evaluation. Raises ConfigError.
    """
    storage = open_input("sets", uri, config)
    if plan_names(storage):
        yield "", storage
        return
    results = history.results(storage)
    if not results:
        raise ConfigError(f"sets: {uri}: neither an output of jobs.transcribe nor one of jobs.evaluate")
    rows = history.read_rows(storage, results[-1]["evaluation"]).select(["set", "fingerprint"]).to_pylist()
    wanted = {(row["set"], row["fingerprint"][:8]) for row in rows if row["fingerprint"]}
    matches = filter(None, map(_RUN.fullmatch, storage.list("runs/")))
    inside = {match.groups(): match[0].removesuffix("/_run/plan.parquet") for match in matches}
    if not wanted & inside.keys():
        raise ConfigError(f"sets: {uri}: it transcribed nothing itself; name the outputs that it evaluated")
    for key in sorted(wanted & inside.keys()):
        yield key[0], open_storage(f"{uri.rstrip('/')}/{inside[key]}", create=False, config=config)
