"""A model replica as a Ray Data stage sees it: units in, units out, several calls in flight share one engine."""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import torch

from pipeline import schemas
from pipeline.config import RunConfig
from pipeline.model import checkpoint
from pipeline.model.confidence import SegmentResult
from pipeline.model.engine import Engine, EngineDead
from pipeline.schemas import Segment

log = logging.getLogger(__name__)


class Replica:
    """Loads the model in `__init__` (a broken one fails the job); `await replica(table)` transcribes its segments."""

    def __init__(self, config: dict[str, Any]) -> None:
        run = RunConfig.model_validate(config)
        device = run.model.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cpu":
            torch.set_num_threads(run.compute.threads_per_replica)
        model = checkpoint.load(run.model.name, device=device, dtype=getattr(torch, run.model.dtype))
        self.engine = Engine(
            model,
            run.denoise,
            slots=run.compute.canvases,
            compile=run.model.compile,
            compile_cache=run.model.compile_cache,
        )

    async def __call__(self, units: pa.Table) -> pa.Table:
        """Column `segments` of `units` becomes `results`; the other columns pass through.

        A dead engine ends the process with status 1, so that Ray replaces the replica and gives its units to another.
        """
        rows: list[list[dict[str, Any]]] = units["segments"].to_pylist()
        try:
            waiting = [
                [asyncio.wrap_future(self.engine.submit(Segment(s["key"], s["language"], s["pcm"]))) for s in segments]
                for segments in rows
            ]
            answers = [[await future for future in futures] for futures in waiting]
        except EngineDead as err:
            log.critical("replica ends: %s", err)
            logging.shutdown()
            os._exit(1)
        results = [
            [_result(segment, answer) for segment, answer in zip(segments, answered, strict=True)]
            for segments, answered in zip(rows, answers, strict=True)
        ]
        index = units.schema.get_field_index("segments")
        column = pa.array(results, schemas.UNIT_TRANSCRIBED.field("results").type)
        return units.set_column(index, "results", column)


def _result(segment: dict[str, Any], answer: SegmentResult) -> dict[str, Any]:
    return {name: segment[name] for name, _ in schemas.SPAN} | asdict(answer)
