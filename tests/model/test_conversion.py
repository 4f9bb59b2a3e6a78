"""jobs.import_model: parts of other programs become one folder that gives the same texts; a failure leaves nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from jobs import import_model
from pipeline.config import ConfigError
from pipeline.model import recogniser
from pipeline.model.files import checkpoint, conversion, hub, layout
from pipeline.model.files.import_config import ImportConfig
from pipeline.model.recogniser import AsrModel
from tests.model.test_checkpoint import texts
from tests.model.test_importer import PEFT, foreign, write_peft
from tests.model.test_lora import SPEC, passes
from tests.model.test_whisper_import import as_openai
from tests.support.small_model import hearing_model


@pytest.fixture(scope="module")
def model() -> AsrModel:
    return hearing_model(5, lora=SPEC)


@pytest.fixture
def parts(model: AsrModel, tmp_path: Path) -> ImportConfig:
    """A config.json without weights, and the parts as other programs write them."""
    whole = tmp_path / "whole"
    checkpoint.save(model, whole, dtype=torch.float32)
    base, google = tmp_path / "base", tmp_path / "google"
    base.mkdir()
    google.mkdir()
    (whole / "config.json").rename(base / "config.json")
    (whole / "tokenizer.json").rename(google / "tokenizer.json")
    (whole / "backbone" / "model.safetensors").rename(google / "model.safetensors")
    save_file(foreign(recogniser.adapter_state(model), PEFT), tmp_path / "theirs.safetensors")
    return ImportConfig(
        output=str(tmp_path / "made"),
        base=str(base),
        adapter=[str(tmp_path / "theirs.safetensors")],
        encoder=str(whole / "encoder.safetensors"),
        encoder_heads=2,
        backbone=str(google),
    )


def test_the_parts_become_a_folder_that_says_the_same(model: AsrModel, parts: ImportConfig) -> None:
    said: list[str] = []
    folder = conversion.convert(parts, said.append)
    loaded = checkpoint.load(str(folder), verify=True)
    state = loaded.state_dict()
    assert all(torch.equal(weight, state[name]) for name, weight in model.state_dict().items())
    assert texts(loaded) == texts(model)
    assert len([line for line in said if line.startswith("matched")]) == 12 + 2 * (4 * 2)  # layers share a line
    assert layout.describe(str(folder)).name == "made"
    assert (folder / "backbone" / "model.safetensors").is_symlink()
    assert len(hub.manifest(folder)) == 5


def test_a_peft_folder_beside_a_projector_and_openais_encoder_become_one_folder(
    parts: ImportConfig, tmp_path: Path
) -> None:
    reference = write_peft(tmp_path / "peft")
    plain = hearing_model(5)
    config = layout.read_config(Path(parts.base))
    layout.write_config(Path(parts.base), config.model_copy(update={"lora": None}))
    save_file(recogniser.adapter_state(plain), tmp_path / "projector.safetensors")
    torch.save({"model_state_dict": as_openai(plain.encoder.whisper.state_dict())}, tmp_path / "openai.pt")
    given = {
        "adapter": [str(tmp_path / "peft"), str(tmp_path / "projector.safetensors")],
        "encoder": str(tmp_path / "openai.pt"),
    }
    loaded = checkpoint.load(str(conversion.convert(parts.model_copy(update=given), lambda _: None)), verify=True)
    assert loaded.config.lora == SPEC
    assert all(torch.equal(w, loaded.encoder.state_dict()[name]) for name, w in plain.encoder.state_dict().items())
    assert all(torch.equal(w, loaded.projector.state_dict()[name]) for name, w in plain.projector.state_dict().items())
    (own, denoised), (theirs, theirs_denoised) = passes(loaded), passes(reference)
    for a, b in zip([*own, denoised], [*theirs, theirs_denoised], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_the_shapes_of_an_adapter_follow_from_the_config(model: AsrModel) -> None:
    expected = {name: tuple(weight.shape) for name, weight in recogniser.adapter_state(model).items()}
    assert conversion.adapter_shapes(model.config) == expected


def test_parts_that_are_not_given_stay_with_the_hub(parts: ImportConfig, tmp_path: Path) -> None:
    base = Path(parts.base)
    config = layout.read_config(base)
    part = {name: {"repo": f"somebody/{name}"} for name in hub.PARTS}
    config = layout.AsrConfig.model_validate(config.model_dump() | {"hub": part})
    layout.write_config(base, config)
    folder = conversion.convert(parts.model_copy(update={"backbone": None}), lambda _: None)
    kept = layout.read_config(folder).hub
    assert kept is not None
    assert (kept.encoder, kept.adapter) == (None, None)
    assert kept.backbone == hub.HubPart(repo="somebody/backbone")
    with pytest.raises(ConfigError, match=r"backbone \(somebody/backbone\)"):
        layout.describe(str(folder))


def test_a_partial_match_is_refused_and_leaves_nothing(
    parts: ImportConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(parts.adapter[0])
    state = load_file(path)
    state["what.is.this"] = state.pop("audio_projector.in_proj.bias")
    save_file(state, path)
    words = [f"{key}={getattr(parts, key)}" for key in ("output", "base", "encoder", "encoder_heads", "backbone")]
    words.append(f"adapter=[{path}]")
    assert import_model.main(words) == 2
    captured = capsys.readouterr()
    assert "unmatched  what.is.this" in captured.out
    assert captured.err.startswith("adapter: ")
    assert not Path(parts.output).exists()
    named = [*words, "names={what.is.this: input.bias}"]
    assert import_model.main(named) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"model.name={parts.output}"


@pytest.mark.parametrize("key", ["adapter", "encoder", "backbone"])
def test_a_part_that_is_not_there_is_named(parts: ImportConfig, key: str) -> None:
    value: object = ["/not/there"] if key == "adapter" else "/not/there"
    with pytest.raises(ConfigError, match=rf"{key}: /not/there"):
        conversion.convert(parts.model_copy(update={key: value}), lambda _: None)


@pytest.mark.parametrize("key", ["base", "encoder", "adapter", "backbone"])
def test_a_damaged_part_is_named_by_its_own_key(parts: ImportConfig, tmp_path: Path, key: str) -> None:
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "model.safetensors").write_bytes(b"no weights")
    (damaged / "model.safetensors.index.json").write_text("{")
    file = str(damaged / "model.safetensors")
    given = {"base": str(damaged), "encoder": file, "adapter": [file], "backbone": str(damaged)}
    with pytest.raises(ConfigError, match=rf"^{key}: {damaged}"):
        conversion.convert(parts.model_copy(update={key: given[key]}), print)


def test_an_empty_folder_is_filled_and_not_replaced(
    parts: ImportConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be a mount, a link or the folder that somebody stands in. What a killed import left there is replaced."""
    (tmp_path / "made/.partial/backbone").mkdir(parents=True)
    (tmp_path / "made/.partial/config.json").write_text("half")
    (tmp_path / "made.partial").mkdir()  # somebody else's
    (tmp_path / "link").symlink_to("made")
    before = (tmp_path / "made").stat().st_ino
    monkeypatch.chdir(tmp_path / "link")
    folder = conversion.convert(parts.model_copy(update={"output": "."}), lambda _: None)
    assert (tmp_path / "made").stat().st_ino == before
    assert not (folder / ".partial").exists()
    assert (tmp_path / "made.partial").exists()
    checkpoint.load(str(folder), verify=True)


def test_an_output_that_cannot_be_made_is_one_line(parts: ImportConfig) -> None:
    with pytest.raises(ConfigError, match=r"^output: .*/base/config\.json/made: Not a directory$"):
        conversion.convert(parts.model_copy(update={"output": f"{parts.base}/config.json/made"}), lambda _: None)


def test_an_output_that_is_in_use_is_kept(parts: ImportConfig) -> None:
    path = Path(parts.output)
    path.mkdir()
    (path / "mine").write_text("mine")
    with pytest.raises(ConfigError, match="exists already, and is not an empty folder"):
        conversion.convert(parts, lambda _: None)
    assert (path / "mine").read_text() == "mine"
