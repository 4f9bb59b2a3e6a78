"""Every segment is kept or dropped exactly once, with one reason; a speaker is in one split; caps and merging hold."""

from __future__ import annotations

from collections import defaultdict
from itertools import groupby
from operator import itemgetter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.labels.choice import Chooser
from pipeline.labels.curve import Threshold
from pipeline.labels.reasons import REASONS
from pipeline.labels.settings import LabelsConfig
from pipeline.labels.splits import split_of, stable_hash
from pipeline.schemas import LABELS
from tests.support.labels import segment, speaker

TEXTS = ("good day", "", "no no no no no", "we all go to the market at nine in the morning", "好", "Oh")
ROWS = st.lists(
    st.tuples(
        st.integers(0, 5),  # recording
        st.sampled_from(TEXTS),
        st.sampled_from(["en", "de", "zh", None]),
        st.one_of(st.none(), st.floats(0, 1, width=32)),
        st.integers(1, 60_000),
    ),
    max_size=40,
)


def config(**sections: Any) -> LabelsConfig:
    return LabelsConfig(transcripts="out", output={"uri": "labels"}, **sections)


def chooser(given_config: LabelsConfig, least: float = 0.5, audio: dict[bytes, bytes] | None = None) -> Chooser:
    threshold = {"default": Threshold(least, None)}
    return Chooser(given_config, threshold, audio or {}, policy="p")


def chosen(rows: list[dict[str, Any]], made: Chooser) -> list[dict[str, Any]]:
    return [
        label for _, group in groupby(rows, key=itemgetter("recording_id")) for label, _ in made.labels(list(group))
    ]


def neighbours(count: int, seconds: float = 4.0, **changes: Any) -> list[dict[str, Any]]:
    """Segments of one recording, one directly after the other."""
    length = int(1000 * seconds)
    return [
        segment(
            f"word{number} here",
            segment_index=number,
            start_ms=length * number,
            end_ms=length * (number + 1),
            **changes,
        )
        for number in range(count)
    ]


@settings(deadline=None, max_examples=60)
@given(ROWS, st.sampled_from([0.0, 10.0]), st.sampled_from([None, 0.001]))
def test_every_segment_is_in_exactly_one_row_kept_or_with_a_reason(
    drawn: list[tuple[int, str, str | None, float | None, int]], least: float, cap: float | None
) -> None:
    rows = []
    ends: dict[int, int] = defaultdict(int)
    for number, (recording, text, language, confidence, length) in enumerate(sorted(drawn, key=itemgetter(0))):
        start, ends[recording] = ends[recording], ends[recording] + length
        place = {
            "segment_index": number,
            "start_ms": start,
            "end_ms": start + length,
            "metadata": speaker(f"s{recording % 3}"),
        }
        rows.append(segment(text, f"r{recording}", language=language, confidence=confidence, **place))
    made = chosen(
        rows,
        chooser(
            config(
                merge={"min_seconds": least}, caps={"speaker_hours": cap}, filters={"min_language_probability": None}
            )
        ),
    )
    found = [(label["recording_id"], index) for label in made for index in label["segment_indices"]]
    assert sorted(found) == sorted((row["recording_id"], row["segment_index"]) for row in rows)
    assert len({label["label_id"] for label in made}) == len(made)
    for label in made:
        assert list(label) == LABELS.names
        assert label["kept"] == (label["reason"] is None) == (label["split"] is not None)
        assert label["kept"] or (label["reason"] in REASONS and len(label["segment_indices"]) == 1)
    splits = defaultdict(set)
    for label in made:
        if label["kept"]:
            splits[label["speaker"]].add(label["split"])
    assert all(len(of_speaker) == 1 for of_speaker in splits.values())


