"""Windows of speech: their lengths, cuts and overlaps; the same for the same audio."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.audio.segment import (
    Segmenter,
    Window,
    quietest_windows,
    speech_regions,
    windows_from_regions,
)
from pipeline.audio.voice_activity import FRAME_SAMPLES
from pipeline.config import SegmentConfig
from tests.support.speech import spoken

SECOND = 16_000
SENTENCES = {
    "en-us": "good morning to all of you",
    "de": "guten Morgen an alle zusammen",
    "fr-fr": "bonjour à tous et à toutes",
    "es": "buenos días a todos ustedes",
    "hi": "आप सभी को सुप्रभात",
    "cmn": "大家早上好",
}


def track(*runs: tuple[float, float]) -> np.ndarray:
    """Probabilities from (seconds, probability) runs; 1 s is 31.25 frames."""
    return np.concatenate([np.full(round(seconds * 31.25), value, np.float32) for seconds, value in runs])


def windows(probabilities: np.ndarray, max_seconds: float = 6.0, **config: float) -> list[tuple[float, float, bool]]:
    """Windows in seconds, for reading."""
    settings = SegmentConfig(**config)
    cut = windows_from_regions(
        speech_regions(probabilities, settings),
        probabilities,
        samples=len(probabilities) * FRAME_SAMPLES,
        config=settings,
        max_seconds=max_seconds,
    )
    return [(w.start_sample / SECOND, w.end_sample / SECOND, w.overlaps_previous) for w in cut]


def test_regions_begin_at_the_threshold_and_end_after_enough_silence() -> None:
    probabilities = np.array(
        [0.4, 0.6, 0.9, 0.4, 0.9, *[0.1] * 9, 0.9, *[0.1] * 10, 0.9, 0.9, 0.9, 0.9, 0.1], np.float32
    )
    # 0.4 is above 0.35, so it does not end a region; 9 quiet frames are 288 ms, 10 are 320 ms
    assert speech_regions(probabilities, SegmentConfig(min_silence_ms=300)) == [(1, 15), (25, 29)]


def test_short_noises_are_not_speech() -> None:
    probabilities = track((1, 0), (0.096, 1), (1, 0), (0.16, 1), (1, 0))
    assert speech_regions(probabilities, SegmentConfig(min_speech_ms=100)) == [(65, 70)]


def test_silence_gives_no_window() -> None:
    assert windows(track((20, 0.1))) == []
    assert windows(np.zeros(0, np.float32)) == []


def test_speech_is_padded_but_never_beyond_the_recording() -> None:
    assert windows(track((1.28, 0), (1.28, 1), (1.28, 0)), pad_ms=200) == [(1.08, 2.76, False)]
    assert windows(track((0.032, 0), (1.28, 1), (0.032, 0)), pad_ms=200) == [(0.0, 1.344, False)]


def test_regions_are_merged_only_across_short_gaps() -> None:
    assert windows(track((0.96, 1), (0.576, 0), (0.96, 1)), pad_ms=0) == [(0.0, 2.496, False)]
    assert windows(track((0.96, 1), (0.64, 0), (0.96, 1)), pad_ms=0) == [(0.0, 0.96, False), (1.6, 2.56, False)]
    assert windows(track((0.96, 1), (0.64, 0), (0.96, 1)), pad_ms=0, join_ms=640) == [(0.0, 2.56, False)]


def test_regions_are_merged_while_they_fit() -> None:
    speech = [(1.92, 1.0), (0.48, 0.0)] * 4
    assert windows(track(*speech), pad_ms=0) == [(0.0, 4.32, False), (4.8, 9.12, False)]
    assert windows(track(*speech), max_seconds=7.0, pad_ms=0) == [(0.0, 6.72, False), (7.2, 9.12, False)]


def test_two_regions_share_a_gap_that_is_too_short_for_both_pads() -> None:
    assert windows(track((4.8, 1), (0.32, 0), (4.8, 1)), pad_ms=1000) == [(0.0, 4.96, False), (4.96, 9.92, False)]


def test_a_long_region_is_cut_at_its_pause() -> None:
    """The pause is frame 160: its middle is sample 160.5 * 512."""
    probabilities = track((10.24, 1))
    probabilities[160] = 0.2
    probabilities[165] = 0.3
    assert windows(probabilities) == [(0.0, 5.136, False), (5.136, 10.24, False)]


def test_a_pause_in_the_last_half_is_better_than_a_hard_cut() -> None:
    probabilities = track((8, 1))
    probabilities[100] = 0.1
    assert windows(probabilities) == [(0.0, 3.216, False), (3.216, 8.0, False)]


def test_without_a_pause_the_cut_is_hard_and_both_windows_have_300_ms() -> None:
    assert windows(track((16, 1))) == [(0.0, 6.0, False), (5.7, 11.7, True), (11.4, 16.0, True)]


def test_a_dip_above_the_lower_threshold_is_not_a_pause() -> None:
    probabilities = track((8, 1))
    probabilities[150] = 0.36
    assert windows(probabilities)[1][2]


def test_the_rest_of_a_cut_region_is_merged_with_what_follows() -> None:
    probabilities = track((7.04, 1), (0.48, 0), (1.92, 1))
    assert windows(probabilities, pad_ms=0) == [(0.0, 6.0, False), (5.7, 9.44, True)]


def test_without_voice_activity_windows_are_fixed() -> None:
    segmenter = Segmenter(SegmentConfig(vad=False), max_seconds=6.0)
    cut = segmenter(np.zeros(14 * SECOND + 7, np.float32))
    assert cut == [Window(0, 96_000), Window(91_200, 187_200, True), Window(182_400, 224_007, True)]
    assert segmenter(np.zeros(0, np.float32)) == []
    assert segmenter(np.zeros(100, np.float32)) == [Window(0, 100)]


def test_the_smaller_of_both_limits_applies() -> None:
    samples = np.zeros(10 * SECOND, np.float32)
    by_config = Segmenter(SegmentConfig(vad=False, max_seconds=2), max_seconds=6.0)(samples)
    by_model = Segmenter(SegmentConfig(vad=False, max_seconds=30), max_seconds=2.0)(samples)
    assert by_config == by_model
    assert max(w.end_sample - w.start_sample for w in by_model) == 2 * SECOND


RUN = st.tuples(st.integers(1, 400), st.sampled_from([0.0, 0.2, 0.34, 0.36, 0.49, 0.5, 0.8, 1.0]))
NOISE = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).random(800).astype(np.float32))
RUNS = st.lists(RUN, max_size=20).map(
    lambda runs: np.concatenate([np.zeros(0, np.float32), *(np.full(n, p, np.float32) for n, p in runs)])
)


@settings(max_examples=250, deadline=None)
@given(
    RUNS | NOISE,
    st.integers(0, FRAME_SAMPLES - 1),
    st.sampled_from([1.0, 2.5, 6.0, 30.0]),
    st.sampled_from([0, 30, 200, 2000]),
    st.sampled_from([32, 300, 1000]),
)
@example(np.ones(2000, np.float32), 0, 1.0, 2000, 32)
def test_windows_of_any_audio_are_bounded_ordered_and_cover_all_speech(
    probabilities: np.ndarray, missing: int, max_seconds: float, pad_ms: int, min_silence_ms: int
) -> None:
    config = SegmentConfig(pad_ms=pad_ms, min_silence_ms=min_silence_ms)
    samples = max(0, len(probabilities) * FRAME_SAMPLES - missing)
    before = probabilities.copy()
    regions = speech_regions(probabilities, config)
    cut = windows_from_regions(regions, probabilities, samples=samples, config=config, max_seconds=max_seconds)
    assert np.array_equal(probabilities, before)

    regions = [(a * FRAME_SAMPLES, min(b * FRAME_SAMPLES, samples)) for a, b in speech_regions(probabilities, config)]
    assert bool(cut) == bool(regions)
    for window in cut:
        assert isinstance(window.start_sample, int)
        assert isinstance(window.end_sample, int)
        assert 0 <= window.start_sample < window.end_sample <= samples
        assert window.end_sample - window.start_sample <= max_seconds * SECOND
        inside = [r for r in regions if r[1] > window.start_sample and r[0] < window.end_sample]
        assert inside
        assert all(b[0] - a[1] <= 0.6 * SECOND for a, b in pairwise(inside))
        assert inside[0][0] - window.start_sample <= pad_ms * 16
        assert window.end_sample - inside[-1][1] <= pad_ms * 16
    for left, right in pairwise(cut):
        assert left.start_sample < right.start_sample
        assert left.end_sample < right.end_sample
        overlap = left.end_sample - right.start_sample
        assert overlap == 0.3 * SECOND if right.overlaps_previous else overlap <= 0
        if right.overlaps_previous:  # only where there was no pause to cut at
            assert left.end_sample - left.start_sample == max_seconds * SECOND
            half = -(-(left.start_sample + left.end_sample) // 2 // FRAME_SAMPLES) + 1
            assert probabilities[half : left.end_sample // FRAME_SAMPLES].min() >= 0.35
    assert not cut or not cut[0].overlaps_previous
    for first, last in regions:  # all speech is in some window
        reached = first
        for window in cut:
            if window.start_sample <= reached < window.end_sample:
                reached = window.end_sample
        assert reached >= last


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter(SegmentConfig(), max_seconds=6.0)


@pytest.mark.parametrize("voice", SENTENCES)
def test_sentences_between_silences_are_one_window_each(segmenter: Segmenter, voice: str) -> None:
    sentence, silence = spoken(voice, SENTENCES[voice]), np.zeros(int(1.5 * SECOND), np.float32)
    cut = segmenter(np.concatenate([silence, sentence, silence, sentence, silence]))
    starts = [len(silence), 2 * len(silence) + len(sentence)]
    assert len(cut) == 2
    for window, start in zip(cut, starts, strict=True):
        assert start - 0.5 * SECOND <= window.start_sample <= start + 0.1 * SECOND
        assert abs(window.end_sample - start - len(sentence)) <= 0.5 * SECOND
        assert not window.overlaps_previous


def test_noise_and_silence_are_not_speech(segmenter: Segmenter) -> None:
    noise = np.random.default_rng(0).normal(0, 0.003, 20 * SECOND).astype(np.float32)
    assert segmenter(noise) == []
    assert segmenter(np.zeros(20 * SECOND, np.float32)) == []


def test_a_long_talk_is_cut_in_its_pauses(segmenter: Segmenter) -> None:
    pause = np.zeros(int(0.25 * SECOND), np.float32)  # too short to end a region
    sounds = [sound for voice in ("en-us", "de", "es") for sound in (spoken(voice, SENTENCES[voice]), pause)] * 6
    talk = np.concatenate(sounds)
    cut = segmenter(talk)
    assert len(cut) >= len(talk) / (6 * SECOND)
    assert sum(w.overlaps_previous for w in cut) <= 1
    loudness = [
        np.abs(talk[w.end_sample - 160 : w.end_sample + 160]).max() for w in cut[:-1] if not w.overlaps_previous
    ]
    assert np.median(loudness) < 0.02


def test_the_result_does_not_depend_on_blocks(segmenter: Segmenter) -> None:
    talk = np.concatenate([spoken(voice, text) for voice, text in SENTENCES.items()] * 2)
    whole = segmenter(talk)
    assert len(whole) >= 3
    for size in (777, 65_536, 3 * SECOND):
        assert segmenter.windows(talk[at : at + size] for at in range(0, len(talk), size)) == whole


def test_a_stretch_is_cut_at_its_quietest_frame_near_the_target() -> None:
    power = np.full(2000, 1.0)  # 64 s
    power[[370, 410, 440]] = 0.5, 0.1, 0.2  # at 11.84 s, 13.12 s and 14.08 s of the first window
    power[452] = 0.0  # 14.464 s: within the search
    power[460] = -1.0  # 14.72 s: beyond it
    config = SegmentConfig(method="quietest", pad_ms=0)
    cut = quietest_windows([(0, 2000)], power, samples=2000 * FRAME_SAMPLES, config=config, max_seconds=30)
    assert (cut[0].start_sample, cut[0].end_sample) == (0, 452 * FRAME_SAMPLES + FRAME_SAMPLES // 2)
    assert cut[1].start_sample == cut[0].end_sample
    assert not any(window.overlaps_previous for window in cut)


def test_what_is_at_most_as_long_as_the_search_allows_is_not_cut() -> None:
    config = SegmentConfig(method="quietest", pad_ms=0)
    frames = 453  # 14.496 s, the limit is 14.5 s
    samples = frames * FRAME_SAMPLES
    cut = quietest_windows([(0, frames)], np.zeros(frames), samples=samples, config=config, max_seconds=30)
    assert cut == [Window(0, samples)]


def test_long_silence_is_left_out_and_short_silence_is_kept() -> None:
    config = SegmentConfig(method="quietest", pad_ms=0)
    regions = [(0, 30), (48, 60), (80, 90)]  # 18 frames are 576 ms, 20 are 640 ms
    cut = quietest_windows(regions, np.ones(100), samples=100 * FRAME_SAMPLES, config=config, max_seconds=30)
    assert cut == [Window(0, 60 * FRAME_SAMPLES), Window(80 * FRAME_SAMPLES, 90 * FRAME_SAMPLES)]


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 1500)), max_size=12),
    st.integers(0, FRAME_SAMPLES - 1),
    st.floats(1, 30),
    st.floats(0.1, 10),
    st.floats(1, 30),
    st.integers(0, 2000),
    st.integers(0, 2**32 - 1),
)
def test_no_sample_is_in_two_windows_and_no_speech_in_none(
    shape: list[tuple[int, int]], odd: int, target: float, search: float, longest: float, pad_ms: int, seed: int
) -> None:
    regions, at = [], 0
    for gap, length in shape:
        regions.append((at + gap, at + gap + length))
        at += gap + length
    samples = max(0, at * FRAME_SAMPLES - odd)
    power = np.random.default_rng(seed).random(samples // FRAME_SAMPLES)
    config = SegmentConfig(method="quietest", target_seconds=target, search_seconds=search, pad_ms=pad_ms)
    cut = quietest_windows(regions, power, samples=samples, config=config, max_seconds=longest)
    assert cut == quietest_windows(regions, power, samples=samples, config=config, max_seconds=longest)
    covered = np.zeros(samples, np.int8)
    for window in cut:
        assert 0 <= window.start_sample < window.end_sample <= samples
        assert window.end_sample - window.start_sample <= int(longest * SECOND)
        assert not window.overlaps_previous
        covered[window.start_sample : window.end_sample] += 1
    assert covered.max(initial=0) <= 1
    for first, end in regions:
        assert covered[first * FRAME_SAMPLES : end * FRAME_SAMPLES].all()


def test_the_segmenter_cuts_at_the_quietest_whatever_the_blocks() -> None:
    sentence = spoken("en-us", SENTENCES["en-us"])
    samples = np.concatenate([sentence] * 20)
    config = SegmentConfig(method="quietest", vad=False)
    segmenter = Segmenter(config, max_seconds=30)
    cut = segmenter(samples)
    assert cut[0].start_sample == 0
    assert cut[-1].end_sample == len(samples)
    assert all(one.end_sample == other.start_sample for one, other in pairwise(cut))
    blocks = np.split(samples, [5, 600, 70_000, 70_100])
    assert segmenter.windows(blocks) == cut
    loud = np.sqrt(np.mean(samples**2))
    for window in cut[:-1]:
        around = samples[window.end_sample - FRAME_SAMPLES // 2 : window.end_sample + FRAME_SAMPLES // 2]
        assert np.sqrt(np.mean(around**2)) < loud / 3
