"""A Whisper checkpoint on disk: what a job learns of it without loading it; any fault is one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.config import LANGUAGES, ConfigError, RunConfig, SegmentConfig
from pipeline.model.engines import engine_of
from pipeline.model.files import layout, whisper_layout
from tests.support.small_whisper import edit, save_whisper

HASHED = ("config.json", "generation_config.json", "tokenizer.json", "model.safetensors")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_whisper(tmp_path_factory.mktemp("whisper") / "small")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "whisper-small"))


def refusal(name: Path | str, revision: str | None = None) -> str:
    """The one line with which `describe` fails."""
    with pytest.raises(ConfigError) as raised:
        layout.describe(str(name), revision)
    message = str(raised.value)
    assert "\n" not in message
    assert message.startswith("model.name: ")
    return message


def test_short_neighbours_share_a_window_of_thirty_seconds() -> None:
    places = {"source": {"uri": "in"}, "output": {"uri": "out"}}
    config = RunConfig.model_validate(places | {"model": {"name": "whisper-base"}})
    assert layout.resolve(config)[0].segment.join_ms == whisper_layout.JOIN_MS
    own = config.model_copy(update={"segment": SegmentConfig(join_ms=100)})
    assert layout.resolve(own)[0].segment.join_ms == 100


def test_describe_says_what_a_job_must_know(folder: Path) -> None:
    info = layout.describe(str(folder))
    assert (info.name, info.revision, info.window_seconds, info.canvas_length) == ("whisper-small", "local", 1.0, 16)
    assert info.languages == LANGUAGES
    assert layout.describe(str(folder)) == info


def test_the_published_sizes_give_a_window_of_30_s_and_224_tokens(folder: Path) -> None:
    edit(folder / "config.json", max_source_positions=1500, max_target_positions=448)
    info = layout.describe(str(folder))
    assert (info.window_seconds, info.canvas_length) == (30.0, 224)


def test_an_english_only_checkpoint_knows_english(tmp_path: Path) -> None:
    assert layout.describe(str(save_whisper(tmp_path / "english", multilingual=False))).languages == ("en",)


def test_languages_are_those_of_ours_that_the_checkpoint_has(folder: Path) -> None:
    path = folder / "generation_config.json"
    known = json.loads(path.read_text())["lang_to_id"]
    edit(path, lang_to_id={token: known[token] for token in ("<|zh|>", "<|it|>", "<|de|>")})
    assert layout.describe(str(folder)).languages == ("de", "zh")


@pytest.mark.parametrize("name", HASHED)
def test_the_hash_changes_with_every_file(folder: Path, name: str) -> None:
    before = layout.describe(str(folder)).weights_hash
    path = folder / name
    path.write_bytes(path.read_bytes() + b" ")
    assert layout.describe(str(folder)).weights_hash != before
    (folder / "README.md").write_text("a card")
    path.write_bytes(path.read_bytes()[:-1])
    assert layout.describe(str(folder)).weights_hash == before


@pytest.mark.parametrize("name", HASHED[1:])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert f"{folder / name}: No such file" in refusal(folder)


@pytest.mark.parametrize("name", HASHED[:2])
@pytest.mark.parametrize("content", ["", "{", "[]", "\x00"])
def test_a_file_that_is_no_json_object_is_named(folder: Path, name: str, content: str) -> None:
    (folder / name).write_text(content)
    with pytest.raises(ConfigError, match=name) as raised:
        layout.describe(str(folder))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "changes", "named"),
    [
        ("config.json", {"max_source_positions": 3000}, "max_source_positions: more than 1500"),
        ("config.json", {"max_source_positions": None}, "max_source_positions: missing"),
        ("config.json", {"max_source_positions": 0}, "max_source_positions: 0 is no count"),
        ("config.json", {"max_target_positions": 9}, "max_target_positions: 9 are too few"),
        ("config.json", {"num_mel_bins": "80"}, "num_mel_bins: '80' is no count"),
        ("config.json", {"vocab_size": True}, "vocab_size: True is no count"),
        ("generation_config.json", {"lang_to_id": None}, "lang_to_id: a multilingual checkpoint"),
        ("generation_config.json", {"lang_to_id": {"<|it|>": 430}}, "lang_to_id: none of en, de"),
        ("generation_config.json", {"task_to_id": {"translate": 1}}, "task_to_id: "),
        ("generation_config.json", {"eos_token_id": None}, "eos_token_id: missing"),
        ("generation_config.json", {"eos_token_id": []}, "eos_token_id: [] is no token of 1936"),
        ("generation_config.json", {"eos_token_id": 1936}, "eos_token_id: 1936 is no token of 1936"),
        ("generation_config.json", {"lang_to_id": {"<|en|>": "421"}}, "lang_to_id: a multilingual checkpoint"),
        ("generation_config.json", {"decoder_start_token_id": None}, "decoder_start_token_id: missing"),
        ("generation_config.json", {"no_timestamps_token_id": None}, "no_timestamps_token_id: missing"),
    ],
)
def test_a_wrong_key_is_named(folder: Path, name: str, changes: dict[str, Any], named: str) -> None:
    edit(folder / name, **changes)
    assert f"{folder / name}: {named}" in refusal(folder)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2000) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["<|en|>", "transcribe"]), inner),
    max_leaves=4,
)


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_stands_in_the_files_is_read_or_refused_in_one_line(
    saved: Path, folder: Path, data: st.DataObject
) -> None:
    for name in HASHED[:2]:
        tree = json.loads((saved / name).read_text())
        changes = data.draw(st.dictionaries(st.sampled_from(sorted(tree)), VALUES, max_size=2))
        (folder / name).write_text(json.dumps(tree | changes))
    try:
        if engine_of(folder).name == "whisper":
            spec = whisper_layout.read(folder)
            assert 0 < spec.window_seconds <= 30
            assert spec.max_tokens >= 5
            assert spec.mels > 0
            assert set(spec.languages) <= set(LANGUAGES)
    except ConfigError as err:
        assert "\n" not in str(err)  # noqa: PT017 - either is right


def test_shards_are_found_by_their_index(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for name in names:
        (folder / name).write_bytes(name.encode())
    (folder / "model.safetensors").unlink()
    index.write_text(json.dumps({"weight_map": {"a": names[1], "b": names[0], "c": names[1]}}))
    assert whisper_layout.read(folder).weights == tuple(folder / name for name in names)
    before = layout.describe(str(folder)).weights_hash
    (folder / names[1]).write_bytes(b"other")
    assert layout.describe(str(folder)).weights_hash != before
    (folder / names[0]).unlink()
    assert names[0] in refusal(folder)
    index.write_text('{"weight_map": [1]}')
    assert f"{index}: no list of shards" in refusal(folder)
