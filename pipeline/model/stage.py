"""The model stage: pieces with segments go in, pieces with results come out; calls in flight share one engine."""

from __future__ import annotations

import asyncio
import logging
import os
from concurrent.futures import Future
from dataclasses import asdict, replace
from importlib import import_module
from typing import Any, NoReturn

import pyarrow as pa
import torch

from pipeline.config import ConfigError, RunConfig
from pipeline.model import engines
from pipeline.model.files import layout
from pipeline.model.second import agreement
from pipeline.model.worker import EngineDead, Worker
from pipeline.schemas import AUDIO_COLUMNS, PIECE_RECOGNISED, SPAN, About, Segment, SegmentResult, pcm_of

log = logging.getLogger(__name__)

# By recording: the place of the segment in which its language is detected (-1: in an earlier piece), and its answer.
Opened = dict[int, tuple[int, Future[SegmentResult]]]

HUNG_SECONDS = 900.0  # without the end of a turn: longer than compiling again when memory runs out


class Replica:
    """Loads the model in `__init__` (a broken one fails the job); `await replica(table)` recognises its segments."""

    def __init__(self, config: RunConfig, _about: About, *, own_process: bool = True) -> None:
        """Raises ConfigError where the model cannot be loaded.

        own_process: whether the process is there for this replica alone, so that it may log and end as it must.
        """
        self.own_process = own_process
        self.is_last = config.model.second is None
        if own_process:
            # A process of Ray shows warnings only: what the model needs and how it runs belongs in the replica's log.
            logging.basicConfig(format="%(message)s")
            logging.getLogger("pipeline").setLevel(logging.INFO)
        self.engine = start_engine(config)

    async def __call__(self, pieces: pa.Table) -> pa.Table:
        """Rows of PIECE_DECODED become rows of PIECE_RECOGNISED; with model.second, of PIECE_HALF.

        An engine that is dead or hangs ends the replica's own process with status 1. Ray then replaces the replica and
        gives its pieces to another. In a process of others it raises EngineDead.
        """
        rows: list[list[dict[str, Any]]] = pieces["segments"].to_pylist()
        audio = [memoryview(pcm.as_buffer()) for pcm in pieces["pcm"]]
        given = [
            [Segment(s["key"], s["language"], pcm_of(pcm, s)) for s in segments]
            for segments, pcm in zip(rows, audio, strict=True)
        ]
        try:
            opened = await self._opened(pieces, rows, given)
            waiting = [self._submit(*of_piece) for of_piece in zip(rows, given, opened, strict=True)]
            await self._resolved([future for futures in waiting for future in futures])
            answers = [[future.result() for future in futures] for futures in waiting]
        except EngineDead as err:
            self._end(str(err))
        for of_piece in zip(rows, answers, opened, strict=True):
            _say_language(*of_piece)
        results = [
            [_result(segment, answer) for segment, answer in zip(segments, answered, strict=True)]
            for segments, answered in zip(rows, answers, strict=True)
        ]
        column = pa.array(results, PIECE_RECOGNISED.field("results").type)
        recognised = pieces.append_column("results", column)
        return recognised.drop_columns(AUDIO_COLUMNS) if self.is_last else recognised

    def figures(self) -> dict[str, float]:
        """What the engine has at the moment, by the names of flow/metrics.py. Any thread may ask."""
        memory = {"gpu_memory_bytes": torch.cuda.memory_reserved()} if torch.cuda.is_initialized() else {}
        return self.engine.figures() | memory

    async def _opened(
        self, pieces: pa.Table, rows: list[list[dict[str, Any]]], given: list[list[Segment]]
    ) -> list[Opened]:
        """The first answers of recordings whose language nobody says; they have the language that the model detects."""
        opened: list[Opened] = [{} for _ in rows]
        if not self.engine.detects_language:
            return opened
        wanted: list[tuple[int, int, int, Segment]] = []  # piece, recording, place, segment
        starts = pieces["start"].to_pylist()
        for number, (opening, segments) in enumerate(zip(pieces["opening"], rows, strict=True)):
            seen = set()
            if opening.is_valid:
                recording = starts[number]["recording"]
                seen.add(recording)
                wanted.append((number, recording, -1, Segment("opening", None, memoryview(opening.as_buffer()))))
            for place, (row, segment) in enumerate(zip(segments, given[number], strict=True)):
                if segment.language is None and row["recording_index"] not in seen:
                    seen.add(row["recording_index"])
                    wanted.append((number, row["recording_index"], place, segment))
        futures = self.engine.submit_all([segment for *_, segment in wanted])
        await self._resolved(futures)
        for (number, recording, place, _), future in zip(wanted, futures, strict=True):
            opened[number][recording] = (place, future)
        return opened

    def _submit(self, rows: list[dict[str, Any]], given: list[Segment], opened: Opened) -> list[Future[SegmentResult]]:
        """The futures of a piece's segments: of those without an answer yet, in the language of their recording."""
        futures: list[Future[SegmentResult]] = []
        left: list[tuple[int, Segment]] = []
        for place, (row, segment) in enumerate(zip(rows, given, strict=True)):
            first, future = opened.get(row["recording_index"], (-1, Future()))
            futures.append(future)
            if first != place:
                known = future.result().language if row["recording_index"] in opened else None
                left.append((place, replace(segment, language=segment.language or known)))
        new = self.engine.submit_all([segment for _, segment in left])
        for (place, _), future in zip(left, new, strict=True):
            futures[place] = future
        return futures

    async def _resolved(self, futures: list[Future[SegmentResult]]) -> None:
        """Wait for all; the process ends where the engine hangs."""
        waiting = {asyncio.wrap_future(future) for future in futures}
        while waiting:
            _, waiting = await asyncio.wait(waiting, timeout=HUNG_SECONDS / 60)
            if waiting and self.engine.stalled_seconds() > HUNG_SECONDS:
                self._end(f"the engine hangs: no turn has ended for {HUNG_SECONDS:g} s")

    def _end(self, why: str) -> NoReturn:
        """End the process with status 1, at once; or raise EngineDead where it is not the replica's own."""
        if not self.own_process:
            raise EngineDead(why)
        log.critical("replica ends: %s", why)
        logging.shutdown()
        os._exit(1)


