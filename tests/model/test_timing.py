"""Times of words: in order, inside the segment, and at the edges of what is heard."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.model.denoise.timing import word_times

SLOT_MS = 160


def pcm_of(*parts: tuple[int, bool]) -> bytes:
    """(milliseconds, whether a tone sounds) in order, as int16 at 16 kHz."""
    sound = [np.sin(np.arange(16 * ms) * 0.3) * 8000 * loud for ms, loud in parts]
    return np.concatenate(sound).astype("<i2").tobytes()


def test_words_begin_and_end_with_their_sound() -> None:
    """CTC marks one slot inside of each word: 320 ms and 960 ms."""
    pcm = pcm_of((200, False), (300, True), (250, False), (400, True), (150, False))
    (first, second) = word_times([(2, 2), (6, 6)], pcm, SLOT_MS)
    for found, wanted in zip((*first, *second), (200, 500, 750, 1150), strict=True):
        assert abs(found - wanted) <= 20


def test_words_without_a_pause_part_at_the_quietest_place() -> None:
    """The tone is equally loud everywhere but for a dip of 10 ms at 400 ms, which is no pause."""
    pcm = pcm_of((400, True), (10, False), (590, True))
    (_, end), (start, _) = word_times([(1, 1), (4, 4)], pcm, SLOT_MS)
    assert end == start
    assert abs(end - 405) <= 20


def test_words_of_one_token_share_its_time() -> None:
    pcm = pcm_of((200, False), (400, True), (400, False))
    first, second = word_times([(2, 2), (2, 2)], pcm, SLOT_MS)
    assert first[1] == second[0]
    assert abs((first[1] - first[0]) - (second[1] - second[0])) <= 1


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.data(), st.integers(0, 16 * 1500), st.integers(0, 99))
def test_times_are_in_order_and_inside_the_segment(data: st.DataObject, samples: int, seed: int) -> None:
    """Also where words share tokens, so that their slots overlap, and where slots lie behind the sound."""
    starts = sorted(data.draw(st.lists(st.integers(0, 12), max_size=8)))
    slots = [(start, start + data.draw(st.integers(0, 3))) for start in starts]
    noise = np.random.default_rng(seed).normal(size=samples) * np.linspace(0, 9000, samples)
    times = word_times(slots, noise.astype("<i2").tobytes(), SLOT_MS)
    assert len(times) == len(slots)
    edges = list(itertools.chain.from_iterable(times))
    assert edges == sorted(edges)
    assert all(0 <= edge <= samples / 16 for edge in edges)
