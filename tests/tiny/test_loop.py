"""The steps of the loop: settings that the jobs take, a step that has ended is not done again, a failed one is."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from infra.tiny import loop, loop_sets
from pipeline.calibration.settings import CalibrateConfig
from pipeline.config import RunConfig, Section
from pipeline.config_file import load, validate
from pipeline.evaluation.settings import EvaluateConfig
from pipeline.export.settings import ExportConfig
from pipeline.labels.settings import LabelsConfig
from pipeline.training.adapter_config import AdapterConfig

CONFIG = "infra/tiny/loop.yaml"
JOBS: dict[str, type[Section]] = {
    "transcribe": RunConfig,
    "calibrate": CalibrateConfig,
    "select_labels": LabelsConfig,
    "export": ExportConfig,
}


@pytest.fixture
def made(tmp_path: Path) -> loop.Loop:
    return loop.Loop(load(loop.LoopConfig, CONFIG, [f"folder={tmp_path / 'loop'}"]))


def test_every_job_takes_its_settings_and_reads_what_an_earlier_one_writes(made: loop.Loop) -> None:
    written: set[str] = set()
    for name, words in made.label_commands().items():
        config = load(JOBS[words[0]], None, words[1:])
        tree = str(config.model_dump(mode="json"))
        reads = {path for path in ("transcripts/known", "calibrator/calibrator.json", "labels") if f"{path}'" in tree}
        output = config.model_dump()["output"]["uri"].removeprefix(f"{made.folder}/")
        assert {path.removesuffix("/calibrator.json") for path in reads - {output}} <= written, name
        written.add(output)
    assert {"sets/selected", "sets/all", "labels", "transcripts/archive"} <= written


def test_students_differ_in_their_labels_alone(made: loop.Loop) -> None:
    configs = [validate(AdapterConfig, made.student(name)) for name in loop_sets.STUDENTS]
    assert len({config.source.uri for config in configs}) == len({config.output.uri for config in configs}) == 3
    same = {"source": configs[0].source, "output": configs[0].output, "folder": configs[0].folder}
    assert all(config.model_copy(update=same) == configs[0] for config in configs)


def test_the_selection_is_compared_with_all_others(made: loop.Loop) -> None:
    """A difference is a model minus one before it."""
    sides = validate(EvaluateConfig, made.evaluation()).sides()
    assert list(sides) == ["teacher", "random", "all", "selected"]
    assert len({side.model.name for side in sides.values()}) == 4
    assert all(isinstance(side, BaseModel) and not side.segment.vad for side in sides.values())


def test_a_step_that_has_ended_is_not_done_again(made: loop.Loop) -> None:
    done: list[int] = []
    for number in range(2):
        made.step("sets", lambda number=number: done.append(number))
    assert done == [0]


def test_a_failed_job_is_named_and_done_again(made: loop.Loop) -> None:
    with pytest.raises(loop.StepError, match=r"^export-all: exit codes of its jobs: 0, 2$"):
        made.jobs("export-all", ["export", "--help"], ["export"])
    made.jobs("export-all", ["export", "--help"])
    assert (made.folder / "done" / "export-all").exists()
