"""The adapter job without Ray: what it refuses before it starts, what it writes, how it goes on after a kill."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from pipeline.config import ConfigError, DenoiseConfig
from pipeline.config_file import load
from pipeline.evaluation.result import Counts
from pipeline.model import recogniser
from pipeline.model.denoise.engine import Engine
from pipeline.model.files import checkpoint
from pipeline.model.files.layout import read_config
from pipeline.model.network import lora
from pipeline.model.recogniser import AsrModel
from pipeline.training import adapter, adapter_model, adapter_worker
from pipeline.training.adapter_config import AdapterConfig
from pipeline.training.evaluation import Evaluated, SetRates
from pipeline.training.loop import Trainer
from pipeline.training.parallel import Group
from tests.support.adapter_case import config, overrides, settings, write_case
from tests.support.small_model import noise_segment


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("case")
    write_case(made)
    return made


@pytest.fixture(scope="module")
def result(root: Path) -> dict[str, Any]:
    return adapter.train_adapter(config(root), "python -m jobs.train")


def test_the_directory_transcribes_with_the_trained_adapter(root: Path, result: dict[str, Any]) -> None:
    out = root / "run" / "model"
    model = checkpoint.load(str(out), verify=True)
    trained = torch.load(root / "run/work/checkpoint.pt")["best_weights"]
    for name, weight in recogniser.adapter_state(model).items():
        assert torch.equal(weight, trained[name])
    engine = Engine(model, DenoiseConfig(max_steps=2), slots=2)
    texts = [answer.text for answer in engine.transcribe([noise_segment(number) for number in range(3)])]
    engine.close()
    assert all(isinstance(text, str) for text in texts)


def wrong(percent: int) -> Evaluated:
    """An evaluation with this error rate, and nothing right with the audio shuffled."""
    counts = Counts(hits=100 - percent, substitutions=percent)
    return Evaluated({"heldout": SetRates(counts, Counts(substitutions=100), {"en": counts})})


def test_the_model_is_that_of_the_best_step_not_the_last(root: Path) -> None:
    """The error rate is lowest at step 4 of 6."""
    given = config(root, "best", grounding_margin=0.0)
    with mock.patch.object(adapter_worker, "evaluate", side_effect=[wrong(90), wrong(30), wrong(50)]):
        trained_run = adapter.train_adapter(given, "")
    assert [trained_run[name]["step"] for name in ("before", "best", "last")] == [0, 4, 6]
    last = torch.load(root / "best" / "work" / "checkpoint.pt")["weights"]
    written = recogniser.adapter_state(checkpoint.load(str(root / "best" / "model")))
    assert any(not torch.equal(written[name], weight) for name, weight in last.items())
    assert any(bool(weight.any()) for name, weight in written.items() if name.endswith(".up"))  # nor of the start


def test_the_best_step_is_never_one_that_a_kill_took_back(root: Path) -> None:
    """Step 6 is the best, but the run is killed before its checkpoint, and goes on with another number of steps."""
    weights: list[dict[str, torch.Tensor]] = []

    def first_run(model: AsrModel, *_: object, **__: object) -> Evaluated:
        rates = [90, 50, 60, 30]
        weights.append({name: weight.detach().clone() for name, weight in adapter_model.trainable(model).items()})
        return wrong(rates[len(weights) - 1])

    def killed(run: Trainer, step: int) -> Any:
        if step == 6:
            raise KeyboardInterrupt
        return real(run, step)

    def given(steps: int) -> AdapterConfig:
        train = {"evaluate_steps": 2, "checkpoint_steps": 4, "steps": steps}
        return config(root, "back", grounding_margin=0.0, train=train)

    real = Trainer.step
    first = mock.patch.object(adapter_worker, "evaluate", first_run)
    with first, mock.patch.object(Trainer, "step", killed), pytest.raises(KeyboardInterrupt):
        adapter.train_adapter(given(8), "")
    assert len(weights) == 4  # steps 0, 2, 4 and 6
    with mock.patch.object(adapter_worker, "evaluate", return_value=wrong(70)):
        trained_run = adapter.train_adapter(given(10), "")
    assert (trained_run["best"]["step"], trained_run["last"]["step"]) == (2, 10)
    for name, weight in recogniser.adapter_state(checkpoint.load(str(root / "back/model"))).items():
        assert torch.equal(weight, weights[1][name])


def test_a_finished_run_only_writes_its_model_again(root: Path, result: dict[str, Any]) -> None:
    path = root / "run" / "model" / "adapter.safetensors"
    before = path.read_bytes()
    path.unlink()
    with mock.patch.object(Trainer, "step", side_effect=AssertionError("nothing is left to do")):
        assert adapter.train_adapter(config(root), "") == result
    assert path.read_bytes() == before


def test_a_kill_while_the_log_is_put_right_loses_none_of_it(root: Path, result: dict[str, Any]) -> None:
    log = root / "run/work/log.jsonl"
    whole = log.read_text()
    log.write_text(whole + '{"step": 7, "of')
    with mock.patch.object(Path, "replace", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        adapter_worker.trainer(
            config(root), Group(torch.device("cpu")), *adapter_worker.examples(config(root))
        ).restore()
    assert log.read_text().startswith(whole)
    assert adapter.train_adapter(config(root), "") == result
    assert log.read_text() == whole


def test_a_folder_of_an_older_version_is_one_line(root: Path) -> None:
    adapter.train_adapter(config(root, "old", train={"steps": 2}), "")
    path = root / "old/work/checkpoint.pt"
    state = torch.load(path)
    del state["best_weights"]
    torch.save(state, path)
    with pytest.raises(ConfigError, match=r"^folder: .*: of an older version; use a new folder$"):
        adapter.train_adapter(config(root, "old"), "")


def test_a_log_without_the_start_is_one_line(root: Path) -> None:
    adapter.train_adapter(config(root, "lost", train={"steps": 2}), "")
    (root / "lost/work/log.jsonl").write_text("")
    with pytest.raises(ConfigError, match=r"^folder: its log.jsonl has no evaluation of step 0; use a new folder$"):
        adapter.train_adapter(config(root, "lost", train={"steps": 2}), "")


def test_an_output_with_weights_of_another_model_is_refused_before_the_training(root: Path) -> None:
    """A backbone in one file counts before its shards: the new model would have the old backbone."""
    out = root / "strange/model"
    (out / "backbone").mkdir(parents=True)
    (out / "backbone/model-00001-of-00002.safetensors").touch()
    with (
        mock.patch.object(adapter, "examples", side_effect=AssertionError("hours of work")),
        pytest.raises(
            ConfigError, match=r"^output\.uri: .*: backbone/model-00001-of-00002\.safetensors is of another "
        ),
    ):
        adapter.train_adapter(config(root, "strange"), "")


def test_somebody_elses_folder_called_start_is_left_alone(root: Path) -> None:
    shutil.copytree(root / "model", root / "foreign/work/start")
    theirs = config(root, "foreign", model={"name": str(root / "foreign/work/start")})
    for given in (theirs, config(root, "foreign")):
        with pytest.raises(
            ConfigError, match=r"^folder: .*: its `start` was not made by a training; use another folder$"
        ):
            adapter.train_adapter(given, "")
    assert read_config(root / "foreign/work/start") == read_config(root / "model")


def test_a_person_reads_every_line_of_the_log(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        adapter.train_adapter(config(root, "read"), "")
    lines = [record.message for record in caplog.records if record.message.startswith("step ")]
    assert [line.split(":")[0] for line in lines] == [
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
def test_a_run_does_not_go_on_with_other_settings(
    root: Path, result: dict[str, Any], sections: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        adapter.train_adapter(config(root, **sections), "")


def test_a_run_goes_on_when_it_is_given_more_steps(root: Path) -> None:
    """It goes on from its checkpoint at the rate of the new cosine, and the card says so. Fewer steps are refused."""
    log = root / "more/work/log.jsonl"
    adapter.train_adapter(config(root, "more", train={"steps": 2}), "")
    first = log.read_text()
    with mock.patch.object(Trainer, "step", autospec=True, side_effect=Trainer.step) as step:
        longer = adapter.train_adapter(config(root, "more"), "")
    assert [call.args[1] for call in step.call_args_list] == [2, 3, 4, 5]
    assert log.read_text().startswith(first)
    rates = {line["step"]: line["lr"] for line in map(json.loads, log.read_text().splitlines()) if "lr" in line}
    t = config(root, "more").train
    for done in (4, 6):
        assert rates[done] == t.learning_rate(done - 1, 6)
    assert (longer["before"]["step"], longer["last"]["step"]) == (0, 6)
    adapter.train_adapter(config(root, "more"), "")
    written = (root / "more/model/MODEL_CARD.md").read_text()
    assert written.count("At step 2 of 2 its number of steps was changed") == 1
    with pytest.raises(ConfigError, match=r"train\.steps was 6, now 4"):
        adapter.train_adapter(config(root, "more", train={"steps": 4}), "")
    with pytest.raises(ConfigError, match=r"\(train\.lr was 0\.003, now 0\.01\)"):
        adapter.train_adapter(config(root, "more", train={"steps": 8, "lr": 1e-2}), "")


def test_a_run_that_was_killed_before_its_first_checkpoint_takes_any_number_of_steps(root: Path) -> None:
    """No step was done for the old number, so the card does not mention it."""
    with mock.patch.object(Trainer, "step", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        adapter.train_adapter(config(root, "early", train={"steps": 4}), "")
    adapter.train_adapter(config(root, "early", train={"steps": 2}), "")
    assert "its number of steps was changed" not in (root / "early/model/MODEL_CARD.md").read_text()


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
        ({"output": {"uri": "MODEL"}}, r"^output.uri: .*: must differ from model.name and folder, "),
        ({"output": {"uri": "START"}}, r"^output.uri: .*/start: must differ from model.name and folder, "),
        ({"evaluation": {"same": "SOURCE"}}, r"^evaluation.same.uri: .*: the same recordings are trained on"),
        ({"compute": {"gpus_per_worker": 1}}, r"^compute.workers: 0 trains in this process on the CPU"),
        ({"model": {"name": "/nowhere"}}, r"^model.name: /nowhere: no config.json"),
        ({"source": {"uri": "/nowhere"}}, r"^source.uri: /nowhere"),
    ],
)
def test_impossible_settings_are_refused_in_one_line(root: Path, sections: dict[str, Any], says: str) -> None:
    tree = settings(root, "refused")
    places = {"MODEL": str(root / "model"), "SOURCE": tree["source"], "START": f"{tree['folder']}/start"}
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


def test_a_source_is_refused_where_no_text_fits_the_canvas(root: Path) -> None:
    folder = root / "long"
    folder.mkdir()
    (folder / "a.wav").write_bytes((root / "train" / "0.wav").read_bytes())
    (folder / "a.txt").write_text("qqqqqqqqqqqqqqqq")
    with pytest.raises(ConfigError, match=r"^source.uri: .*long: no text fits the canvas of 8$"):
        adapter.train_adapter(config(root, "no-fit", source={"uri": str(folder)}), "")


def test_the_start_of_a_run_is_the_adapter_of_the_model(root: Path, result: dict[str, Any]) -> None:
    """Step 0 of the log has the rates of `model.name` itself."""
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
