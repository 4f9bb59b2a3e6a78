"""The recordings of a unit, read in their order: the next ones are fetched while the caller decodes one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from functools import partial

from pipeline.schemas import Recording, RecordingRef
from pipeline.sources import webdataset
from pipeline.sources.formats import are_read_forwards, read_neighbours, read_recording
from pipeline.storage.background import workers
from pipeline.storage.ranges import WAITING_BYTES, read_ahead

NEIGHBOUR_BYTES = 8 << 20  # neighbours in an archive or table that are read together, at most
UNKNOWN_BYTES = 8 << 20  # a recording counts so much where the source does not say its size; it may have WHOLE_BYTES


def read_in_order(refs: Sequence[RecordingRef], ahead: int) -> Generator[Callable[[], Recording], None, None]:
    """Yield for each ref, in order, a function that returns its recording and raises as `read_recording`.

    Call it before the next one is taken. Up to `ahead` readings are done in advance, if together they have at most
    WAITING_BYTES. A reading is one recording, or neighbours in one archive or table.

    An error in advance counts for nothing: the recording is read again at its turn. So which recordings have a problem,
    and which error of the store ends the run, does not depend on `ahead`.
    """
    waiting: deque[_Reading] = deque()
    coming = _readings(refs)
    upcoming = next(coming, None)
    try:
        while upcoming or waiting:
            while upcoming and len(waiting) <= ahead and _has_room(waiting, upcoming):
                upcoming.start(ahead)
                waiting.append(upcoming)
                upcoming = next(coming, None)
            for index in range(len(waiting[0].refs)):
                yield partial(waiting[0].take, index, ahead)
            waiting.popleft()
    finally:
        for reading in waiting:
            reading.drop()


class _Reading:
    """What is read together: one recording, or neighbours in one archive or table that were joined to it."""

    def __init__(self, ref: RecordingRef) -> None:
        self.refs = [ref]
        self.extent = webdataset.extent(ref)
        self.unwanted = 0  # bytes between the neighbours
        self.bytes = ref.size or UNKNOWN_BYTES
        self.done: Future[dict[int, Recording]] | None = None  # by index; None: not in advance

    def join(self, ref: RecordingRef) -> bool:
        """Add a recording if it is a neighbour and there is room for it."""
        first = self.refs[0]
        if ref.source_member is None or ref.problem or first.problem:
            return False
        if (ref.source_uri, ref.version, ref.format) != (first.source_uri, first.version, first.format):
            return False
        extent, size = webdataset.extent(ref), self.bytes + ref.size
        if self.extent and extent:
            start, end = min(self.extent[0], extent[0]), max(self.extent[1], extent[1])
            size = end - start
            self.unwanted += size - (self.extent[1] - self.extent[0]) - (extent[1] - extent[0])
            if self.unwanted > webdataset.SPAN_BYTES:
                return False
            extent = start, end
        elif not are_read_forwards(ref):
            return False
        if size > NEIGHBOUR_BYTES:
            return False
        self.refs.append(ref)
        self.extent, self.bytes = extent, size
        return True

    def start(self, ahead: int) -> None:
        """Begin to read, if it is not too much to wait."""
        if self.bytes > WAITING_BYTES or self.refs[0].problem is not None:
            return
        if are_read_forwards(self.refs[0]):
            self.done = workers(1).submit(partial(read_neighbours, self.refs))
        elif len(self.refs) > 1 or self.extent:
            self.done = workers(ahead).submit(partial(read_neighbours, self.refs))
        else:
            self.done = workers(ahead).submit(lambda: {0: read_recording(self.refs[0])})

    def take(self, index: int, ahead: int) -> Recording:
        """Return a recording. What could not be read in advance is read now."""
        done = {} if self.done is None or self.done.exception() else self.done.result()
        read = done.pop(index, None) or read_recording(self.refs[index])
        if not isinstance(read.audio, bytes):
            read_ahead(read.audio, ahead)
        return read

    def drop(self) -> None:
        """Close what nobody has taken, as soon as it is read."""
        if self.done is not None and not self.done.cancel():
            self.done.add_done_callback(_close)


def _close(done: Future[dict[int, Recording]]) -> None:
    if not done.exception():
        for recording in done.result().values():
            recording.close()


def _has_room(waiting: Sequence[_Reading], upcoming: _Reading) -> bool:
    return not waiting or sum(one.bytes for one in waiting) + upcoming.bytes <= WAITING_BYTES


def _readings(refs: Sequence[RecordingRef]) -> Iterator[_Reading]:
    """Join the recordings to readings."""
    reading: _Reading | None = None
    for ref in refs:
        if reading is None or not reading.join(ref):
            if reading:
                yield reading
            reading = _Reading(ref)
    if reading:
        yield reading
