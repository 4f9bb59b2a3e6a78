"""Fit the calibrator that an embedded model ships with, and write its figures into the model's card.

    python -m infra.tiny.calibrate MODEL [folder]

It takes recorded people (human_speech.py). For tiny it also synthesises speech by voices that the training never saw:
the sets of probes.py, each in six languages. Then it transcribes all of it, fits (jobs.calibrate), and writes
pipeline/assets/MODEL/calibrator.json and the section "## Confidence" of the card. FOLDER (work/calibrate/MODEL) keeps
the speech and the transcripts: the same command goes on where it was.
"""

from __future__ import annotations

import io
import logging
import random
import re
import shutil
import sys
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

from infra.tiny import human_speech, probes
from pipeline.calibration.calibrate import Calibration, fit_and_measure, write
from pipeline.calibration.report import markdown_table
from pipeline.calibration.samples import read_samples
from pipeline.config import LANGUAGES, RunConfig
from pipeline.in_process import transcribe_here
from pipeline.model.files.layout import ASSETS
from pipeline.output.calibrator import FILE
from pipeline.schemas import SAMPLE_RATE
from pipeline.storage.local import LocalStorage

TINY = "tiny"
OF_A_SET, OF_A_CORPUS = 15, 150  # utterances of a set of probes.py in one language; recordings of a corpus, at most
HEADING = "## Confidence"
SCHEMA = pa.schema(
    [*((name, pa.string()) for name in ("id", "text", "language", "speaker", "corpus")), ("audio", pa.binary())]
)
_SECTION = re.compile(rf"^{HEADING}\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)


def synthetic() -> list[dict[str, Any]]:
    """Utterances of every set of probes.py. The speaker is the voice without its accent."""
    rows = []
    for name, maker in probes.SETS.items():
        for language in LANGUAGES:
            for row in probes.rows(f"calibration {name}", maker, language, OF_A_SET):
                out = io.BytesIO()
                soundfile.write(out, np.frombuffer(row["pcm"], "<i2"), SAMPLE_RATE, format="FLAC")
                about = {key: row[key] for key in ("id", "text", "language")}
                rows.append(about | {"speaker": row["voice"].split("+")[-1], "corpus": name, "audio": out.getvalue()})
    random.Random(0).shuffle(rows)
    return rows


def people() -> list[dict[str, Any]]:
    """Recordings of people, a sample of each corpus. Where the speaker is unknown, the corpus counts as one."""
    rows = pq.read_table(human_speech.make(human_speech.FOLDER)).to_pylist()
    random.Random(0).shuffle(rows)
    by_corpus: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_corpus[row["corpus"]].append(row)
    return [
        {name: row[name] for name in SCHEMA.names} | {"speaker": row["speaker"] or corpus}
        for corpus, own in by_corpus.items()
        for row in own[:OF_A_CORPUS]
    ]


def calibrate(model: str, folder: Path) -> Calibration:
    """Make the speech, transcribe it and fit. What is there already is kept.

    Texts are compared as they are spoken: a number from 0 to 99 is its words.
    """
    speech, output = folder / "speech.parquet", folder / "transcripts"
    if not speech.exists():
        folder.mkdir(parents=True, exist_ok=True)
        rows = [*(synthetic() if model == TINY else ()), *people()]
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), speech, row_group_size=64)
    source = {"uri": str(speech), "format": "parquet", "id_column": "id", "language": "column:language"}
    run = {"source": source, "output": {"uri": str(output)}, "model": {"name": model, "calibrator": None}}
    storage = transcribe_here(RunConfig.model_validate(run))
    samples = read_samples([(model, storage, _as_spoken)], "corpus")
    calibration = fit_and_measure(samples)
    write(calibration, LocalStorage(folder / "fit"))
    return calibration


def _as_spoken(language: str) -> Callable[[str], str]:
    """The normaliser of a language."""
    return partial(human_speech.normal_form, language=language)


def section(model: str, calibration: Calibration, command: str) -> str:
    """The section of the card."""
    about, fitted = calibration.about, calibration.about["fitted"]
    sources = ", ".join(f"{count} {name}" for name, count in about["confidence_source"].items())
    speech = "recordings of people (infra/tiny/human_speech.yaml; where a speaker is unknown, the corpus is one)"
    if model == TINY:
        speech += " and synthesised utterances of the sets of infra/tiny/probes.py, by voices that it never heard"
    return f"""{HEADING}

`calibrator.json` is fitted on {fitted["segments"]} segments of {speech}:
{fitted["words"]} words, {fitted["speakers"]} speakers, on {fitted["date"]}. Languages with curves of their own:
{", ".join(about["languages"]) or "none"}. The figures are of speakers that were held out (five folds, everything fitted
anew). A word is right or wrong; a segment counts as right where it has no error, and its confidence stands for 1 - WER.
Segments by `confidence_source`: {sources}.

{markdown_table(calibration.figures)}

    {command}
"""


def main(model: str, folder: Path) -> None:
    """Fit, and write calibrator and card of the model in pipeline/assets."""
    calibration = calibrate(model, folder)
    shutil.copy(folder / "fit" / FILE, ASSETS / model / FILE)
    path = ASSETS / model / "MODEL_CARD.md"
    card = _SECTION.sub("", path.read_text(encoding="utf-8")).rstrip("\n")
    new = section(model, calibration, f"python -m infra.tiny.calibrate {model}")
    path.write_text(f"{card}\n\n{new}", encoding="utf-8")
    print(markdown_table(calibration.figures))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    given = sys.argv[1:]
    main(given[0], Path(given[1]) if len(given) > 1 else Path("work/calibrate") / given[0])
