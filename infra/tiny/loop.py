"""Close the loop from transcripts to a model, and measure it: python -m infra.tiny.loop --config FILE key=value ...

An archive of synthetic speech in two languages, in which some recordings are noisy, cut, of a foreign language or of
unknown words, is transcribed by a teacher. Students that have never heard anything learn from the transcripts: one from
those that jobs.select_labels keeps, one from all, one from a random part of the same length. Then all transcribe
held-out voices. Every step is a job; the same command goes on with the first step that has not ended.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from infra.tiny import loop_report, loop_sets, loop_speech
from jobs import cli
from pipeline.config import Section
from pipeline.config_file import validate
from pipeline.evaluation.settings import Rate
from pipeline.model.files.layout import LoraSpec
from pipeline.training.adapter_config import AdapterConfig, AdapterSteps, AudioAugment, StartConfig

log = logging.getLogger(__name__)

KNOWN, ARCHIVE, HELD_OUT = "known", "archive", "held-out"


class SpeechSection(Section):
    """What is synthesised."""

    languages: list[str] = Field(["en", "es"], min_length=1, description="of the archive")
    archive: int = Field(1000, ge=8, description="recordings of each language in the archive")
    known: int = Field(250, ge=8, description="and with references, for the calibration: the same kind of recordings")
    held_out: int = Field(150, ge=1, description="and of held-out voices and phrases, all good")
    defects: float = Field(0.3, ge=0, le=1, description="share of defective recordings")


class LoopConfig(Section):
    """All settings of `infra.tiny.loop`."""

    folder: str = Field("work/loop", description="speech, transcripts, labels, models and the report")
    speech: SpeechSection = SpeechSection()
    teacher: str = Field("tiny", description="the model whose transcripts are learned")
    target_wer: Rate = Field("8%", description="policy of jobs.select_labels", validate_default=True)
    student: StartConfig = StartConfig(adapter="new")
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

    def step(self, name: str, *commands: Sequence[str]) -> None:
        """Run jobs at the same time, unless the step has ended in an earlier call. Raises StepError."""
        marker = self.folder / "done" / name
        if marker.exists():
            log.info("%s: done", name)
            return
        for words in commands:
            log.info("%s: python -m jobs.%s", name, " ".join(words))
        began = time.monotonic()
        running = [subprocess.Popen([sys.executable, "-m", f"jobs.{words[0]}", *words[1:]]) for words in commands]
        try:
            codes = [process.wait() for process in running]
        except BaseException:
            for process in running:
                process.terminate()
            raise
        if any(codes):
            raise StepError(f"{name}: exit codes {', '.join(map(str, codes))}")
        marker.write_text(f"{time.monotonic() - began:.0f}")

    def speech(self) -> None:
        """Synthesise the three sets."""
        c = self.config.speech
        for name, count in ((ARCHIVE, c.archive), (KNOWN, c.known), (HELD_OUT, c.held_out)):
            held_out = name == HELD_OUT
            rows = loop_speech.recordings(
                name,
                c.languages,
                count,
                defects=0.0 if held_out else c.defects,
                seed=self.config.seed,
                held_out=held_out,
            )
            loop_speech.write(self.folder / name, rows)

    def transcribe(self, name: str, calibrator: str) -> list[str]:
        """The words of a transcription by the teacher. One recording is one segment."""
        source = [f"source.uri={self.at(name)}", "source.format=files", "source.language=column:language"]
        model = [f"model.name={self.config.teacher}", f"model.calibrator={calibrator}", "segment.vad=false"]
        return ["transcribe", *source, *model, f"output.uri={self.at('transcripts', name)}"]

    def labels(self) -> None:
        """Transcribe, calibrate, select, export; then the three training sets."""
        known, archive = self.at("transcripts", KNOWN), self.at("transcripts", ARCHIVE)
        calibrator = self.at("calibrator")
        self.step("transcribe-known", self.transcribe(KNOWN, "null"))
        self.step("calibrate", ["calibrate", f"sets.known.output={known}", f"output.uri={calibrator}"])
        self.step("transcribe-archive", self.transcribe(ARCHIVE, f"{calibrator}/calibrator.json"))
        policy = f"policy.target_wer={{default: {self.config.target_wer}}}"
        chosen = [
            f"transcripts={archive}",
            f"calibration.known.output={known}",
            policy,
            "split.by=recording",
            "split.dev=0.05",
        ]
        kept = [*chosen, "split.test=0", "audit.sample=0", f"output.uri={self.at('labels')}"]
        self.step("select", ["select_labels", *kept])
        for name, source in (("selected", self.at("labels")), ("all", archive)):
            nemo = ["export.format=nemo", "export.audio=reference", "export.tasks=1"]
            self.step(f"export-{name}", ["export", *nemo, f"input.uri={source}", f"output.uri={self.at('sets', name)}"])
        loop_sets.write(self.folder / "sets", self.folder / "students", seed=self.config.seed)

    def students(self) -> None:
        """Train all students, at the same time."""
        commands = []
        for name in loop_sets.STUDENTS:
            path = self.folder / "students" / f"{name}.yaml"
            tree = self.student(name)
            validate(AdapterConfig, tree)
            path.write_text(yaml.safe_dump(tree), encoding="utf-8")
            commands.append(["train", "--config", str(path)])
        self.step("train", *commands)

    def student(self, name: str) -> Mapping[str, Any]:
        """The settings of jobs.train. All students have the same ones, but for their labels."""
        c, where = self.config, self.folder / "students"

        def source(uri: Path) -> dict[str, Any]:
            return {"uri": str(uri), "format": "manifest", "language": "column:lang", "trust": True}

        return {
            "source": source(where / f"{name}.jsonl"),
            "evaluation": {"dev": source(where / "dev.jsonl")},
            "output": {"uri": str(where / name / "model"), "name": name},
            "folder": str(where / name / "work"),
            "model": c.student.model_dump(mode="json"),
            "lora": c.lora.model_dump(mode="json"),
            "train": c.train.model_dump(mode="json"),
            "augment": c.augment.model_dump(mode="json"),
            "segment": {"vad": False},
            "compute": {"workers": 0, "threads_per_worker": 1},
            "grounding_margin": 0,
            "seed": c.seed,
        }

    def evaluate(self) -> None:
        """Transcribe the held-out voices with the teacher and all students, and compare them in pairs."""
        students = {name: self.at("students", name, "model") for name in loop_sets.STUDENTS[::-1]}
        named = {"teacher": self.config.teacher, **students}
        source = {"uri": self.at(HELD_OUT), "format": "files", "language": "column:language"}
        tree = {
            "name": "loop",
            "models": [{"name": name, "model": {"name": model}} for name, model in named.items()],
            "sets": {"held-out": {"source": source}},
            "output": {"uri": self.at("evaluation")},
            "segment": {"vad": False},
            "run": "loop",
        }
        path = self.folder / "evaluate.yaml"
        path.write_text(yaml.safe_dump(tree), encoding="utf-8")
        self.step("evaluate", ["evaluate", "--config", str(path)])


def run(config: LoopConfig) -> int:
    """Do all steps that are left, and print the report. Returns 1 where a job fails."""
    loop = Loop(config)
    try:
        loop.speech()
        loop.labels()
        loop.students()
        loop.evaluate()
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
