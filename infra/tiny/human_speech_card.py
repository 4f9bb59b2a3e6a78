"""Write the error rates on real human speech into the card of an embedded model.

    python -m infra.tiny.human_speech_card [model]

Makes the speech (infra/tiny/human_speech.py), transcribes and scores it as configs/evaluate-human.yaml says, and writes
the section "## Real human speech" at the end of pipeline/assets/MODEL/MODEL_CARD.md. The rest of the card stays.
"""

from __future__ import annotations

import logging
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from infra.tiny import human_speech
from infra.tiny.measure import LANGUAGE_NAMES
from pipeline.config import LANGUAGES, ConfigError
from pipeline.config_file import load
from pipeline.evaluation import history
from pipeline.evaluation.evaluate import run_evaluation
from pipeline.evaluation.rates import rate
from pipeline.evaluation.result import headline
from pipeline.evaluation.settings import EvaluateConfig
from pipeline.evaluation.wording import interval
from pipeline.model.files.layout import ASSETS
from pipeline.storage.base import open_storage

TINY = "tiny"  # the model with the closed vocabulary
CONFIG = "configs/evaluate-human.yaml"
HEADING = "## Real human speech"
SURE = 0.9  # a confidence that must not stand beside words that the model cannot know
RESAMPLES = 1000  # of the bootstrap
WIDTH = 120  # of a line of the card
_SECTION = re.compile(rf"^{HEADING}\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)


def cell(rows: Iterable[Mapping[str, Any]]) -> str:
    """A cell: error rate, 95 % interval (errors / units of the reference; recordings), or "none".

    rows: of schemas.EVALUATED, in one language.
    """
    given = list(rows)
    rates = rate("language", "", given, resamples=RESAMPLES, seed=0)
    counted = rates.counts
    if counted.rate is None:
        return "none"
    within = interval(rates.low, rates.high)
    return f"{100 * counted.rate:.1f} % {within} ({counted.errors} / {counted.units}; {len(given)})"


def lines_of(rows: list[dict[str, Any]], corpora: list[dict[str, Any]]) -> list[str]:
    """The Markdown table: a line for each `about` of the corpora and for each language, also one without recordings.

    rows: of schemas.EVALUATED, each with `corpus` and `in_vocabulary` of its recording.
    """
    lines = [
        "| language | who says what | metric | in vocabulary | any text |",
        "| --- | --- | --- | --- | --- |",
    ]
    for language in LANGUAGES:
        name, metric = LANGUAGE_NAMES[language], headline(language)
        spoken = [corpus for corpus in corpora if corpus["language"] == language]
        for about in dict.fromkeys(corpus["about"] for corpus in spoken):
            names = {corpus["name"] for corpus in spoken if corpus["about"] == about}
            lines.append(_line(name, about, metric, [row for row in rows if row["corpus"] in names]))
        own = [row for row in rows if row["language"] == language]
        if own:
            lines.append(_line(name, "**all**", metric, own))
        else:
            lines.append(f"| {name} | nothing recorded in these packages, not measured | {metric} | none | none |")
    return lines


def _line(language: str, about: str, metric: str, rows: list[dict[str, Any]]) -> str:
    known = cell(row for row in rows if row["in_vocabulary"] == "yes")
    return f"| {language} | {about} | {metric} | {known} | {cell(rows)} |"


def section(model: str, rows: list[dict[str, Any]], packages: Mapping[str, str], corpora: list[dict[str, Any]]) -> str:
    """The section of a model's card, with its heading. rows: as `lines_of` takes them."""
    silent = sum(not row["hypothesis"] for row in rows)
    unknown = [row["confidence"] or 0.0 for row in rows if row["in_vocabulary"] != "yes"]
    sure = sum(confidence > SURE for confidence in unknown)
    doubt = (
        f" The vocabulary is closed, and no other word can come out right: of the {len(unknown)} recordings with "
        f"other words, {sure} have a confidence above {SURE}."
    )
    licences: dict[str, list[str]] = {}
    for corpus in corpora:
        known = licences.setdefault(corpus["package"], [])
        if corpus["licence"] not in known:
            known.append(corpus["licence"])
    texts = [name for name in packages if name not in licences]
    named = "; ".join(f"{name} {packages[name]} ({', '.join(own)})" for name, own in licences.items())
    listed = "; ".join(f"{name} {packages[name]}" for name in texts)
    paragraphs = [
        f"{len(rows)} recordings of people, none of them in the training of {TINY}, transcribed as {CONFIG} says. "
        f'"In vocabulary" are the recordings with no other words than those that {TINY} knows, "any text" is all of '
        "them. A cell is error rate, its 95 % interval (errors / units of the reference; recordings); the interval is "
        "a bootstrap over speakers, or over recordings where the speaker is unknown or the only one. Words are "
        f"counted as they are spoken, digits as words, Mandarin in characters. In {silent} recordings nothing was "
        f"recognised: their words count as deleted.{doubt if model == TINY else ''}",
        "\n".join(lines_of(rows, corpora)),
        "The Mandarin recordings are single syllables, which this measurement joined to words, with 30 ms between and "
        "250 ms of silence around them. Prompts and the clock are telephone speech of 8 kHz. Texts are the packages' "
        "own lists, with their spelling repaired, else what the name of the file says; nobody listened to them for "
        "this table. Mah-Jongg tiles are called as the "
        "game's German handbook lists its sound files (Bambus, Kreis and Zahl, each 1 to 9).",
        f"Debian 12 packages; the command below checks what each says of its licence: {named}. "
        f'Texts also from: {listed}. "Of the package as a whole": its copyright file does not name the recordings. '
        "Nothing of them is in this repository.",
    ]
    wrapped = [
        text if text.startswith("|") else textwrap.fill(text, WIDTH, break_on_hyphens=False) for text in paragraphs
    ]
    return "\n\n".join([HEADING, *wrapped, f"    python -m infra.tiny.human_speech_card {model}"]) + "\n"


def rewritten(card: str, new: str) -> str:
    """Replace the section of that heading by `new`, at the end of the card. The rest stays byte for byte."""
    rest = _SECTION.sub("", card)
    while not rest.endswith("\n\n"):
        rest += "\n"
    return rest + new


def measured(model: str, folder: Path) -> list[dict[str, Any]]:
    """Transcribe and score the speech in a folder again. Returns rows as `lines_of` takes them."""
    speech = human_speech.make(folder)
    places = [f"sets.human.source.uri={speech}", f"output.uri={folder / 'evaluation'}", f"model.name={model}"]
    config = load(EvaluateConfig, CONFIG, places)
    shutil.rmtree(config.output.uri, ignore_errors=True)
    evaluation = run_evaluation(config)
    known = {row["id"]: row for row in pq.read_table(speech, columns=list(human_speech.NAMES)).to_pylist()}
    rows = history.read_rows(open_storage(config.output.uri), evaluation.evaluation).to_pylist()
    return [row | {name: known[row["recording_id"]][name] for name in ("corpus", "in_vocabulary")} for row in rows]


def main(model: str, folder: Path = human_speech.FOLDER, assets: Path = ASSETS) -> None:
    """Measure an embedded model, and write the section into its card."""
    card = assets / model / "MODEL_CARD.md"
    if not card.is_file():
        raise ConfigError(f"{model}: no embedded model has this name: no such file: {card}")
    new = section(model, measured(model, folder), *human_speech.table())
    card.write_bytes(rewritten(card.read_bytes().decode("utf-8"), new).encode("utf-8"))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        main(sys.argv[1] if len(sys.argv) > 1 else TINY)
    except ConfigError as error:
        sys.exit(f"infra.tiny.human_speech_card: {error}")