class SecondReplica(Replica):
    """Holds model.second; `await replica(table)` adds to results how far this model agrees."""

    def __init__(self, config: RunConfig, about: About, *, own_process: bool = True) -> None:
        """The settings of decode, denoise and compute hold for it too. Raises ConfigError as `Replica` does."""
        own = {"name": config.model.second, "revision": config.model.second_revision, "second": None, "weights": "bf16"}
        once = {"model": config.model.model_copy(update=own), "denoise": config.denoise.model_copy(update={"votes": 1})}
        super().__init__(config.model_copy(update=once), about, own_process=own_process)
        self.languages = about.second_languages

    async def __call__(self, pieces: pa.Table) -> pa.Table:
        """Rows of PIECE_HALF become rows of PIECE_RECOGNISED.

        A segment without a text, and one in a language that this model does not know, stays as it is. One whose
        language nobody says or has detected is heard as this model detects it. Ends as a `Replica` does.
        """
        results: list[list[dict[str, Any]]] = pieces["results"].to_pylist()
        asked: list[tuple[dict[str, Any], Segment]] = []
        for rows, answers, pcm in zip(pieces["segments"].to_pylist(), results, pieces["pcm"], strict=True):
            view = memoryview(pcm.as_buffer())
            for row, answer in zip(rows, answers, strict=True):
                language = answer["language"] or row["language"]
                if answer["text"] is not None and (language is None or language in self.languages):
                    asked.append((answer, Segment(row["key"], language, pcm_of(view, row))))
        try:
            futures = self.engine.submit_all([segment for _, segment in asked])
            await self._resolved(futures)
            for (answer, segment), future in zip(asked, futures, strict=True):
                _add_opinion(answer, future.result(), segment.language)
        except EngineDead as err:
            self._end(str(err))
        column = pa.array(results, PIECE_RECOGNISED.field("results").type)
        return pieces.drop_columns([*AUDIO_COLUMNS, "results"]).append_column("results", column)


def start_engine(config: RunConfig) -> Worker:
    """The engine of the configured model on the configured device, ready for segments. Raises ConfigError."""
    device = config.model.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("model.device: cuda: torch finds no CUDA device on the machine of this replica")
    if device == "cpu":
        torch.set_num_threads(config.compute.threads_per_replica)
    return engine_for(config, device)


def engine_for(run: RunConfig, device: str) -> Worker:
    """The engine that reads `model.name`, on "cpu" or "cuda". Its batch is compute.canvases. Raises ConfigError."""
    model = run.model
    engine = engines.engine_of(layout.directory(model.name, model.revision))
    if model.weights == "fp8" and engine is not engines.DIFFUSION:
        raise ConfigError(f"model.weights: fp8 is for diffusion models; {model.name} runs on the engine {engine.name}")
    worker: Worker = import_module(engine.module).start(run, device)
    return worker


def _say_language(rows: list[dict[str, Any]], answers: list[SegmentResult], opened: Opened) -> None:
    """Give all answers of a recording the language that was detected in its first segment, and its probability."""
    for row, answer in zip(rows, answers, strict=True):
        if row["recording_index"] in opened:
            first = opened[row["recording_index"]][1].result()
            answer.language = first.language
            if answer.signals is not None and first.signals is not None:
                answer.signals["language_probability"] = first.signals["language_probability"]


def _add_opinion(answer: dict[str, Any], second: SegmentResult, language: str | None) -> None:
    """Add the signals of model.second to a result, if it gave an answer. language: of the segment, if it is known."""
    if second.text is None:
        return
    words = answer["words"] or []
    found = agreement(answer["text"], [word["text"] for word in words], second.text, language or second.language)
    answer["signals"] = (answer["signals"] or {}) | {
        "second_text": second.text,
        "second_agreement": found.segment,
    }
    for word, share in zip(words, found.words, strict=True):
        word["signals"] = (word["signals"] or {}) | {"second_agreement": share}


def _result(segment: dict[str, Any], answer: SegmentResult) -> dict[str, Any]:
    return {name: segment[name] for name, _ in SPAN} | asdict(answer)
