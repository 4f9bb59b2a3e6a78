"""Recordings cut into windows of speech for the model: integer samples, the same for the same audio everywhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.audio.voice_activity import FRAME_SAMPLES, VoiceActivity
from pipeline.config import SegmentConfig
from pipeline.schemas import SAMPLE_RATE

SAMPLES_PER_MS = SAMPLE_RATE // 1000
MERGE_GAP_SAMPLES = 600 * SAMPLES_PER_MS  # regions of speech further apart are never one window
OVERLAP_SAMPLES = 300 * SAMPLES_PER_MS  # heard twice where a window had to be cut inside running speech
HYSTERESIS = 0.15  # speech begins at the threshold and ends this far below it (Silero's own value)
# A region that is too long is cut at a pause in the last third of the window, or else in its last half.
CUT_SEARCH = ((2, 3), (1, 2))


@dataclass(frozen=True, slots=True)
class Window:
    """[start_sample, end_sample) at 16 kHz. overlaps_previous: it begins before the end of the window before it."""

    start_sample: int
    end_sample: int
    overlaps_previous: bool = False


class Segmenter:
    """Holds the voice-activity model, if `config.vad` wants one. `max_seconds` is the model's own window."""

    def __init__(self, config: SegmentConfig, max_seconds: float) -> None:
        self.config = config
        self.max_seconds = min(config.max_seconds, max_seconds)
        self.voice_activity = VoiceActivity() if config.vad else None

    def __call__(self, samples: np.ndarray) -> list[Window]:
        """samples: float32 [samples] of a whole recording. Silence only: an empty list."""
        return self.windows([samples])

    def windows(self, blocks: Iterable[np.ndarray]) -> list[Window]:
        """As `__call__` for a recording in blocks (`audio.stream`): nothing but the probabilities is kept."""
        total = 0

        def counted() -> Iterator[np.ndarray]:
            nonlocal total
            for block in blocks:
                total += len(block)
                yield block

        if self.voice_activity is not None:
            probabilities = self.voice_activity(counted())
            regions = speech_regions(probabilities, self.config)
        else:
            for _ in counted():
                pass
            probabilities = np.ones(-(-total // FRAME_SAMPLES), np.float32)
            regions = [(0, len(probabilities))] if total else []
        return windows_from_regions(
            regions, probabilities, samples=total, config=self.config, max_seconds=self.max_seconds
        )


def windows_from_probabilities(
    probabilities: np.ndarray, *, samples: int, config: SegmentConfig, max_seconds: float
) -> list[Window]:
    """Windows of at most max_seconds that cover all speech of a recording of `samples` samples.

    probabilities: float32 [ceil(samples / 512)] in [0, 1], not modified.
    """
    regions = speech_regions(probabilities, config)
    return windows_from_regions(regions, probabilities, samples=samples, config=config, max_seconds=max_seconds)


def windows_from_regions(
    regions: list[tuple[int, int]],
    probabilities: np.ndarray,
    *,
    samples: int,
    config: SegmentConfig,
    max_seconds: float,
) -> list[Window]:
    """As `windows_from_probabilities` where the regions of speech, [first, end) frames in order, are known.

    They are padded by at most config.pad_ms (neighbours share a short pause), then merged from the left while they fit
    and the silence between them is at most 600 ms. A region that is too long is cut at its least probable frame, if
    that is a pause; else at the limit, and the next window begins 300 ms before that and says so.
    """
    limit = int(max_seconds * SAMPLE_RATE)
    speech = [(first * FRAME_SAMPLES, min(end * FRAME_SAMPLES, samples)) for first, end in regions]
    padded = _padded(speech, samples, min(config.pad_ms * SAMPLES_PER_MS, limit // 4))
    windows: list[Window] = []
    start, end, speech_end, overlaps = 0, 0, -1, False  # the window that is still open, if speech_end >= 0
    for (first, last), (padded_first, padded_last) in zip(speech, padded, strict=True):
        if speech_end >= 0 and first - speech_end <= MERGE_GAP_SAMPLES and padded_last - start <= limit:
            end, speech_end = padded_last, last
            continue
        if speech_end >= 0:
            windows.append(Window(start, end, overlaps))
        start, overlaps = padded_first, False
        while last - start > limit:
            cut, overlaps_next = _cut(probabilities, start, limit, _quietest(config))
            windows.append(Window(start, cut, overlaps))
            start, overlaps = cut - (OVERLAP_SAMPLES if overlaps_next else 0), overlaps_next
        end, speech_end = min(padded_last, start + limit), last
    if speech_end >= 0:
        windows.append(Window(start, end, overlaps))
    return windows


def speech_regions(probabilities: np.ndarray, config: SegmentConfig) -> list[tuple[int, int]]:
    """[first, end) frames of each region of speech, in order.

    A region begins at a frame of at least vad_threshold. It ends at the first frame 0.15 below that, if no speech
    follows within min_silence_ms. Regions shorter than min_speech_ms are dropped.
    """
    speech = np.flatnonzero(probabilities >= config.vad_threshold)
    if not len(speech):
        return []
    quiet = np.append(np.flatnonzero(probabilities < _quietest(config)), len(probabilities))
    ends = quiet[np.searchsorted(quiet, speech)]  # per frame of speech: the first quiet frame after it
    silence = speech[1:] - ends[:-1]  # negative where no frame between two of speech is quiet
    last = np.flatnonzero(silence * FRAME_SAMPLES >= config.min_silence_ms * SAMPLES_PER_MS)
    firsts = [int(speech[0]), *speech[last + 1].tolist()]
    region_ends = [*ends[last].tolist(), int(ends[-1])]
    shortest = config.min_speech_ms * SAMPLES_PER_MS
    return [(a, b) for a, b in zip(firsts, region_ends, strict=True) if (b - a) * FRAME_SAMPLES >= shortest]


def _quietest(config: SegmentConfig) -> float:
    """Below this a frame ends speech."""
    return max(config.vad_threshold - HYSTERESIS, 0.01)


def _padded(regions: list[tuple[int, int]], samples: int, pad: int) -> list[tuple[int, int]]:
    """Each region grown by `pad` samples on both sides, to half of a shorter gap, and to the recording's ends."""
    grown = []
    for index, (first, last) in enumerate(regions):
        before = first - regions[index - 1][1] if index else 2 * first
        after = regions[index + 1][0] - last if index + 1 < len(regions) else 2 * (samples - last)
        grown.append((first - min(pad, before // 2), last + min(pad, after // 2)))
    return grown


def _cut(probabilities: np.ndarray, start: int, limit: int, quietest: float) -> tuple[int, bool]:
    """Where to end a window that begins at `start`, and whether that is inside running speech."""
    for numerator, denominator in CUT_SEARCH:
        first = -(-(start + limit * numerator // denominator) // FRAME_SAMPLES)
        part = probabilities[first : (start + limit) // FRAME_SAMPLES]
        if len(part) and part.min() < quietest:
            lowest = first + len(part) - 1 - int(part[::-1].argmin())  # the last one of equals
            return lowest * FRAME_SAMPLES + FRAME_SAMPLES // 2, False
    return start + limit, True


def piece_end(windows: list[Window], samples: int, config: SegmentConfig) -> tuple[int, int, bool]:
    """Where audio that goes on behind its first `samples` may be cut in two, so that no word is lost or cut.

    windows: those of the first `samples`; none is longer than half of them. Returns three values: how many windows are
    final, the sample that the rest begins with (a whole number of milliseconds), and whether the first window of the
    rest overlaps the last final one. A window that more speech might lengthen is not final. A window whose end the next
    window repeats is not final either, unless speech goes on without a pause for half of the samples.
    """
    longest_gap = MERGE_GAP_SAMPLES + (2 * config.pad_ms + config.min_silence_ms) * SAMPLES_PER_MS
    if not windows or windows[-1].end_sample <= samples - longest_gap:
        lead = max(config.pad_ms, config.min_speech_ms) * SAMPLES_PER_MS  # speech that was too short yet to be seen
        return len(windows), _whole_ms(samples - lead), False
    for final in range(len(windows) - 1, -1, -1):
        if not windows[final].overlaps_previous and windows[final].start_sample >= samples // 2:
            return final, _whole_ms(windows[final].start_sample), False
    return len(windows) - 1, _whole_ms(windows[-1].start_sample), True


def _whole_ms(samples: int) -> int:
    return samples // SAMPLES_PER_MS * SAMPLES_PER_MS
