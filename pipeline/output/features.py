"""The signals of published rows as numbers that a calibrator takes: by word, and by segment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# The columns of schemas.TRANSCRIPT that `features_of` reads.
COLUMNS = ("language", "text", "confidence", "words", "signals", "overflow", "chars_per_second", "model")
SMALL = 1e-6


def _plain(values: np.ndarray) -> np.ndarray:
    return values


def _logit(values: np.ndarray) -> np.ndarray:
    """Of a probability. 1e-6 from 0 and from 1 is as near as it gets."""
    inside = np.clip(values, SMALL, 1 - SMALL)
    return np.log(inside / (1 - inside))


def _log(values: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(values, SMALL))


def _log1p(values: np.ndarray) -> np.ndarray:
    return np.log1p(np.maximum(values, 0))


Transform = Callable[[np.ndarray], np.ndarray]
OF_WORD: dict[str, Transform] = {  # fields of schemas.WORD_SIGNALS
    "token_probability_min": _logit,
    "token_probability_mean": _logit,
    "entropy_max": _log,
    "first_stable_step": _log1p,
    "revisions": _log1p,
    "early_distance": _plain,
    "ctc_score": _plain,
    "ctc_agreement": _plain,
}
OF_SEGMENT: dict[str, Transform] = {  # fields of schemas.SIGNALS
    "confidence_raw": _logit,
    "token_probability_mean": _logit,
    "token_probability_min": _logit,
    "entropy_mean": _log,
    "entropy_max": _log,
    "first_stable_step_mean": _log1p,
    "early_distance": _plain,
    "ctc_score": _plain,
    "ctc_disagreement": _plain,
    "language_probability": _logit,
    "no_speech_probability": _log,
    "log_probability_mean": _plain,
    "compression_ratio": _plain,
    "temperature": _plain,
}
COLUMNS_OF_SEGMENT: dict[str, Transform] = {"overflow": _plain, "chars_per_second": _log1p}


@dataclass(frozen=True, slots=True)
class Features:
    """Numbers of `words` words and `segments` segments, float64; NaN stands for null.

    word, segment: by name. A word has those of its segment too, as `segment.NAME`. row_of: int64 [words], the segment
    of each word. has_text: whether the model wrote the text of a segment; False: nothing was recognised there.
    """

    word: dict[str, np.ndarray]
    segment: dict[str, np.ndarray]
    row_of: np.ndarray
    raw_word: np.ndarray
    raw_segment: np.ndarray
    language: np.ndarray  # object [segments]: text or None
    model: np.ndarray
    has_text: np.ndarray


def features_of(table: pa.Table) -> Features:
    """table: with COLUMNS of schemas.TRANSCRIPT."""
    column = {name: table[name].combine_chunks() for name in COLUMNS}
    words, signals = column["words"], column["signals"]
    lengths = pc.fill_null(pc.list_value_length(words), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    row_of = np.repeat(np.arange(len(lengths)), lengths)
    flat = words.flatten()
    own = flat.field("signals")
    segment = {name: of(_numbers(signals.field(name), signals)) for name, of in OF_SEGMENT.items()}
    segment |= {name: of(_numbers(column[name])) for name, of in COLUMNS_OF_SEGMENT.items()}
    word = {name: of(_numbers(own.field(name), own)) for name, of in OF_WORD.items()}
    probability = word["token_probability_min"]
    word |= {
        "characters": _log1p(_numbers(pc.utf8_length(flat.field("text")))),
        "milliseconds": _log1p(_numbers(flat.field("end_ms")) - _numbers(flat.field("start_ms"))),
        "before": _neighbour(probability, row_of, -1),
        "after": _neighbour(probability, row_of, 1),
    }
    for name in ("ctc_score", "ctc_agreement", "token_probability_min"):
        segment |= _summary(f"word.{name}", word[name], row_of, len(lengths))
    word |= {f"segment.{name}": values[row_of] for name, values in segment.items()}
    raw_segment = _numbers(signals.field("confidence_raw"), signals)
    return Features(
        word=word,
        segment=segment,
        row_of=row_of,
        raw_word=_numbers(own.field("token_probability_min"), own),
        raw_segment=raw_segment,
        language=_objects(column["language"]),
        model=_objects(column["model"]),
        has_text=~np.isnan(_numbers(column["confidence"])),
    )


def _numbers(values: pa.Array, parent: pa.Array | None = None) -> np.ndarray:
    """Float64 with NaN for null. parent: the struct that they are a field of; where it is null, they are too."""
    numbers = values.cast(pa.float64()).to_numpy(zero_copy_only=False).astype(np.float64, copy=True)
    if parent is not None and parent.null_count:
        numbers[parent.is_null().to_numpy(zero_copy_only=False)] = np.nan
    return numbers


def _objects(values: pa.Array) -> np.ndarray:
    return np.array(values.to_pylist(), object)


def _neighbour(values: np.ndarray, row_of: np.ndarray, step: int) -> np.ndarray:
    """The value of the word before (-1) or after (1) in the same segment; at its edge the word's own."""
    other, is_same = np.roll(values, -step), np.roll(row_of, -step) == row_of
    if len(values):
        is_same[-1 if step > 0 else 0] = False
    return np.where(is_same, other, values)


def _summary(name: str, values: np.ndarray, row_of: np.ndarray, rows: int) -> dict[str, np.ndarray]:
    """Mean and lowest value of the words of each segment; NaN without words, or where one of them is NaN."""
    count = np.bincount(row_of, minlength=rows)
    lowest = np.full(rows, np.inf)
    with np.errstate(invalid="ignore", divide="ignore"):
        np.minimum.at(lowest, row_of, values)
        mean = np.bincount(row_of, values, minlength=rows) / count
    return {f"{name}_mean": mean, f"{name}_min": np.where(count > 0, lowest, np.nan)}
