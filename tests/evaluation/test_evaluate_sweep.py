"""A sweep that transcribes: two models, diffusion and Whisper, side by side in one report."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config_file import load
from pipeline.evaluation.evaluate import run_evaluation
from pipeline.evaluation.settings import EvaluateConfig
from pipeline.evaluation.wording import summary_lines
from tests.support.archives import archive, arguments
from tests.support.small_whisper import save_whisper


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("local_ray")
def test_a_swept_model_may_be_whisper_and_nothing_is_transcribed_twice(tmp_path: Path, small_model_dir: Path) -> None:
    source = archive(tmp_path / "in", 3)
    for path in sorted(source.glob("*.wav")):
        path.with_suffix(".txt").write_text("the old cat\n")
    whisper = tmp_path / "whisper"
    save_whisper(whisper)
    common = [
        word for word in arguments(source, tmp_path, small_model_dir) if not word.startswith(("source", "output"))
    ]
    words = [
        *[word for word in common if not word.startswith("budget")],
        *(f"output.uri={tmp_path / 'out'}", f"sets.dev.source.uri={source}", "sets.dev.source.language=en"),
        f"sweep={{model.name: [{small_model_dir}, {whisper}]}}",
    ]
    found = run_evaluation(load(EvaluateConfig, None, words))
    ours, theirs = found.sweep
    assert [point.settings["model.name"] for point in found.sweep] == [str(small_model_dir), str(whisper)]
    for point in found.sweep:
        assert point.overall.transcribed == point.overall.recordings == 3
        assert point.rates["en"].words.units == 9
        assert point.rtfx is not None
        assert point.rtfx > 0
    everything = next(one for one in found.rates if one.group == "all")
    assert ours.overall.words == everything.words
    assert theirs.steps != ours.steps
    assert len(list((tmp_path / "out/runs").glob("*/dev-*"))) == 2  # the base settings are one of the combinations
    assert sum(line.startswith("sweep") for line in summary_lines(found)) == 2
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert str(whisper) in page
