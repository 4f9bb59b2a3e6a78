"""Measure the embedded models side by side and write docs/results.md.

    python -m infra.results

Evaluates them on recorded people (which infra/tiny/human_speech.py fetches) and on the self set, below work/results.
What is transcribed there already, with the same weights and settings, is not transcribed again.
"""

from __future__ import annotations

import logging
import sys
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from infra.tiny import human_speech
from pipeline.config import ConfigError
from pipeline.config_file import load
from pipeline.evaluation import side_by_side_report as report
from pipeline.evaluation.result import SideBySide
from pipeline.evaluation.settings import EvaluateConfig
from pipeline.evaluation.side_by_side import run_side_by_side

PAGE = Path("docs/results.md")
FOLDER = Path("work/results")
MODELS = "models=[tiny,whisper-base]"
FOR_BOTH = ("compute.threads_per_replica=1", "model.calibrator=null")
WIDTH = 140  # of a line of the page
BY_THE_CLOCK = report.MODELS.index("pipeline_rtfx")  # left out: other work on the machine changes it


@dataclass(frozen=True, slots=True)
class Chapter:
    """One evaluation of the page. before: the command that makes its recordings, if they are not in the repository."""

    title: str
    config: str
    about: str
    settings: tuple[str, ...]
    before: str | None = None

    @property
    def arguments(self) -> list[str]:
        """The settings that the command changes."""
        return [MODELS, *self.settings, *FOR_BOTH]

    @property
    def commands(self) -> list[str]:
        """What somebody types to measure the same."""
        words = [f"'{word}'" if set(word) & set("[]{}") else word for word in self.arguments]
        evaluate = f"python -m jobs.evaluate --config {self.config} {' '.join(words)}"
        return [self.before, evaluate] if self.before else [evaluate]


CHAPTERS = {
    "human": Chapter(
        "Recorded people",
        "configs/evaluate-human.yaml",
        "Recordings of people from Debian packages, none of them in the training of `tiny`: telephone prompts, single "
        "words, sentences that were read aloud; Mandarin as syllables that were joined to words. Numbers are compared "
        "as words. Most are a second long, and many have words that `tiny` cannot know. The "
        "[card of tiny](../pipeline/assets/tiny/MODEL_CARD.md) and the "
        "[card of whisper-base](../pipeline/assets/whisper-base/MODEL_CARD.md) have the rates of each speaker, with "
        "and without such words.",
        (),
        "python -m infra.tiny.human_speech",
    ),
    "self": Chapter(
        "The self set",
        "configs/evaluate-self.yaml",
        "Synthesised phrases in the vocabulary of `tiny`, by voices that it never heard "
        "(`pipeline/assets/evaluation`); numbers are compared as words. "
        "`whisper-base` has to write numbers and single words of synthetic voices without any context.",
        ("baseline=null", "gate.ceilings={}", "sets.self.normaliser=spoken"),
    ),
}

HEAD = f"""# Results of the embedded models

`python -m infra.results` measures everything on this page and writes it.

`tiny` is the diffusion model at demonstration size; it knows a closed vocabulary. `whisper-base` is the real
autoregressive Whisper-base with int8 weights. Both run through the same pipeline, one thread on a CPU.

processor_rtfx is seconds of audio per second of a processor in the processes of the model. Whisper encodes 30 s for
each recording, however short it is, so on recordings of a second its figure says little about long ones
(`python -m jobs.bench whisper` measures those).

{report.NOTES["differences"]} {report.NOTES["words"]}
Confidences are raw here; what calibrators make of them is in the cards.
"""


def page(found: Mapping[str, SideBySide]) -> str:
    """The page as Markdown. found: by the names of CHAPTERS."""
    parts = [part if part.startswith("#") else _wrapped(part) for part in HEAD.strip().split("\n\n")]
    for name, one in found.items():
        chapter = CHAPTERS[name]
        about = next(iter(one.evaluations.values())).about
        models = ", ".join(evaluation.about["model"] for evaluation in one.evaluations.values())
        recordings = next(iter(one.evaluations.values())).rates[0].recordings
        parts += [
            f"## {chapter.title}",
            _wrapped(f"{chapter.about} {recordings} recordings. Weights: {models}. Machine: {about['hardware']}."),
            "\n".join(["```", "# hours", *chapter.commands, "```"]),
            *("\n".join(lines) for lines in _tables(one)),
        ]
    return "\n\n".join(parts) + "\n"


def _tables(found: SideBySide) -> Iterable[list[str]]:
    rows = [report.MODELS, *report.model_rows(found)]
    header, *models = (row[:BY_THE_CLOCK] + row[BY_THE_CLOCK + 1 :] for row in rows)
    yield report.table_lines(header, models)
    yield report.table_lines(report.RATES, report.rate_rows(found))
    yield report.table_lines(report.DIFFERENCES, map(report.difference_row, found.differences))
    yield report.table_lines(report.WORDS, report.word_rows(found))


def _wrapped(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), WIDTH, break_on_hyphens=False, break_long_words=False)


def main() -> None:
    """Measure and write the page."""
    if not (human_speech.FOLDER / human_speech.PARQUET).exists():
        human_speech.make(human_speech.FOLDER)
    found = {}
    for name, chapter in CHAPTERS.items():
        places = [f"output.uri={FOLDER / name}", "run=results"]
        found[name] = run_side_by_side(load(EvaluateConfig, chapter.config, [*chapter.arguments, *places]))
    PAGE.write_text(page(found), encoding="utf-8")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        main()
    except ConfigError as error:
        sys.exit(f"infra.results: {error}")
