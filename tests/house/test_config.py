"""Config files and overrides: what stays text, and how mistakes are reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pydantic
import pytest
import yaml

from pipeline.config import ConfigError, RunConfig, Section, public
from pipeline.config_file import keys, load
from pipeline.doctor.settings import DoctorConfig
from pipeline.evaluation.settings import EvaluateConfig
from pipeline.export.settings import ExportConfig
from pipeline.model.files.import_config import ImportConfig
from pipeline.training.adapter_config import AdapterConfig

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


@pytest.mark.parametrize(
    "override",
    [
        *("denoise.max_steps=0", "denoise.max_steps=many", "model.device=tpu"),
        *("run.partition=0/3", "run.partition=4/3", "run.partition=3", "run.partition=a/b"),
    ],
)
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
        ("baseline: 2026-02-30", "not YAML: day is out of range for month"),
        ("a: 0x_", "not YAML: invalid literal for int()"),
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
        "s3://KEY:SECRET@bucket/x",  # pragma: allowlist secret
        "s3://KEY:SEC/RET@bucket/x",
        "simplecache::s3://KEY:SECRET@bucket/x",  # pragma: allowlist secret
        "https://user:pw@host:9000/x",  # pragma: allowlist secret
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


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            "denoise: {seed: 1}\nmodel: {name: tiny}\ndenoise: {max_steps: 2}\n",
            "denoise is there twice, in lines 1 and 3",
        ),
        ("denoise:\n  seed: 1\n  seed: 2\n", "seed is there twice, in lines 2 and 3"),
        ("denoise: {seed: 1, seed: 1}\n", "seed is there twice, in lines 1 and 1"),
    ],
)
def test_a_key_that_stands_twice_in_a_file_is_refused(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(content)
    assert complaint(path=path) == f"{path}: {says}"


def test_a_key_that_stands_twice_in_an_override_is_refused() -> None:
    assert complaint("plan={unit_seconds: 5, unit_seconds: 6}") == "plan: unit_seconds is there twice, in lines 1 and 1"


def test_yaml_anchors_may_be_overridden_at_any_depth(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        "output: {uri: out}\n"
        "sets: {day: {source: {uri: in}}}\n"
        "models:\n"
        "- {name: a, denoise: &plain {max_steps: 8, seed: 1}}\n"
        "- {name: b, denoise: &quick {<<: *plain, max_steps: 4}}\n"
        "denoise: {<<: *quick, seed: 2}\n"
    )
    config = load(EvaluateConfig, str(path), [])
    assert config.models[1].denoise == {"max_steps": 4, "seed": 1}
    assert (config.denoise.max_steps, config.denoise.seed) == (4, 2)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["compute.replicas_min=3"], "compute.replicas_min: 3 is above replicas_max, which is 1"),
        (["denoise.temperature_max=0.1"], "denoise.temperature_min: 0.4 is above temperature_max, which is 0.1"),
        (["segment.min_speech_ms=120000"], "segment.min_speech_ms: must be 10000 or less (given: '120000')"),
        (["compute.gpus_per_replica=.inf"], "compute.gpus_per_replica: must be a number (given: '.inf')"),
        (["plan.unit_seconds=inf"], "plan.unit_seconds: must be a finite number (given: 'inf')"),
        (["plan.unit_seconds=0"], "plan.unit_seconds: must be above 0 (given: '0')"),
        (["denoise.seed=2147483648"], "denoise.seed: must be below 2147483648 (given: '2147483648')"),
        (["denoise.max_steps=1.5"], "denoise.max_steps: must be a whole number (given: '1.5')"),
        (["model.verify=perhaps"], "model.verify: must be true or false (given: 'perhaps')"),
        (["model.device=tpu"], "model.device: must be 'auto', 'cpu' or 'cuda' (given: 'tpu')"),
        (["source.track=-1"], "source.track: must be 'default' or 'all' or must be 0 or more (given: '-1')"),
        (["source.uri="], "source.uri: must not be empty (given: '')"),
        (["plan=null"], "plan: must be a section of keys with values (given: None)"),
        (["source.include=[a]"], "source.include: must be text (given: ['a'])"),
    ],
)
def test_a_value_out_of_bounds_is_one_line_in_plain_words(overrides: list[str], line: str) -> None:
    assert complaint(*overrides) == line


@pytest.mark.parametrize("schema", [RunConfig, DoctorConfig, EvaluateConfig, AdapterConfig, ImportConfig, ExportConfig])
def test_every_number_has_both_bounds(schema: type[Section]) -> None:
    without = [key for key, field in keys(schema) if not bounded(field.annotation, field.metadata)]
    assert without == []


def bounded(annotation: Any, metadata: Any) -> bool:
    """Whether every int and float in an annotation has a lower and an upper bound."""
    if annotation in (int, float):
        has = {name for limit in metadata for name in ("ge", "gt", "le", "lt") if hasattr(limit, name)}
        return bool(has & {"ge", "gt"} and has & {"le", "lt"})
    parts = get_args(annotation)
    if hasattr(annotation, "__metadata__"):
        return bounded(parts[0], [*metadata, *flat(annotation.__metadata__)])
    return all(bounded(part, metadata) for part in parts if isinstance(part, type) or get_args(part))


def flat(metadata: Any) -> list[Any]:
    """The limits of an Annotated type; a FieldInfo has its own in a list."""
    return [limit for one in metadata for limit in getattr(one, "metadata", [one])]


@pytest.mark.parametrize("key", ["model.name", "model.compile_cache", "source.include", "storage.region"])
def test_no_setting_takes_a_secret(key: str) -> None:
    line = complaint(f"{key}=s3://KEY:SECRET@bucket/x")
    assert line.startswith(f"{key}: an address must not contain a password")
    assert "SECRET" not in line


# pragma: allowlist nextline secret
@pytest.mark.parametrize("word", ["s3://KEY:SECRET@bucket", "plan={a: s3://KEY:SECRET@bucket"])
def test_a_word_that_is_no_override_is_shown_without_secrets(word: str) -> None:
    assert "SECRET" not in complaint(word)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("GET 'https://h/a.wav?x=1&X-Amz-Signature=abc&y=2' failed", "GET 'https://h/a.wav?x=1&y=2' failed"),
        ("https://h/a?X-Amz-Date=1&X-Amz-Signature=abc&X-Amz-Expires=60", "https://h/a"),
        ("https://h/get?id=7&token=abc", "https://h/get?id=7"),
        ("https://h/a.wav?sig=abc#t", "https://h/a.wav#t"),
        ("s3://K:S@b/x and s3://K:S@b/y", "s3://b/x and s3://b/y"),
        ("https://h/a.wav?page=2", "https://h/a.wav?page=2"),
        ("https://h:9000/a@b", "https://h:9000/a@b"),
    ],
)
def test_what_is_shown_of_an_address_has_no_secret(text: str, shown: str) -> None:
    assert public(text) == shown
