"""A calibrator turns the signals of words and segments into confidences that mean what they say, by numpy alone.

A word's confidence is then the probability that the word is right. A segment's is its expected word accuracy: 0.92 is a
WER of 8 %. Both are a logistic regression on the signals, then an isotonic curve; `pipeline.calibration` fits them. A
calibrator is for one model. It is a small JSON file. An output keeps its own one as `_run/calibrator.json`, and
publishing applies it. What is committed stays raw, so another calibrator can be applied at any time.

Each row is judged by the curves of its language. Where these cannot judge it, the curves of all languages do. Where
those cannot either, its confidences stay raw. `confidence_source` says which: calibrated:language, calibrated:all or
raw. Curves cannot judge a row of another model, one without words, and one with a signal that is missing, or far from
all values that they were fitted on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pydantic
from pydantic import Field

from pipeline.config import ConfigError, Section
from pipeline.config_file import mistakes
from pipeline.output.features import Features, features_of
from pipeline.schemas import WORD
from pipeline.storage.base import Storage

KEY = "_run/calibrator.json"
FILE = "calibrator.json"  # in a model's folder
NONE = b"null\n"  # the content of an output's file without a calibrator
ALL = "all"  # the curves of all languages
RAW, OF_LANGUAGE, OF_ALL = "raw", "calibrated:language", "calibrated:all"
MARGIN = 0.25  # of the range of fitted values: a signal that is farther outside cannot be judged

Number = Annotated[float, Field(ge=-1e12, le=1e12)]


class Input(Section):
    """One signal of a curve. Its values are clipped to what was fitted, and standardised."""

    name: str
    low: Number = Field(description="the lowest fitted value")
    high: Number = Field(description="the highest fitted value")
    mean: Number
    scale: Number = Field(gt=0)
    weight: Number
    missing: Number | None = Field(None, description="added where the signal is null; null: it never was")


class Curve(Section):
    """A logistic regression, and an isotonic curve of its score."""

    inputs: list[Input]
    bias: Number
    scores: list[Number] = Field(min_length=1, description="knots of the isotonic curve, ascending")
    values: list[Annotated[float, Field(ge=0, le=1)]] = Field(description="its values there, never falling")
    rows: int = Field(ge=0, le=10**12, description="words or segments that it was fitted on")

    @pydantic.model_validator(mode="after")
    def _rises(self) -> Curve:
        if len(self.scores) != len(self.values):
            raise ValueError(f"{len(self.scores)} scores, but {len(self.values)} values")
        if np.any(np.diff(self.scores) <= 0) or np.any(np.diff(self.values) < 0):
            raise ValueError("scores must rise, and values must not fall")
        return self

    def scored(self, signals: Mapping[str, np.ndarray]) -> np.ndarray:
        """The score of each row, float64. signals: of `features_of`; a null is NaN."""
        first = next(iter(signals.values()))
        total = np.full(len(first), float(self.bias))
        for one in self.inputs:
            values = signals[one.name]
            own = (np.clip(values, one.low, one.high) - one.mean) / one.scale * one.weight
            total += np.where(np.isnan(values), one.missing or 0.0, own)
        return total

    def confidence(self, signals: Mapping[str, np.ndarray]) -> np.ndarray:
        """The confidence of each row in [0, 1], float64."""
        return np.interp(self.scored(signals), self.scores, self.values)

    def judges(self, signals: Mapping[str, np.ndarray]) -> np.ndarray:
        """Bool: the rows whose signals are like those that were fitted."""
        first = next(iter(signals.values()))
        able = np.ones(len(first), bool)
        for one in self.inputs:
            values, reach = signals[one.name], MARGIN * (one.high - one.low)
            is_near = (values >= one.low - reach) & (values <= one.high + reach)
            able &= np.where(np.isnan(values), one.missing is not None, is_near)
        return able


class Curves(Section):
    """The curves of one language, or of all."""

    word: Curve
    segment: Curve


class Calibrator(Section):
    """A file of jobs.calibrate."""

    format: Literal["fullcanvas-calibrator/1"] = "fullcanvas-calibrator/1"
    model: str = Field(description="name@hash of the weights, as in the transcripts")
    fitted: dict[str, Any] = Field(default_factory=dict, description="what it was fitted on, for people")
    curves: dict[str, Curves] = Field(description="by language; `all`: of all of them")

    @pydantic.model_validator(mode="after")
    def _has_all(self) -> Calibrator:
        if ALL not in self.curves:
            raise ValueError(f"curves: {ALL} is missing")
        return self

    def to_json(self) -> bytes:
        """The content of its file."""
        return json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False).encode() + b"\n"

    @property
    def id(self) -> str:
        """First 16 hex digits of the SHA-256 of its content."""
        return hashlib.sha256(self.to_json()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Judged:
    """Confidences of rows of transcripts: by word, by segment, and what the column confidence_source says."""

    word: np.ndarray  # float64 [words], NaN: null
    segment: np.ndarray  # float64 [segments], NaN: null
    source: np.ndarray  # object [segments]: text or None


def parse(body: bytes, name: str) -> Calibrator:
    """A calibrator from the content of its file. Raises ConfigError, one line that begins with `name`."""
    try:
        return Calibrator.model_validate(json.loads(body))
    except pydantic.ValidationError as err:
        raise ConfigError(f"{name}: {mistakes(err, Calibrator)[0]}") from None
    except ValueError as err:
        raise ConfigError(f"{name}: no calibrator: {err}") from None


def read_file(path: Path, key: str = "model.calibrator") -> Calibrator:
    """The calibrator in a local file. Raises ConfigError, one line that names key and file."""
    try:
        return parse(path.read_bytes(), f"{key}: {path}")
    except OSError as err:
        raise ConfigError(f"{key}: {path}: {err.strerror}") from None


def keep(storage: Storage, calibrator: Calibrator | None) -> None:
    """Make it the calibrator of an output; None: its confidences are raw."""
    body = calibrator.to_json() if calibrator else NONE
    if not storage.exists(KEY) or storage.get(KEY) != body:
        storage.put(KEY, body)


def of_output(storage: Storage) -> Calibrator | None:
    """The calibrator that an output keeps; None: it has none, and its confidences are raw. Raises ConfigError."""
    if not storage.exists(KEY):
        return None
    body = storage.get(KEY)
    return None if body == NONE else parse(body, f"{storage.uri}/{KEY}")


def calibrator_id(storage: Storage) -> str:
    """The id of the calibrator that an output keeps; "" without one."""
    calibrator = of_output(storage)
    return calibrator.id if calibrator else ""


def judged(features: Features, calibrator: Calibrator | None) -> Judged:
    """The confidences of all rows. calibrator: None: all are raw."""
    count = len(features.language)
    word, segment = features.raw_word.copy(), features.raw_segment.copy()
    source = np.array([RAW if has_text else None for has_text in features.has_text], object)
    if calibrator is None:
        return Judged(word, segment, source)
    has_words = np.bincount(features.row_of, minlength=count) > 0
    left = has_words & (features.model == calibrator.model)
    own = [name for name in calibrator.curves if name != ALL]
    for name, label in [*((name, OF_LANGUAGE) for name in own), (ALL, OF_ALL)]:
        curves = calibrator.curves[name]
        able = left & curves.segment.judges(features.segment)
        if name != ALL:
            able &= features.language == name
        unable_words = np.bincount(features.row_of[~curves.word.judges(features.word)], minlength=count)
        able &= unable_words == 0
        of_words = able[features.row_of]
        word[of_words] = curves.word.confidence(features.word)[of_words]
        segment[able] = curves.segment.confidence(features.segment)[able]
        source[able] = label
        left &= ~able
    return Judged(word, segment, source)


def calibrated(table: pa.Table, calibrator: Calibrator | None) -> pa.Table:
    """Rows of schemas.TRANSCRIPT with the confidences of a calibrator. Only their signals count, not what they had."""
    if calibrator is None or not table.num_rows:
        return table
    features = features_of(table)
    found = judged(features, calibrator)
    words = table["words"].combine_chunks()
    flat = words.flatten()
    fields = [
        _float32(found.word) if name == "confidence" else flat.field(number) for number, name in enumerate(WORD.names)
    ]
    structs = pa.StructArray.from_arrays(fields, fields=list(WORD))
    lengths = pc.fill_null(pc.list_value_length(words), 0).to_numpy(zero_copy_only=False)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    columns = {
        "confidence": _float32(found.segment),
        "confidence_source": pa.array(found.source.tolist(), pa.string()),
        "words": pa.ListArray.from_arrays(offsets, structs, table.schema.field("words").type, mask=words.is_null()),
    }
    for name, column in columns.items():
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(place), column)
    return table


def _float32(values: np.ndarray) -> pa.Array:
    """Float32 with null for NaN."""
    return pa.array(values.astype(np.float32), pa.float32(), mask=np.isnan(values))
