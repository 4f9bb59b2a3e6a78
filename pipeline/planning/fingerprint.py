"""What must not change between the runs of one output: part of its plan, compared by every later run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.config import ConfigError, RunConfig
from pipeline.schemas import SCHEMA_VERSION

KEY = "_run/fingerprint.json"


def fingerprint(config: RunConfig, *, weights: str) -> dict[str, Any]:
    """Full keys and values of all that decides which recordings there are and what is heard in them.

    weights: a hash of the model's weights. Left out on purpose: compute, plan, output, budget, device and compilation,
    which may change from run to run.
    """
    settings = config.model_dump(mode="json")
    model = {key: settings["model"][key] for key in ("name", "revision", "dtype")} | {"weights": weights}
    sections = {
        "source": settings["source"],
        "model": model,
        "denoise": settings["denoise"],
        "segment": settings["segment"],
    }
    flat = {f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()}
    return flat | {"schema_version": SCHEMA_VERSION}


def fingerprint_id(fingerprint: Mapping[str, Any]) -> str:
    """First 16 hex digits of the SHA-256 of a fingerprint: the column `fingerprint` of the published tables."""
    return hashlib.sha256(to_json(fingerprint)).hexdigest()[:16]


def check_fingerprint(uri: str, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Compare the fingerprint of the output at `uri` with that of a run that wants to resume it.

    Raises ConfigError, one line with every differing key and both values, where they are not the same. A setting that
    an older version did not know yet is what it is by default: null.
    """
    differences = list(_differences(stored, wanted))
    if differences:
        raise ConfigError(
            f"output.uri: {uri} has results of other settings (choose another output, or go back to them): "
            + "; ".join(differences)
        )


def _differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    for key in sorted(set(stored) | set(wanted)):
        if stored.get(key) is None and wanted.get(key) is None:
            continue
        old, new = (json.dumps(side[key]) if key in side else "absent" for side in (stored, wanted))
        if old != new:
            yield f"{key} was {old}, now {new}"


def to_json(fingerprint: Mapping[str, Any]) -> bytes:
    """The content of _run/fingerprint.json."""
    return json.dumps(fingerprint, sort_keys=True, indent=1).encode()
