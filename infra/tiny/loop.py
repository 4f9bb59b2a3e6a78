"""Close the loop from transcripts to a model, and measure it: python -m infra.tiny.loop --config FILE key=value ...

An archive of synthetic speech in two languages, in which some recordings are noisy, cut, of a foreign language or of
unknown words, is transcribed by a teacher. Students learn from the transcripts: one from those that jobs.select_labels
keeps, one from all, one from a random part of the same length. Then all transcribe held-out voices. Every step is a
job; the same command goes on with the first step that has not ended.
"""

from __future__ import annotations

import json
import logging
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from infra.tiny import loop_report, loop_sets, loop_speech
from jobs import cli
from pipeline.config import Section
from pipeline.evaluation.settings import Rate
from pipeline.model.files.layout import LoraSpec
from pipeline.training.adapter_config import AdapterSteps, AudioAugment, StartConfig

log = logging.getLogger(__name__)

ARCHIVE, KNOWN, DEV, HELD_OUT = "archive", "known", "dev", "held-out"


class SpeechSection(Section):
    """What is synthesised."""

    languages: list[str] = Field(["en", "es"], min_length=1, description="of the archive")
    archive: int = Field(1000, ge=8, description="recordings of each language in the archive")
    known: int = Field(250, ge=8, description="and with references, for the calibration: the same kind of recordings")
    dev: int = Field(50, ge=1, description="and all good, with references: they choose the step of a student")
    held_out: int = Field(300, ge=1, description="and of held-out voices and phrases, all good")
    defects: float = Field(0.3, ge=0, le=1, description="share of defective recordings")


class LoopConfig(Section):
    """All settings of `infra.tiny.loop`."""

    folder: str = Field("work/loop", description="speech, transcripts, labels, models and the report")
    speech: SpeechSection = SpeechSection()
    teacher: str = Field("tiny", description="the model whose transcripts are learned")
    target_wer: Rate = Field("8%", description="policy of jobs.select_labels", validate_default=True)
    student: StartConfig = StartConfig()
    lora: LoraSpec = LoraSpec(rank=16, alpha=32, targets=["q_proj", "k_proj", "v_proj", "o_proj"])
    train: AdapterSteps = AdapterSteps()
    augment: AudioAugment = AudioAugment()
    seed: int = Field(0, ge=0, lt=2**31, description="of speech, of the random part and of the students")


class StepError(Exception):
    """A job has failed."""


