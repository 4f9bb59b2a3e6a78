"""The fingerprint: the settings that must stay the same in all runs into one output. It is stored with the plan."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import metadata
from typing import Any

import av

from pipeline.config import ConfigError, RunConfig
from pipeline.schemas import OLDEST_SCHEMA, SCHEMA_VERSION

KEY = "_run/fingerprint.json"
VERSION = "schema_version"
SECTIONS = ("source", "model", "denoise", "decode", "segment")
LIBRARIES = ("av", "onnxruntime", "silero-vad", "soxr", "tokenizers")  # they decide what is heard and recognised
OF_LIBRARY = "library."  # how their keys begin


def make_fingerprint(config: RunConfig, *, weights: str, second: str | None = None) -> dict[str, Any]:
    """Full keys and values of all settings that decide which recordings there are and what is recognised in them.

    weights: a hash of the model's weights, under the key `model.weights_hash`; second: of model.second. Versions of
    libraries that decode, cut, resample and split words are under `library.NAME`. Not included are compute, plan,
    output, budget, device and compilation: they may change from run to run.
    """
    settings = config.model_dump(mode="json")
    own = ("name", "revision", "dtype", "weights", "second", "second_revision")
    model = {key: settings["model"][key] for key in own} | {"weights_hash": weights, "second_weights_hash": second}
    sections = {name: settings[name] for name in SECTIONS} | {"model": model}
    flat = {f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()}
    return flat | library_versions() | {VERSION: SCHEMA_VERSION}


def library_versions() -> dict[str, str]:
    """Versions of the libraries that decide what is recognised, by `library.NAME`; those of FFmpeg are one text."""
    ffmpeg = " ".join(f"{name} {'.'.join(map(str, parts))}" for name, parts in sorted(av.library_versions.items()))
    return {f"{OF_LIBRARY}{name}": metadata.version(name) for name in LIBRARIES} | {f"{OF_LIBRARY}libav": ffmpeg}


def fingerprint_id(values: Mapping[str, Any]) -> str:
    """First 16 hex digits of the SHA-256 of a fingerprint, as in the column `fingerprint` of the published tables."""
    return hashlib.sha256(to_json(values)).hexdigest()[:16]


def check_fingerprint(uri: str, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Compare the `stored` fingerprint of the output at `uri` with the one that a run `wanted` to use.

    A key that an older version did not know counts as null or the setting's default, and as equal if it is that of a
    library. Raises ConfigError if the fingerprints differ: one line with every differing key and both values. Versions
    of the schema may differ as `check_version` allows.
    """
    check_version(uri, stored)
    differences = list(_differences(stored, wanted))
    if differences:
        raise ConfigError(
            f"output.uri: {uri} has results of other settings (choose another output, or use those settings again): "
            + "; ".join(differences)
        )


def check_version(uri: str, stored: Mapping[str, Any]) -> None:
    """Raise ConfigError, one line, if this version does not read outputs with the schemas of this fingerprint."""
    version = stored.get(VERSION, SCHEMA_VERSION)
    if not OLDEST_SCHEMA <= version <= SCHEMA_VERSION:
        advice = (
            "use a newer one" if version > SCHEMA_VERSION else "use the one that wrote it, or choose another output"
        )
        raise ConfigError(
            f"output.uri: {uri} has schema version {version}, and this fullcanvas reads {OLDEST_SCHEMA} to "
            f"{SCHEMA_VERSION}: {advice}"
        )


@cache
def _defaults() -> dict[str, Any]:
    """The default of each setting of a fingerprint that has one."""
    fields = RunConfig.model_fields
    sections = {name: fields[name].annotation.model_construct().model_dump(mode="json") for name in SECTIONS}  # type: ignore[union-attr]
    return {f"{name}.{key}": value for name, settings in sections.items() for key, value in settings.items()}


def _differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    for key in sorted((set(stored) | set(wanted)) - {VERSION}):
        if key not in stored and key in _defaults() and wanted[key] == _defaults()[key]:
            continue
        if stored.get(key) is None and (wanted.get(key) is None or key.startswith(OF_LIBRARY)):
            continue
        old, new = (json.dumps(side[key]) if key in side else "absent" for side in (stored, wanted))
        if old != new:
            yield f"{key} was {old}, now {new}"


def to_json(values: Mapping[str, Any]) -> bytes:
    """The content of _run/fingerprint.json."""
    return json.dumps(values, sort_keys=True, indent=1).encode()
