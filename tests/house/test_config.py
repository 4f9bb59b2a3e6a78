"""Config files and overrides: what stays text, and how mistakes are reported."""

from __future__ import annotations

from pathlib import Path

import pydantic
import pytest
import yaml

from pipeline.config import ConfigError, RunConfig, load

NEEDED = ["source.uri=/in", "output.uri=/out"]


def load_run(*overrides: str, path: Path | None = None) -> RunConfig:
    return load(RunConfig, str(path) if path else None, [*NEEDED, *overrides])


def complaint(*overrides: str, path: Path | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_run(*overrides, path=path)
    return str(caught.value)


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("denoise: {max_steps: 8, seed: 3}\n")
    config = load_run("denoise.max_steps=4", path=path)
    assert (config.denoise.max_steps, config.denoise.seed) == (4, 3)


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("source.id_column=no", "source", "id_column", "no"),
        ("source.id_column=1e3", "source", "id_column", "1e3"),
        ("source.include=a=b", "source", "include", "a=b"),
        ("source.id_column=null", "source", "id_column", None),
        ("model.compile=true", "model", "compile", True),
        ("denoise.canvas_length=64", "denoise", "canvas_length", 64),
        ("denoise.canvas_length=auto", "denoise", "canvas_length", "auto"),
        ("compute.gpus_per_replica=0.5", "compute", "gpus_per_replica", 0.5),
    ],
)
def test_override_text_stays_text_until_its_type_is_known(override: str, section: str, key: str, value: object) -> None:
    assert getattr(getattr(load_run(override), section), key) == value


def test_language_no_is_text_not_false() -> None:
    assert complaint("source.language=no") == (
        "source.language: 'no' is not supported; use one of en, de, fr, es, hi, zh, column:NAME, path:REGEX or null "
        "(given: 'no')"
    )


def test_a_section_can_be_given_whole() -> None:
    assert load_run("plan={unit_seconds: 5, unit_recordings: 2}").plan.unit_recordings == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("denoise.max_step=3", "denoise.max_step: no such key; did you mean denoise.max_steps?"),
        ("sorce.uri=x", "sorce: no such key; did you mean source?"),
        ("publish.now=true", "publish.now: publish is not a section"),
        ("source.uri.deep=x", "source.uri.deep: source.uri is not a section"),
        ("denoise", "'denoise': an override must look like section.key=value"),
        ("=3", "'=3': an override must look like section.key=value"),
        ("plan={unit_seconds: ", "plan: '{unit_seconds: ' is not YAML"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(override: str, message: str) -> None:
    assert complaint(override) == message


@pytest.mark.parametrize("override", ["denoise.max_steps=0", "denoise.max_steps=many", "model.device=tpu"])
def test_a_wrong_value_is_named_with_its_key(override: str) -> None:
    key, _, value = override.partition("=")
    text = complaint(override)
    assert text.startswith(f"{key}: ")
    assert repr(value) in text
    assert "\n" not in text


def test_all_errors_are_reported_together() -> None:
    with pytest.raises(ConfigError) as caught:
        load(RunConfig, None, ["source.uri=/in", "denoise.seed=-1", "modle.name=x"])
    lines = sorted(str(caught.value).splitlines())
    assert [line.split(":")[0] for line in lines] == ["denoise.seed", "modle", "output"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file or directory"),
        ("a: [", "not YAML"),
        ("- a\n- b\n", "the top level must be sections, not a list"),
        (b"\xff\xfe\x00", "not YAML"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, content: str | bytes | None, message: str) -> None:
    path = tmp_path / "c.yaml"
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    text = complaint(path=path)
    assert text.startswith(f"{path}: ")
    assert message in text
    assert "\n" not in text


def test_an_empty_file_is_an_empty_config(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("# nothing\n")
    assert load_run(path=path) == load_run()


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        load_run().denoise.seed = 5  # type: ignore[misc]


@pytest.mark.parametrize("name", ["demo", "transcribe-local", "transcribe"])
def test_the_configs_of_the_repository_are_valid(name: str) -> None:
    path = Path(__file__).parents[2] / "configs" / f"{name}.yaml"
    assert load_run(path=path).model_dump()
    assert set(yaml.safe_load(path.read_text())) <= set(RunConfig.model_fields)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://KEY:SECRET@bucket/x",
        "s3://KEY:SEC/RET@bucket/x",
        "simplecache::s3://KEY:SECRET@bucket/x",
        "https://user:pw@host:9000/x",
        "https://host/x.tar?X-Amz-Signature=abc",
        "https://host/x?sv=1&sig=abc",
    ],
)
@pytest.mark.parametrize("key", ["source.uri", "output.uri", "storage.endpoint"])
def test_an_address_with_keys_is_refused_without_repeating_them(key: str, uri: str) -> None:
    text = complaint(f"{key}={uri}")
    assert text.startswith(f"{key}: an address must not contain a password")
    assert "SEC" not in text
    assert "abc" not in text


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/a:b@c/x",
        "https://host:9000/a@b",
        "https://host:9000",
        "/in/a:b@c",
        "s3://b/x?y=sig",
        "http://h:1/a:b@c",
    ],
)
def test_other_addresses_pass(uri: str) -> None:
    assert load_run(f"source.uri={uri}").source.uri == uri
