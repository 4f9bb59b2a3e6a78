"""Words stay Arrow arrays between a result and the transcripts: as Python objects they cost most of a commit."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.schemas import RESULT, TRANSCRIPT, WORD

Words: TypeAlias = pa.StructArray | list[dict[str, Any]] | None
_OTHERS = [field for field in RESULT if field.name != "words"]
_COLUMN = TRANSCRIPT.field("words").type


def results_of(pieces: pa.Table) -> list[dict[str, Any]]:
    """The results of rows of schemas.PIECE_RECOGNISED, in order. Their `words` are a StructArray of WORD, or None."""
    flat = pieces["results"].combine_chunks().flatten()
    words = flat.field("words")
    arrays = [
        words.values.slice(start, end - start) if known else None
        for (start, end), known in zip(pairwise(words.offsets.to_pylist()), words.is_valid().to_pylist(), strict=True)
    ]
    others = pa.StructArray.from_arrays([flat.field(field.name) for field in _OTHERS], fields=_OTHERS)
    return [result | {"words": array} for result, array in zip(others.to_pylist(), arrays, strict=True)]


def listed(words: Words) -> list[dict[str, Any]]:
    """Words as dicts; none where there are none."""
    return words.to_pylist() if isinstance(words, pa.StructArray) else words or []


def column(words: Sequence[Words], starts_ms: Sequence[int]) -> pa.ListArray:
    """The words of rows of TRANSCRIPT; None is null. starts_ms: of the segments, from where the words' times count."""
    arrays = [one if isinstance(one, pa.StructArray) else pa.array(one or [], WORD) for one in words]
    lengths = np.array([len(one) for one in arrays], np.int64)
    every = pa.concat_arrays([*arrays, pa.array([], WORD)])
    starts = pa.array(np.repeat(np.array(starts_ms, np.int64), lengths))
    times = ("start_ms", "end_ms")
    moved = [pc.add(every.field(one.name), starts) if one.name in times else every.field(one.name) for one in WORD]
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    mask = pa.array([one is None for one in words], pa.bool_())
    return pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(moved, fields=list(WORD)), _COLUMN, mask=mask)
