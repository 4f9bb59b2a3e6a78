"""Tests of the fingerprint: what belongs to it, and that a resume with another one is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipeline.config import ConfigError, RunConfig
from pipeline.config_file import load
from pipeline.planning.fingerprint import check_fingerprint, fingerprint_id, make_fingerprint, to_json
from pipeline.schemas import OLDEST_SCHEMA, SCHEMA_VERSION


def _fingerprint(*overrides: str, weights: str = "abc") -> dict[str, Any]:
    config = load(RunConfig, None, ["source.uri=/in", "output.uri=/out", *overrides])
    return make_fingerprint(config, weights=weights)


@pytest.mark.parametrize(
    "override",
    [
        "source.uri=/other",
        "source.format=files",
        "source.include=a*",
        "source.language=de",
        "source.split=test",
        "model.name=/my/model",
        "model.revision=r2",
        "model.dtype=bfloat16",
        "model.weights=fp8",
        "denoise.max_steps=8",
        "model.second=whisper-base",
        "model.second_revision=r2",
        "denoise.seed=1",
        "denoise.votes=3",
        "denoise.votes_below=0.5",
        "segment.vad=false",
        "segment.pad_ms=100",
    ],
)
def test_what_decides_the_result_is_in_it(override: str) -> None:
    key = override.partition("=")[0]
    changed, base = _fingerprint(override), _fingerprint()
    assert [name for name in base if base[name] != changed[name]] == [key]
    assert fingerprint_id(base) != fingerprint_id(changed)


@pytest.mark.parametrize(
    "override",
    [
        "output.uri=/moved",
        "output.part_rows=7",
        "compute.canvases=64",
        "compute.replicas_max=8",
        "plan.unit_seconds=60",
        "budget.max_dead_fraction=1",
        "model.device=cpu",
        "model.compile=true",
        "model.head=torch",
        "model.verify=false",
        "publish=true",
        "retry=dead_letters",
    ],
)
def test_what_may_change_from_run_to_run_is_not_in_it(override: str) -> None:
    assert _fingerprint(override) == _fingerprint()


@pytest.mark.parametrize("name", ["av", "libav", "silero-vad", "soxr", "tokenizers", "onnxruntime"])
def test_another_version_of_a_library_that_decides_what_is_recognised_is_refused(name: str) -> None:
    wanted = _fingerprint()
    assert any(char.isdecimal() for char in wanted[f"library.{name}"])
    stored = wanted | {f"library.{name}": "0.1"}
    with pytest.raises(ConfigError, match=rf'library\.{name} was "0\.1", now "'):
        check_fingerprint("/out", stored, wanted)


def test_an_output_of_a_version_that_did_not_note_libraries_goes_on() -> None:
    stored = {key: value for key, value in _fingerprint().items() if not key.startswith("library.")}
    check_fingerprint("/out", stored, _fingerprint())


def test_other_weights_are_another_fingerprint() -> None:
    assert fingerprint_id(_fingerprint(weights="abc")) != fingerprint_id(_fingerprint(weights="abd"))


def test_a_resume_with_the_same_settings_is_allowed() -> None:
    check_fingerprint("/out", json.loads(to_json(_fingerprint())), _fingerprint("compute.canvases=2"))


def test_a_resume_with_other_settings_names_every_differing_key_with_both_values() -> None:
    stored = _fingerprint() | {"model.quantised": True}
    with pytest.raises(ConfigError) as error:
        check_fingerprint("/out", stored, _fingerprint("denoise.max_steps=8", "model.revision=r2", weights="xyz"))
    line = str(error.value)
    assert line.startswith("output.uri: /out ")
    assert "denoise.max_steps was 16, now 8" in line
    assert 'model.revision was null, now "r2"' in line
    assert 'model.weights_hash was "abc", now "xyz"' in line
    assert "model.quantised was true, now absent" in line
    assert line.count(" was ") == 4
    assert "\n" not in line


def test_a_setting_that_older_versions_did_not_have_may_stay_null() -> None:
    stored = {key: value for key, value in _fingerprint().items() if key != "source.split"}
    check_fingerprint("/out", stored, _fingerprint())
    with pytest.raises(ConfigError, match=r'source\.split was absent, now "test"'):
        check_fingerprint("/out", stored, _fingerprint("source.split=test"))


def test_a_setting_that_older_versions_did_not_have_may_have_its_default() -> None:
    stored = {key: value for key, value in _fingerprint().items() if key != "denoise.max_steps"}
    check_fingerprint("/out", stored, _fingerprint())
    with pytest.raises(ConfigError, match=r"denoise\.max_steps was absent, now 4"):
        check_fingerprint("/out", stored, _fingerprint("denoise.max_steps=4"))


@pytest.mark.parametrize("version", range(OLDEST_SCHEMA, SCHEMA_VERSION + 1))
def test_outputs_of_these_versions_are_resumed(version: int) -> None:
    check_fingerprint("/out", _fingerprint() | {"schema_version": version}, _fingerprint())


@pytest.mark.parametrize(
    ("version", "advice"),
    [
        (OLDEST_SCHEMA - 1, "use the one that wrote it, or choose another output"),
        (SCHEMA_VERSION + 1, "use a newer one"),
    ],
)
def test_other_versions_are_refused_in_one_line(version: int, advice: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_fingerprint("/out", _fingerprint() | {"schema_version": version}, _fingerprint())
    assert str(caught.value) == (
        f"output.uri: /out has schema version {version}, and this fullcanvas reads {OLDEST_SCHEMA} to "
        f"{SCHEMA_VERSION}: {advice}"
    )
