"""The adapter job but for Ray: what is refused before it starts, what it writes, and that it listens to a restart."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from pipeline.config import ConfigError, DenoiseConfig, load
from pipeline.model import checkpoint, lora
from pipeline.model.engine import Engine
from pipeline.model.layout import read_config
from pipeline.training import adapter, adapter_model
from pipeline.training.adapter_config import AdapterConfig
from pipeline.training.adapter_loop import AdapterTrainer
from tests.adapter_case import config, overrides, settings, write_case
from tests.small_model import noise_segment


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("case")
    write_case(made)
    return made


@pytest.fixture(scope="module")
def result(root: Path) -> dict[str, Any]:
    return adapter.train_adapter(config(root), "python -m jobs.train adapter")


def test_the_directory_transcribes_with_the_trained_adapter(root: Path, result: dict[str, Any]) -> None:
    out = root / "run" / "model"
    model = checkpoint.load(str(out), verify=True)
    best = torch.load(root / "run" / "work" / "best.pt")
    assert best["evaluation"] | {"evaluation": True} == result["best"]
    for name, weight in checkpoint.adapter_state(model).items():
        assert torch.equal(weight, best["adapter"][name])
    engine = Engine(model, DenoiseConfig(max_steps=2), slots=2)
    texts = [answer.text for answer in engine.transcribe([noise_segment(number) for number in range(3)])]
    engine.close()
    assert all(isinstance(text, str) for text in texts)


def test_the_model_is_that_of_the_best_step_not_the_last(root: Path) -> None:
    """The error rate is lowest at step 4 of 6."""
    rates = iter([0.9, 0.3, 0.5])

    def figures(_self: object, _found: object) -> dict[str, Any]:
        return {"rate": next(rates), "shuffled": 1.0, "grounded": True, "sets": {}}

    with mock.patch.object(AdapterTrainer, "_rates", figures), mock.patch.object(adapter, "card", return_value=""):
        found = adapter.train_adapter(config(root, "best"), "")
    assert [found[name]["step"] for name in ("before", "best", "last")] == [0, 4, 6]
    last = torch.load(root / "best" / "work" / "checkpoint.pt")["adapter"]
    written = checkpoint.adapter_state(checkpoint.load(str(root / "best" / "model")))
    assert any(not torch.equal(written[name], weight) for name, weight in last.items())
    assert any(bool(weight.any()) for name, weight in written.items() if name.endswith(".up"))  # nor of the start


def test_a_finished_run_only_writes_its_model_again(root: Path, result: dict[str, Any]) -> None:
    path = root / "run" / "model" / "adapter.safetensors"
    before = path.read_bytes()
    path.unlink()
    with mock.patch.object(AdapterTrainer, "step", side_effect=AssertionError("nothing is left to do")):
        assert adapter.train_adapter(config(root), "") == result
    assert path.read_bytes() == before


def test_a_person_reads_every_line_of_the_log(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        adapter.train_adapter(config(root, "read"), "")
    told = [record.message for record in caplog.records if record.message.startswith("step ")]
    assert [line.split(":")[0] for line in told] == [
        *("step 0", "step 2/6", "step 4/6", "step 4", "step 6/6", "step 6")
    ]
    assert any("training on 8 recordings, evaluating on 4" in record.message for record in caplog.records)


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"train": {"lr": 1e-2}}, r"^folder: .*train.lr was 0.003, now 0.01\); use a new folder$"),
        ({"seed": 1}, "seed was 0, now 1"),
        ({"denoise": {"max_steps": 3}}, "denoise.max_steps was 2, now 3"),
        ({"compute": {"workers": 2}}, "workers was 1, now 2"),
        ({"augment": {"noise_share": 0.1}}, "augment.noise_share"),
    ],
)
def test_a_run_with_other_settings_is_not_gone_on_from(
    root: Path, result: dict[str, Any], sections: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        adapter.train_adapter(config(root, **sections), "")


def test_a_run_goes_on_when_it_is_given_more_steps(root: Path) -> None:
    """From its checkpoint, at the rate of the new cosine, and the card says so; fewer are other settings."""
    adapter.train_adapter(config(root, "more", train={"steps": 2}), "")
    longer = adapter.train_adapter(config(root, "more"), "")
    assert (longer["before"]["step"], longer["last"]["step"]) == (0, 6)
    adapter.train_adapter(config(root, "more"), "")
    written = (root / "more/model/MODEL_CARD.md").read_text()
    assert written.count("At step 2 of 2 its number of steps was changed") == 1
    with pytest.raises(ConfigError, match=r"train\.steps was 6, now 4"):
        adapter.train_adapter(config(root, "more", train={"steps": 4}), "")
    with pytest.raises(ConfigError, match=r"\(train\.lr was 0\.003, now 0\.01\)"):
        adapter.train_adapter(config(root, "more", train={"steps": 8, "lr": 1e-2}), "")


def test_a_start_that_a_killed_run_left_before_its_settings_is_made_again(root: Path) -> None:
    adapter_model.prepare_start(config(root, "killed"))
    again = config(root, "killed", lora={"rank": 2})
    with mock.patch.object(adapter, "examples", side_effect=ConfigError("far enough")), pytest.raises(ConfigError):
        adapter.train_adapter(again, "")
    assert read_config(root / "killed/work/start").lora == again.lora


def test_settings_that_decide_nothing_may_change(root: Path, result: dict[str, Any]) -> None:
    changed = {"train": {"log_steps": 1, "checkpoint_steps": 3}, "compute": {"workers": 0, "canvases": 2}}
    assert adapter.train_adapter(config(root, **changed), "") == result


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"output": {"uri": "s3://bucket/x"}}, r"^output.uri: s3://bucket/x: must be a local folder"),
        ({"output": {"uri": "MODEL"}}, r"^output.uri: .*: the start and the checkpoints must not be overwritten$"),
        ({"evaluation": {"same": "SOURCE"}}, r"^evaluation.same.uri: .*: this is what is trained on"),
        ({"compute": {"gpus_per_worker": 1}}, r"^compute.workers: 0 trains in this process on the CPU"),
        ({"model": {"name": "/nowhere"}}, r"^model.name: /nowhere: no config.json"),
        ({"source": {"uri": "/nowhere"}}, r"^source.uri: /nowhere"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(root: Path, sections: dict[str, Any], says: str) -> None:
    tree = settings(root, "refused")
    places = {"MODEL": str(root / "model"), "SOURCE": tree["source"]}
    filled = {
        name: {key: places.get(value, value) if isinstance(value, str) else value for key, value in section.items()}
        for name, section in sections.items()
    }
    with pytest.raises(ConfigError, match=says) as caught:
        adapter.train_adapter(config(root, "refused", **filled), "")
    assert "\n" not in str(caught.value)


def test_weights_that_need_autocast_are_not_trained_without_it(root: Path) -> None:
    given = overrides(settings(root, "refused", model={"dtype": "bfloat16"}, train={"precision": "float32"}))
    with pytest.raises(ConfigError, match=r"train\.precision: float32 needs model.dtype=float32"):
        load(AdapterConfig, None, given)


def test_texts_that_do_not_fit_the_canvas_are_refused_where_none_fits(root: Path) -> None:
    folder = root / "long"
    folder.mkdir()
    (folder / "a.wav").write_bytes((root / "train" / "0.wav").read_bytes())
    (folder / "a.txt").write_text("qqqqqqqqqqqqqqqq")
    with pytest.raises(ConfigError, match=r"^source.uri: .*long: no text fits the canvas of 8$"):
        adapter.train_adapter(config(root, "no-fit", source={"uri": str(folder)}), "")


def test_the_start_of_a_run_is_the_adapter_of_the_model(root: Path, result: dict[str, Any]) -> None:
    """Step 0 of the log is the model before training: its rates are those of `model.name` itself."""
    lines = [json.loads(line) for line in (root / "run" / "work" / "log.jsonl").read_text().splitlines()]
    assert lines[0]["step"] == 0
    assert result["before"] == lines[0]
    start = checkpoint.load(str(root / "run" / "work" / "start"))
    plain = checkpoint.load(str(root / "model"))
    assert plain.config.lora is None
    assert len(lora.state(start.backbone)) == 28
    segments = [noise_segment(number) for number in range(3)]
    texts = []
    for model in (start, plain):
        engine = Engine(model, DenoiseConfig(max_steps=2), slots=2)
        texts.append([answer.text for answer in engine.transcribe(segments)])
        engine.close()
    assert texts[0] == texts[1]
