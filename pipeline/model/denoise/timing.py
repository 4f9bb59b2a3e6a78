"""When each word was spoken: CTC says in which audio slots, the sound says where in between a word ends.

CTC gives a token to one or two slots and a blank to the others, so its spans do not reach the words' borders. A border
is looked for between the last slot of a word and the first one of the next: at the quietest place there. A pause is as
long as it stays nearly that quiet.
"""

from __future__ import annotations

from itertools import groupby, pairwise

import numpy as np

from pipeline.audio.pcm import from_pcm
from pipeline.schemas import SAMPLE_RATE

FRAME_MS = 10
SMOOTHED = 3  # frames
QUIET = 10**0.6  # 6 dB above the quietest frame belong to a pause
PAUSE = 1e-2  # a quietest frame less than 20 dB below the loudest one of the segment is no pause, but speech goes on
CORE = 0.25  # of a slot, before and after the middle of each slot that has a token: it belongs to the word
FLOOR = 1e-4  # 40 dB below the loudest frame is as quiet as anything

Times = list[tuple[int, int]]


def word_times(slots: list[tuple[int, int]], pcm: bytes | memoryview, slot_ms: float) -> Times:
    """The beginning and the end of each word in milliseconds of its segment, in order and inside the segment.

    Args:
        slots: the first and the last audio slot of each word. Words of one token have the same; they share its time.
        pcm: of the segment, int16 little endian, 16 kHz.
        slot_ms: milliseconds of one audio slot. Slot n is what sounds around n x slot_ms: the projector's convolutions
            have one place of padding in front.
    """
    groups = [(slot, len(list(words))) for slot, words in groupby(slots)]
    power = _power(pcm)
    total = len(pcm) // 2 * 1000 // SAMPLE_RATE
    borders: list[float] = []  # end of a word, start of the next, and so on
    for number in range(len(groups) + 1):
        low = (groups[number - 1][0][1] + CORE) * slot_ms if number else 0.0
        high = (groups[number][0][0] - CORE) * slot_ms if number < len(groups) else float(total)
        borders += _quiet(power, low, high)
    ordered = np.maximum.accumulate(np.clip(borders, 0, total))[1:-1]
    times: Times = []
    for number, (_, words) in enumerate(groups):
        edges = np.linspace(ordered[2 * number], ordered[2 * number + 1], words + 1).round().astype(int).tolist()
        times += pairwise(edges)
    return times


def _power(pcm: bytes | memoryview) -> np.ndarray:
    """float32 [frames]: the mean square of frames of FRAME_MS, smoothed, but never below FLOOR of the loudest."""
    length = SAMPLE_RATE * FRAME_MS // 1000
    frames = max(1, -(-len(pcm) // 2 // length))
    power = np.square(from_pcm(pcm, frames * length)).reshape(frames, length).mean(axis=1)
    smooth = np.convolve(power, np.full(SMOOTHED, 1 / SMOOTHED), "same")
    floored: np.ndarray = np.maximum(smooth, FLOOR * smooth.max())
    return floored


def _quiet(power: np.ndarray, low: float, high: float) -> tuple[float, float]:
    """The ms at which the sound between two times in ms becomes quiet and loud again.

    Both are the quietest place where there is no pause, and the middle where the times are one.
    """
    first, last = round(low / FRAME_MS), min(round(high / FRAME_MS), len(power))
    if last - first < 2:
        middle = (low + high) / 2
        return middle, middle
    here = power[first:last]
    quietest = int(here.argmin())
    if here[quietest] > PAUSE * power.max():
        border = float((first + quietest) * FRAME_MS)
        return border, border
    loud = np.flatnonzero(here > QUIET * here[quietest])
    before, after = loud[loud < quietest], loud[loud > quietest]
    start = int(before[-1]) + 1 if len(before) else 0
    end = int(after[0]) if len(after) else len(here)
    return float((first + start) * FRAME_MS), float((first + end) * FRAME_MS)
