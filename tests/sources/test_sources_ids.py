"""The set of recording ids: it confuses none, and it stays small."""

from __future__ import annotations

import multiprocessing
import random
from concurrent.futures import ProcessPoolExecutor

import pytest

from pipeline.sources.access import ids as ids_module
from pipeline.sources.access.ids import IdSet
from tests.support.memory import AnonymousPeak, peak_kilobytes, reset_peak_kilobytes


@pytest.mark.parametrize("memory_words", [1 << 23, 2048])
def test_an_id_is_new_once(memory_words: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids_module, "MEMORY_WORDS", memory_words)
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


def test_a_large_set_is_on_disk_and_takes_no_memory_of_its_own() -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        table = 16 * (1 << 19)  # the smallest with room for 300,000
        assert pool.submit(heap_of_ids, 300_000).result() < table / 4


def heap_of_ids(count: int) -> int:
    ids_module.MEMORY_WORDS = 2048
    ids = IdSet()
    with AnonymousPeak() as peak:
        for number in range(count):
            assert ids.add(str(number))
    return peak.grown_bytes


def bytes_of_ids(count: int) -> int:
    before = reset_peak_kilobytes()
    ids = IdSet()
    for number in range(count):
        assert ids.add(f"a-long-name-of-a-folder/and-of-a-recording/{number}")
    return (peak_kilobytes() - before) * 1024
