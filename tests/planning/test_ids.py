"""The set of recording ids: it confuses none, and it stays small."""

from __future__ import annotations

import random

from pipeline.planning.ids import IdSet
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
    """Twice as many slots as before while the set grows, and the ones before."""
    before = reset_peak_kilobytes()
    ids = IdSet()
    for number in range(500_000):
        assert ids.add(f"a-long-name-of-a-folder/and-of-a-recording/{number}")
    assert (peak_kilobytes() - before) * 1024 < 60 * 500_000