class Loop:
    """The steps. Each leaves its seconds in FOLDER/done/NAME when it has ended."""

    def __init__(self, config: LoopConfig) -> None:
        self.config, self.folder = config, Path(config.folder)
        (self.folder / "done").mkdir(parents=True, exist_ok=True)

    def at(self, *names: str) -> str:
        """A path below the folder."""
        return str(self.folder.joinpath(*names))

    def step(self, name: str, work: Callable[[], None]) -> None:
        """Do a step, unless it has ended in an earlier call."""
        marker = self.folder / "done" / name
        if marker.exists():
            log.info("%s: done", name)
            return
        log.info("%s", name)
        began = time.monotonic()
        work()
        marker.write_text(f"{time.monotonic() - began:.0f}")

    def jobs(self, name: str, *commands: Sequence[str]) -> None:
        """A step of jobs at the same time. Raises StepError where one fails."""
        self.step(name, partial(_run_jobs, name, commands))

    def run(self) -> None:
        """Do all steps that are left. Raises StepError."""
        self.step("speech", self._speak)
        for name, words in self.label_commands().items():
            self.jobs(name, words)
        students = self.folder / "students"
        self.step("sets", lambda: loop_sets.write(self.folder / "sets", students, seed=self.config.seed))
        configs = {name: self._written(f"students/{name}.yaml", self.student(name)) for name in loop_sets.STUDENTS}
        self.jobs("train", *(["train", "--config", path] for path in configs.values()))
        self.jobs("evaluate", ["evaluate", "--config", self._written("evaluate.yaml", self.evaluation())])

    def _speak(self) -> None:
        c = self.config.speech
        for name, count in ((ARCHIVE, c.archive), (KNOWN, c.known), (DEV, c.dev), (HELD_OUT, c.held_out)):
            rows = loop_speech.recordings(
                name,
                c.languages,
                count,
                defects=c.defects if name in (ARCHIVE, KNOWN) else 0.0,
                seed=self.config.seed,
                held_out=name == HELD_OUT,
            )
            loop_speech.write(self.folder / name, rows)

    def label_commands(self) -> dict[str, list[str]]:
        """The words of the jobs from transcribing to exporting, by step. One recording is one segment."""
        known, archive = (self.at("transcripts", name) for name in (KNOWN, ARCHIVE))
        fitted, labels = self.at("calibrator"), self.at("labels")

        def transcribe(name: str, calibrator: str) -> list[str]:
            source = [f"source.{key}={value}" for key, value in self._files(name).items()]
            model = [f"model.name={self.config.teacher}", f"model.calibrator={calibrator}", "segment.vad=false"]
            return ["transcribe", *source, *model, f"output.uri={self.at('transcripts', name)}"]

        def export(name: str, source: str) -> list[str]:
            how = ["export.format=nemo", "export.audio=reference", "export.tasks=1"]
            return ["export", *how, f"input.uri={source}", f"output.uri={self.at('sets', name)}"]

        policy = [f"policy.target_wer={{default: {self.config.target_wer}}}", "audit.sample=0"]
        split = ["split.dev=0", "split.test=0"]
        chosen = [f"transcripts={archive}", f"calibration.known.output={known}", *policy, *split]
        return {
            "transcribe-known": transcribe(KNOWN, "null"),
            "calibrate": ["calibrate", f"sets.known.output={known}", f"output.uri={fitted}"],
            "transcribe-archive": transcribe(ARCHIVE, f"{fitted}/calibrator.json"),
            "select": ["select_labels", *chosen, f"output.uri={labels}"],
            "export-selected": export(loop_sets.SELECTED, labels),
            "export-all": export(loop_sets.ALL, archive),
        }

    def student(self, name: str) -> dict[str, Any]:
        """The settings of jobs.train. All students have the same ones, but for their labels."""
        c, where = self.config, self.folder / "students"

        labels = str(where / f"{name}.jsonl")
        sections = {key: getattr(c, key).model_dump(mode="json") for key in ("lora", "train", "augment")}
        return {
            "source": {"uri": labels, "format": "manifest", "language": "column:lang", "trust": True},
            "evaluation": {DEV: self._files(DEV)},
            "output": {"uri": str(where / name / "model"), "name": name},
            "folder": str(where / name / "work"),
            "model": c.student.model_dump(mode="json"),
            **sections,
            "segment": {"vad": False},
            "compute": {"workers": 0, "threads_per_worker": 1},
            "grounding_margin": 0,
            "seed": c.seed,
        }

    def evaluation(self) -> dict[str, Any]:
        """The settings of jobs.evaluate: teacher and students on the held-out voices, compared in pairs."""
        students = {name: self.at("students", name, "model") for name in loop_sets.STUDENTS[::-1]}
        named = {"teacher": self.config.teacher, **students}
        return {
            "name": "loop",
            "run": "loop",
            "models": [{"name": name, "model": {"name": model}} for name, model in named.items()],
            "sets": {HELD_OUT: {"source": self._files(HELD_OUT)}},
            "gate": {"resamples": 20_000},  # so many that the p of 18 comparisons can be small
            "output": {"uri": self.at("evaluation")},
            "segment": {"vad": False},
        }

    def _files(self, name: str) -> dict[str, str]:
        """A set of speech as the source of a job."""
        return {"uri": self.at(name), "format": "files", "language": "column:language"}

    def _written(self, name: str, settings: dict[str, Any]) -> str:
        """The path of a YAML file of settings."""
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(settings), encoding="utf-8")
        return str(path)


def _run_jobs(step: str, commands: Sequence[Sequence[str]]) -> None:
    """Run jobs at the same time, each in a process that ends with this one. Raises StepError where one fails."""
    for words in commands:
        log.info("%s: python -m jobs.%s", step, shlex.join(words))
    running = [subprocess.Popen([sys.executable, "-m", f"jobs.{words[0]}", *words[1:]]) for words in commands]
    try:
        codes = [process.wait() for process in running]
    finally:
        for process in running:
            process.terminate()
    if any(codes):
        raise StepError(f"{step}: exit codes of its jobs: {', '.join(map(str, codes))}")


def run(config: LoopConfig) -> int:
    """Do all steps that are left, and print the report. Returns 1 where a job fails."""
    loop = Loop(config)
    try:
        loop.run()
    except StepError as err:
        print(err, file=sys.stderr)
        return 1
    report = loop_report.collect(loop.folder)
    (loop.folder / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")
    text = loop_report.markdown(report)
    (loop.folder / "report.md").write_text(text, encoding="utf-8")
    print(f"{text}\n{loop.folder}/report.md")
    return 0


def main(arguments: list[str]) -> int:
    """Run the command line. Returns the exit code of jobs.cli."""
    return cli.main("infra.tiny.loop", LoopConfig, run, __doc__, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
