"""Batches: every recording once an epoch, short canvases for short texts, noise from the seed."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.training.adapter_config import AudioAugment
from pipeline.training.batches import Batches, Inputs, audio_windows
from tests.support.small_model import WORDS, small_tokenizer

TOKENIZER = small_tokenizer()
EOS = 1
TEXTS = [" ".join(WORDS[i : i + 1 + i % 5]) for i in range(30)]  # one to five words
SLOTS = [1 + row % 7 for row in range(30)]  # audio slots with sound
CLEAN = AudioAugment(noise_share=0.0)


class Recordings:
    """Recordings of 0.5 s, like `examples.Examples`."""

    texts = TEXTS
    languages = ["en", None] * 15

    def pcm(self, row: int) -> bytes:
        rng = np.random.default_rng(row)
        return (rng.normal(size=8000) * 2000).astype("<i2").tobytes()


def audio(augment: AudioAugment) -> Inputs:
    recordings: Any = Recordings()
    return audio_windows(recordings, window_samples=16_000, augment=augment, seed=0)


def batches(**changes: Any) -> Batches:
    settings: dict[str, Any] = {
        "canvas_length": 16,
        "batch": 4,
        "seed": 0,
        "eos": EOS,
        "canvas_step": 4,
    }
    return Batches(TEXTS, Recordings.languages, audio(CLEAN), SLOTS, TOKENIZER, **(settings | changes))


def made_rows(made: Batches, first: int = 0) -> list[list[int]]:
    """The rows of the seven batches of an epoch."""
    return [made.at(number)[0] for number in range(first, first + 7)]


def test_an_epoch_has_every_recording_once_except_a_rest_smaller_than_a_batch() -> None:
    made = batches()
    counts = Counter(row for number in range(7) for row in made.at(number)[0])  # 30 rows: 7 batches of 4
    assert set(counts.values()) == {1}
    assert len(counts) == 28
    assert made.at(7) != made.at(0)  # another order in the next epoch


def test_a_batch_is_the_same_whenever_it_is_asked_for() -> None:
    one, other = batches(), batches()
    expected = [one.at(number) for number in range(20)]
    assert [other.at(number) for number in reversed(range(20))] == expected[::-1]
    assert [batches(seed=1).at(number) for number in range(20)] != expected


def test_a_canvas_is_the_longest_text_and_its_end_rounded_up() -> None:
    made = batches()
    canvases = set()
    for number in range(7):
        rows, canvas = made.at(number)
        longest = max(len(made.tokens[row]) for row in rows)
        assert canvas == min(16, -(-(longest + 1) // 4) * 4)
        canvases.add(canvas)
    assert len(canvases) > 1


def test_recordings_of_like_length_share_a_batch() -> None:
    made = batches(canvas_step=None)
    spread = [max(SLOTS[row] for row in rows) - min(SLOTS[row] for row in rows) for rows in made_rows(made)]
    assert max(spread) <= 2  # of 1 to 7 slots
    assert {tuple(rows) for rows in made_rows(made)} != {tuple(rows) for rows in made_rows(made, 7)}, "another epoch"


def test_texts_of_like_length_share_a_batch() -> None:
    made = batches()
    mixed = sum(len({made.canvas_of(row) for row in made.at(number)[0]}) > 1 for number in range(7))
    assert mixed <= 3  # only where one length ends and the next begins


@pytest.mark.parametrize("changes", [{"canvas_step": None}, {"full_canvas_share": 1.0}])
def test_canvases_are_full_where_the_settings_say_so(changes: dict[str, Any]) -> None:
    made = batches(**changes)
    assert {made.at(number)[1] for number in range(7)} == {16}


def test_texts_that_do_not_fit_the_canvas_with_their_end_are_counted() -> None:
    made = batches(canvas_length=4)
    fitting = [row for row, text in enumerate(TEXTS) if len(TOKENIZER.encode(text).ids) < 4]
    assert made.rows == fitting
    assert made.too_long == 30 - len(fitting) > 0


def test_fewer_recordings_than_a_batch_come_several_times() -> None:
    rows, _ = batches(batch=70).at(0)
    assert len(rows) == 70
    assert set(Counter(rows).values()) == {2, 3}


def test_targets_are_text_then_end_tokens() -> None:
    made = batches()
    batch = made.of([3, 0], 12, 0)
    assert batch.text_lengths.tolist() == [len(made.tokens[3]), len(made.tokens[0])]
    for targets, row in zip(batch.targets_BC.tolist(), (3, 0), strict=True):
        assert targets == made.tokens[row] + [EOS] * (12 - len(made.tokens[row]))
    assert batch.languages == [None, "en"]
    assert batch.real_slots.tolist() == [SLOTS[3], SLOTS[0]]
    assert batch.inputs.shape == (2, 16_000)
    assert not bool(batch.inputs[:, 8000:].any())


def test_the_fill_behind_the_end_token_can_be_another_token() -> None:
    made = batches(fill=0)
    batch = made.of([3, 0], 12, 0)
    for targets, row in zip(batch.targets_BC.tolist(), (3, 0), strict=True):
        assert targets == [*made.tokens[row], EOS] + [0] * (11 - len(made.tokens[row]))


def test_noise_depends_on_seed_batch_and_recording_alone() -> None:
    loud = audio(AudioAugment(noise_share=1.0))
    one = loud([3, 4], 5)
    assert torch.equal(loud([4, 9], 5)[0], one[1])  # the other rows of the batch do not matter
    assert not torch.equal(loud([3], 6)[0], one[0])
    assert not torch.equal(audio(CLEAN)([3], 5)[0], one[0])
