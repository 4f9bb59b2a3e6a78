"""Bundles: neighbouring units that travel through the chain together.

A task costs Ray's driver about 4 ms and some memory, whatever is in it. So the unit of scheduling is a bundle, while
the unit of commit stays the unit. A bundle is one block of Ray Data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial, update_wrapper
from typing import Any

import pyarrow as pa
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata

MAX_UNITS = 32
MAX_SECONDS = 3_600.0  # of audio, as planned: 115 MB of samples, if all of it is speech
SHARES = 8  # a bundle is at most this part of one worker's share of what is left
TASK_UNITS = 5_000  # at most, that one task hands out in their bundles: 200 kB; Ray warns of 1 MiB


class Bundles(Datasource):
    """Hands out `in_bundles` as blocks of `as_block`, by tasks that run while the chain runs.

    from_arrow costs the driver 3 ms and 44 kB for each block, and all of them before the first begins.
    """

    def __init__(self, units: pa.Table, seconds: Sequence[float], workers: int) -> None:
        super().__init__()
        self.tasks: list[list[pa.Table]] = []
        count = TASK_UNITS
        for bundle in in_bundles(units, seconds, workers):
            if count + len(bundle) > TASK_UNITS:
                self.tasks.append([])
                count = 0
            self.tasks[-1].append(bundle)
            count += len(bundle)

    def estimate_inmemory_data_size(self) -> int:
        return sum(map(_size, self.tasks))

    def get_read_tasks(self, *_: Any, **__: Any) -> list[ReadTask]:
        return [ReadTask(_handing_out(task), BlockMetadata(len(task), _size(task), None, None)) for task in self.tasks]


def _size(bundles: list[pa.Table]) -> int:
    return sum(bundle.nbytes for bundle in bundles)


def _handing_out(bundles: list[pa.Table]) -> Callable[[], Iterator[pa.Table]]:
    """`_blocks` of these bundles. It has a name, which Ray wants for its warnings."""
    units = as_block(pa.concat_tables(bundles).combine_chunks())
    return update_wrapper(partial(_blocks, units, list(map(len, bundles))), _blocks)


def _blocks(units: pa.Table, lengths: list[int]) -> Iterator[pa.Table]:
    """Blocks of neighbouring units. units: a block that has all of them. lengths: how many units each block takes."""
    rows, first = rows_of(units), 0
    for length in lengths:
        yield as_block(rows.slice(first, length))
        first += length


def in_bundles(units: pa.Table, seconds: Sequence[float], workers: int) -> Iterator[pa.Table]:
    """The units in order, as slices. The bundles become smaller towards the end, so that all workers end together.

    seconds: of audio of each unit, as planned. workers: processes of the widest stage. With fewer than 2 * SHARES units
    for each of them, a bundle is one unit.
    """
    first = 0
    while first < len(units):
        most = max(1, min(MAX_UNITS, (len(units) - first) // (SHARES * workers)))
        end, total = first + 1, seconds[first]
        while end < first + most and total + seconds[end] <= MAX_SECONDS:
            total += seconds[end]
            end += 1
        yield units.slice(first, end - first)
        first = end


def as_block(rows: pa.Table) -> pa.Table:
    """A table of one row that contains all these rows, as Arrow's stream format.

    Ray's driver looks at the schema of every block and keeps its statistics; with one column of bytes they are small.
    """
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as stream:
        stream.write_table(rows)
    content = sink.getvalue()
    offsets = pa.array([0, content.size], pa.int64()).buffers()[1]
    return pa.table({"rows": pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, content])})


def rows_of(block: pa.Table) -> pa.Table:
    """The rows that `as_block` has put into a block. They are not copied."""
    return pa.ipc.open_stream(block["rows"][0].as_buffer()).read_all()
