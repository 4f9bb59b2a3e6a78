"""The embedded model in FP8 on the utterances of the self evaluation, where both sides of its products are in FP8.

`-s` shows the error rates, and how they differ from those of a run in float32.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs import evaluate
from pipeline.config import RunConfig
from pipeline.config_file import load
from pipeline.in_process import transcribe_here
from pipeline.model.files import layout
from pipeline.model.network.float8 import Kernels
from tests.support.float8_products import on_the_cpu

ROOT = Path(__file__).parents[2]


def transcribed(output: Path, *words: str) -> None:
    """The utterances of the self evaluation, in this process."""
    source = [f"source.uri={layout.ASSETS}/evaluation/self.tar", "source.format=webdataset"]
    words = (*source, "source.language=column:language", "compute.canvases=16", "model.device=cpu", *words)
    transcribe_here(layout.resolve(load(RunConfig, None, [*words, f"output.uri={output}"]))[0])


def compared(output: Path, rates: Path, *words: str) -> int:
    """The exit code of jobs.evaluate for a finished output."""
    words = (f"sets={{self: {{output: {output}}}}}", f"output.uri={rates}", "gate={}", *words)
    return evaluate.main(["--config", str(ROOT / "configs/evaluate-self.yaml"), *words])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_a_gpu_with_fp8_products_computes_shows_no_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The products run on the CPU, with the rounding of those on a GPU, beside a run in float32."""
    plain, fp8, baseline = tmp_path / "float32", tmp_path / "fp8", tmp_path / "baseline"
    transcribed(plain)
    assert compared(plain, tmp_path / "rates", "run=float32", "baseline=null", f"keep_as={baseline}") == 0
    monkeypatch.setattr(Kernels, "of", lambda device, dtype: Kernels(linear=True, experts=True))
    with on_the_cpu() as products:
        transcribed(fp8, "model.dtype=bfloat16", "model.weights=fp8")
    assert products
    code = compared(fp8, tmp_path / "rates", "run=fp8", f"baseline={baseline}")
    printed = capsys.readouterr().out
    with capsys.disabled():
        print(printed)
    assert code == 0
    assert "240 of 240" in printed