def test_splits_have_their_share_of_the_speakers_and_do_not_depend_on_the_archive() -> None:
    of = config(split={"dev": 0.1, "test": 0.2}).split
    found = [split_of(of, f"speaker {number}", "r") for number in range(2000)]
    assert 150 < found.count("dev") < 250
    assert 330 < found.count("test") < 470
    by_recording = config(split={"by": "recording", "dev": 0.5}).split
    assert {split_of(by_recording, "one speaker", f"r{number}") for number in range(50)} >= {"dev", "train"}


def test_merged_labels_have_all_their_segments_and_no_hole() -> None:
    made = chosen(neighbours(6), chooser(config(merge={"min_seconds": 10.0, "max_seconds": 30.0})))
    assert [label["segment_indices"] for label in made] == [[0, 1, 2], [3, 4, 5]]
    assert (made[0]["start_ms"], made[0]["end_ms"], made[0]["text"]) == (0, 12_000, "word0 here word1 here word2 here")
    assert [word["text"] for word in made[0]["words"]] == made[0]["text"].split()
    assert abs(made[0]["confidence"] - 0.9) < 1e-9
    assert made[0]["signals"] is None
    rows = neighbours(3)
    rows[1]["overflow"] = True
    made = chosen(rows, chooser(config(merge={"min_seconds": 30.0})))
    assert [(label["segment_indices"], label["reason"]) for label in made] == [
        ([0], None),
        ([1], "overflow"),
        ([2], None),
    ]
    apart = neighbours(2)
    apart[1]["start_ms"] += 1001
    assert len(chosen(apart, chooser(config(merge={"min_seconds": 30.0})))) == 2
    assert [
        len(label["segment_indices"])
        for label in chosen(neighbours(3, 11.0), chooser(config(merge={"min_seconds": 30.0})))
    ] == [2, 1]


def test_a_cap_keeps_no_more_of_a_speaker_or_source_than_it_says() -> None:
    rows = [row | {"metadata": '{"speaker": "a", "corpus": "c"}'} for row in neighbours(5)]
    reasons = [label["reason"] for label in chosen(rows, chooser(config(caps={"speaker_hours": 9 / 3600})))]
    assert reasons == [None, None, "speaker_cap", "speaker_cap", "speaker_cap"]
    by_source = config(caps={"source_hours": 13 / 3600}, source_column="corpus")
    assert [label["reason"] for label in chosen(rows, chooser(by_source))] == [
        None,
        None,
        None,
        "source_cap",
        "source_cap",
    ]


def test_duplicates_of_audio_and_of_long_texts_are_dropped() -> None:
    long = "we all go to the market at nine in the morning and then we go home again"
    rows = [segment(long, "a"), segment(long + "!", "b"), segment("good day", "c"), segment("good day", "d")]
    twice = chooser(config(), audio={stable_hash(name): b"same" for name in ("a dead letter", "c", "d")})
    assert [label["reason"] for label in chosen(rows, twice)] == [None, "duplicate_text", None, "duplicate_audio"]
    unsure = [segment(long, "a", confidence=0.1), segment(long, "b")]
    assert [label["reason"] for label in chosen(unsure, chooser(config()))] == ["low_confidence", None]


def test_a_confidence_that_is_no_number_is_not_enough() -> None:
    rows = [segment(confidence=float("nan")), segment("good day", "b")]
    assert [label["reason"] for label in chosen(rows, chooser(config()))] == ["low_confidence", None]


def test_a_raw_confidence_is_not_compared_with_a_threshold_of_calibrated_ones() -> None:
    least = {"en": Threshold(0.5, 0.1)}
    made = Chooser(config(), least, {}, policy="p")
    rows = [
        segment(recording="a", confidence_source="calibrated:all"),
        segment("good day", "b"),
        segment("guten Tag", "c", language="de"),
    ]
    found = chosen(rows, made)
    assert [label["reason"] for label in found] == [None, "uncalibrated", "no_threshold"]
    assert [label["expected_wer"] and round(label["expected_wer"], 6) for label in found] == [0.1, None, None]
