"""The embedded model in FP8 on the utterances of the self evaluation, where both sides of its products are in FP8.

`-s` shows the error rates and how they differ from the baseline's.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs import evaluate
from pipeline.config import RunConfig, load
from pipeline.model.files import layout
from pipeline.model.network.float8 import Kernels
from tests.support.float8_products import on_the_cpu
from tests.support.runs import in_this_process

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_a_gpu_with_fp8_products_computes_shows_no_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The products run on the CPU, with the rounding of those on a GPU."""
    monkeypatch.setattr(Kernels, "of", lambda device, dtype: Kernels(linear=True, experts=True))
    words = ["source.format=webdataset", "source.language=column:language", "compute.canvases=16", "model.device=cpu"]
    words += ["model.dtype=bfloat16", "model.weights=fp8", f"output.uri={tmp_path / 'out'}"]
    config, _ = layout.resolve(load(RunConfig, None, [*words, f"source.uri={layout.ASSETS}/evaluation/self.tar"]))
    with on_the_cpu() as products:
        in_this_process(config)
    assert products
    gate = [f"sets={{self: {{output: {tmp_path / 'out'}}}}}", f"output.uri={tmp_path / 'rates'}", "run=fp8"]
    gate += [f"baseline={ROOT / 'configs/baselines/self'}"]
    code = evaluate.main(["--config", str(ROOT / "configs/evaluate-self.yaml"), *gate])
    printed = capsys.readouterr().out
    with capsys.disabled():
        print(printed)
    assert code == 0
    assert "240 of 240" in printed
