"""Cuts recordings into windows of speech for the model. The same audio gives the same windows on every machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.audio.voice_activity import FRAME_SAMPLES, VoiceActivity
from pipeline.config import SegmentConfig
from pipeline.schemas import SAMPLE_RATE, SAMPLES_PER_MS

OVERLAP_SAMPLES = 300 * SAMPLES_PER_MS  # in both windows when speech is cut where it has no pause
HYSTERESIS = 0.15  # speech begins at the threshold and ends this far below it (Silero's own value)
METER_SAMPLES = 256 * FRAME_SAMPLES  # 8.2 s
LOWEST_THRESHOLD = 0.01  # probability below which a frame always ends speech
# A region that is too long is cut at a pause after 2/3 of the window, or else after 1/2 of it.
CUT_SEARCH = ((2, 3), (1, 2))


@dataclass(frozen=True, slots=True)
class Window:
    """Samples [start_sample, end_sample) at 16 kHz. overlaps_previous: it begins before the previous window ends."""

    start_sample: int
    end_sample: int
    overlaps_previous: bool = False


class PowerMeter:
    """Mean square of each frame of a recording that comes in blocks of any length."""

    def __init__(self) -> None:
        self._powers = [np.empty(0)]
        self._rest = np.empty(0, np.float32)  # samples of a frame that is not complete

    def add(self, block: np.ndarray) -> None:
        """block: float32 [samples], the next ones."""
        for start in range(0, len(block), METER_SAMPLES):  # few at a time: they are copied as float64
            samples = np.concatenate([self._rest, block[start : start + METER_SAMPLES]])
            whole = len(samples) // FRAME_SAMPLES * FRAME_SAMPLES
            frames = samples[:whole].reshape(-1, FRAME_SAMPLES)
            self._powers.append(np.square(frames, dtype=np.float64).mean(axis=1))
            self._rest = samples[whole:]

    def power(self) -> np.ndarray:
        """float64 [whole frames]."""
        return np.concatenate(self._powers)


class Segmenter:
    """Leaves out long silence and cuts speech into windows, by config.method. With vad=false everything is speech.

    max_seconds: the longest segment that the model takes; config.max_seconds may be shorter.
    """

    def __init__(self, config: SegmentConfig, max_seconds: float) -> None:
        self.config = config
        self.max_seconds = min(config.max_seconds, max_seconds)
        self.voice_activity = VoiceActivity() if config.vad else None

    def __call__(self, samples: np.ndarray) -> list[Window]:
        """The windows of a recording; none if it has no speech. samples: float32 [samples] of the whole recording."""
        return self.windows([samples])

    def windows(self, blocks: Iterable[np.ndarray]) -> list[Window]:
        """The same for a recording in blocks, as `decode.stream` yields them. Only figures of frames stay in memory."""
        total = 0
        meter = PowerMeter() if self.config.method == "quietest" else None

        def counted() -> Iterator[np.ndarray]:
            nonlocal total
            for block in blocks:
                total += len(block)
                if meter:
                    meter.add(block)
                yield block

        if self.voice_activity is not None:
            probabilities = self.voice_activity(counted())
            regions = speech_regions(probabilities, self.config)
        else:
            for _ in counted():
                pass  # only the length is needed
            probabilities = np.ones(-(-total // FRAME_SAMPLES), np.float32)
            regions = [(0, len(probabilities))] if total else []
        if meter:
            power = meter.power()
            return quietest_windows(regions, power, samples=total, config=self.config, max_seconds=self.max_seconds)
        return windows_from_regions(
            regions, probabilities, samples=total, config=self.config, max_seconds=self.max_seconds
        )


def windows_from_regions(
    regions: list[tuple[int, int]],
    probabilities: np.ndarray,
    *,
    samples: int,
    config: SegmentConfig,
    max_seconds: float,
) -> list[Window]:
    """Windows of at most max_seconds that cover all regions of a recording of `samples` samples.

    regions: of speech, as frames [first, end), in order. probabilities: float32 [ceil(samples / 512)] in [0, 1], one
    for each frame; not modified.

    1. Each region is padded by at most config.pad_ms on both sides. Two neighbours share a pause that is too short.
    2. From left to right, regions join the open window while it stays within the limit and the silence between them
       is at most config.join_ms.
    3. A region that is too long is cut at its least probable frame, if that is a pause. Otherwise it is cut at the
       limit; the next window then begins 300 ms before the cut and has overlaps_previous.
    """
    limit = int(max_seconds * SAMPLE_RATE)
    speech = [(first * FRAME_SAMPLES, min(end * FRAME_SAMPLES, samples)) for first, end in regions]
    padded = _padded(speech, samples, min(config.pad_ms * SAMPLES_PER_MS, limit // 4))
    windows: list[Window] = []
    # The open window; speech_end is where its speech ends without padding, -1 while no window is open.
    start, end, speech_end, overlaps = 0, 0, -1, False
    for (first, last), (padded_first, padded_last) in zip(speech, padded, strict=True):
        if speech_end >= 0 and first - speech_end <= config.join_ms * SAMPLES_PER_MS and padded_last - start <= limit:
            end, speech_end = padded_last, last
            continue
        if speech_end >= 0:
            windows.append(Window(start, end, overlaps))
        start, overlaps = padded_first, False
        while last - start > limit:
            cut, overlaps_next = _cut(probabilities, start, limit, _end_threshold(config))
            windows.append(Window(start, cut, overlaps))
            start, overlaps = cut - (OVERLAP_SAMPLES if overlaps_next else 0), overlaps_next
        end, speech_end = min(padded_last, start + limit), last
    if speech_end >= 0:
        windows.append(Window(start, end, overlaps))
    return windows


def quietest_windows(
    regions: list[tuple[int, int]], power: np.ndarray, *, samples: int, config: SegmentConfig, max_seconds: float
) -> list[Window]:
    """Windows of about config.target_seconds that do not overlap and cover all regions of a recording.

    regions: of speech, as frames [first, end), in order. power: float64 [samples // 512], mean square of each whole
    frame; not modified. Source: arXiv 2607.13013, which cuts the audio that diffusion-gemma-asr-small hears.

    1. Each region is padded by at most config.pad_ms on both sides.
    2. Regions with at most config.join_ms of silence between them are one stretch. Longer silence is left out.
    3. A stretch is cut at its quietest frame within search_seconds around target_seconds, then again from there. The
       two windows of a cut meet: no sample is in both, none is in neither.
    """
    search = round(config.search_seconds * SAMPLE_RATE)
    longest = min(int(max_seconds * SAMPLE_RATE), round(config.target_seconds * SAMPLE_RATE) + search // 2)
    search = min(search, longest // 2)  # a short window of the model leaves less room
    speech = [(first * FRAME_SAMPLES, min(end * FRAME_SAMPLES, samples)) for first, end in regions]
    padded = _padded(speech, samples, config.pad_ms * SAMPLES_PER_MS)
    stretches: list[tuple[int, int]] = []
    for index, (start, end) in enumerate(padded):
        if index and speech[index][0] - speech[index - 1][1] <= config.join_ms * SAMPLES_PER_MS:
            stretches[-1] = (stretches[-1][0], end)
        else:
            stretches.append((start, end))
    windows = []
    for start, end in stretches:
        while end - start > longest:
            first = -(-(start + longest - search) // FRAME_SAMPLES)
            candidates = power[first : (start + longest) // FRAME_SAMPLES]
            cut = (first + int(candidates.argmin())) * FRAME_SAMPLES + FRAME_SAMPLES // 2
            windows.append(Window(start, cut))
            start = cut
        windows.append(Window(start, end))
    return windows


def speech_regions(probabilities: np.ndarray, config: SegmentConfig) -> list[tuple[int, int]]:
    """The regions of speech in order, as frames [first, end).

    A region begins at a frame with a probability of vad_threshold or more. It ends at the first frame that is more than
    0.15 below the threshold, unless speech follows within min_silence_ms. Regions shorter than min_speech_ms are left
    out.
    """
    speech = np.flatnonzero(probabilities >= config.vad_threshold)
    if not len(speech):
        return []
    quiet = np.append(np.flatnonzero(probabilities < _end_threshold(config)), len(probabilities))
    ends = quiet[np.searchsorted(quiet, speech)]  # for each frame of speech: the first quiet frame after it
    silence = speech[1:] - ends[:-1]  # frames; negative if no frame between two frames of speech is quiet
    last = np.flatnonzero(silence * FRAME_SAMPLES >= config.min_silence_ms * SAMPLES_PER_MS)
    firsts = [int(speech[0]), *speech[last + 1].tolist()]
    region_ends = [*ends[last].tolist(), int(ends[-1])]
    shortest = config.min_speech_ms * SAMPLES_PER_MS
    return [(a, b) for a, b in zip(firsts, region_ends, strict=True) if (b - a) * FRAME_SAMPLES >= shortest]


def _end_threshold(config: SegmentConfig) -> float:
    """The probability below which a frame ends speech."""
    return max(config.vad_threshold - HYSTERESIS, LOWEST_THRESHOLD)


def _padded(regions: list[tuple[int, int]], samples: int, pad: int) -> list[tuple[int, int]]:
    """The regions, in samples, with up to `pad` samples more on both sides.

    A region takes at most half of the gap to its neighbour, and stays inside the recording of `samples` samples.
    """
    grown = []
    for index, (first, last) in enumerate(regions):
        # Twice the distance to the recording's ends: half of it is the distance itself.
        before = first - regions[index - 1][1] if index else 2 * first
        after = regions[index + 1][0] - last if index + 1 < len(regions) else 2 * (samples - last)
        grown.append((first - min(pad, before // 2), last + min(pad, after // 2)))
    return grown


def _cut(probabilities: np.ndarray, start: int, limit: int, end_threshold: float) -> tuple[int, bool]:
    """The sample at which to end a window that begins at `start`, and whether speech goes on there without a pause."""
    for numerator, denominator in CUT_SEARCH:
        first = -(-(start + limit * numerator // denominator) // FRAME_SAMPLES)
        candidates = probabilities[first : (start + limit) // FRAME_SAMPLES]
        if len(candidates) and candidates.min() < end_threshold:
            lowest = first + len(candidates) - 1 - int(candidates[::-1].argmin())  # of equal frames the last one
            return lowest * FRAME_SAMPLES + FRAME_SAMPLES // 2, False
    return start + limit, True


def piece_end(windows: list[Window], samples: int, config: SegmentConfig) -> tuple[int, int, bool]:
    """Where to end a piece in audio that is longer than `samples`, so that no word is lost or cut.

    windows: the windows of the first `samples` samples. None of them is longer than half of these samples.

    Returns three values: how many of the windows belong to this piece; the sample with which the next piece begins, a
    whole number of milliseconds; whether the first window of the next piece overlaps the last window of this one.

    A window that the audio behind might still lengthen goes to the next piece, unless it begins in the first half. So
    does a window that the following window overlaps, unless speech goes on without a pause for half of the samples.
    """
    longest_gap = (config.join_ms + 2 * config.pad_ms + config.min_silence_ms) * SAMPLES_PER_MS
    if not windows or windows[-1].end_sample <= samples - longest_gap:
        # Before the end there may be padding, or the beginning of speech that is still too short to be a region.
        lead = max(config.pad_ms, config.min_speech_ms) * SAMPLES_PER_MS
        return len(windows), _whole_ms(samples - lead), False
    for final in range(len(windows) - 1, -1, -1):
        if not windows[final].overlaps_previous and windows[final].start_sample >= samples // 2:
            return final, _whole_ms(windows[final].start_sample), False
    if windows[-1].overlaps_previous:
        return len(windows) - 1, _whole_ms(windows[-1].start_sample), True
    return len(windows), _whole_ms(windows[-1].end_sample), False


def _whole_ms(samples: int) -> int:
    """Rounded down to a whole number of milliseconds."""
    return samples // SAMPLES_PER_MS * SAMPLES_PER_MS
