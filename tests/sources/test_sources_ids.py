"""The set of recording ids: it confuses none, and it stays small."""

from __future__ import annotations

import multiprocessing
import random
from concurrent.futures import ProcessPoolExecutor

from pipeline.sources.access.ids import IdSet
from tests.support.memory import peak_kilobytes, reset_peak_kilobytes


def test_an_id_is_new_once() -> None:
    ids, known = IdSet(), set()
    dice = random.Random(1)
    for _ in range(20_000):
        text = f"talks/{dice.randrange(8_000)}"
        assert ids.add(text) == (text not in known)
        known.add(text)
    assert len(ids) == len(known)


def test_half_a_million_ids_take_less_than_60_bytes_each() -> None:
    """While the set grows it has two tables. A process of its own counts, since other tests free memory in this one."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(bytes_of_ids, 500_000).result() < 60 * 500_000


def bytes_of_ids(count: int) -> int:
    before = reset_peak_kilobytes()
    ids = IdSet()
    for number in range(count):
        assert ids.add(f"a-long-name-of-a-folder/and-of-a-recording/{number}")
    return (peak_kilobytes() - before) * 1024
