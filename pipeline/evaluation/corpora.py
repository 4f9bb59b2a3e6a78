"""Who speaks and how noisy it is, out of the metadata of a recording, by the names that corpora and manifests use."""

from __future__ import annotations

import json
import math
from typing import Any

SPEAKER_NAMES = (
    *("speaker", "speaker_id", "client_id", "spk_id", "spk", "spkid", "speakerid", "speaker_name"),
    *("talker", "talker_id", "reader", "reader_id"),
)
SNR_NAMES = ("snr", "snr_db", "signal_to_noise", "signal_to_noise_ratio")
_INNER = ("custom", "metadata", "extra")  # of Lhotse cuts and of manifests that were made from others
_UNKNOWN = ("", "none", "null", "nan", "n/a", "unknown", "-")


def speaker_of(metadata: str | None) -> str | None:
    """The speaker's name or number as text, None where it is unknown. metadata: JSON text as in the transcripts."""
    for value in _values(metadata, SPEAKER_NAMES):
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # 84.0: a number that went through a table with gaps
        if isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip().lower() not in _UNKNOWN:
            return str(value).strip()
    return None


def snr_of(metadata: str | None) -> float | None:
    """The signal-to-noise ratio in dB, None where it is unknown or no finite number ("12.5 dB" is one)."""
    for value in _values(metadata, SNR_NAMES):
        try:
            number = float(value.strip().lower().removesuffix("db") if isinstance(value, str) else value)
        except (TypeError, ValueError, OverflowError):
            continue
        if math.isfinite(number) and not isinstance(value, bool):
            return number
    return None


def _values(metadata: str | None, known: tuple[str, ...]) -> list[Any]:
    """What stands under one of the known names (case and hyphens aside), in their order; then one level deeper."""
    try:
        columns = json.loads(metadata) if metadata else None
    except (ValueError, RecursionError):
        return []
    if not isinstance(columns, dict):
        return []
    levels = [columns, *(columns[name] for name in _INNER if isinstance(columns.get(name), dict))]
    folded = [{key.lower().replace("-", "_"): value for key, value in level.items()} for level in levels]
    return [level[name] for level in folded for name in known if name in level]
