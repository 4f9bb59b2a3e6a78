"""Lhotse cuts as columns: the file, the part and the channel they mean."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.schemas import BadRecording
from pipeline.sources.lhotse import is_lhotse, to_columns


def source(name: str, *channels: int, kind: str = "file") -> dict[str, Any]:
    return {"type": kind, "channels": list(channels), "source": name}


def cut(*sources: dict[str, Any], **keys: Any) -> dict[str, Any]:
    recording = {"id": "r", "sources": list(sources), "sampling_rate": 8000, "num_samples": 80000, "duration": 10.0}
    return {"id": "c", "start": 0.0, "duration": 10.0, "channel": 0, "supervisions": [], "recording": recording} | keys


def test_cuts_and_recordings_differ_from_other_lines() -> None:
    assert is_lhotse(cut(source("a", 0)))
    assert is_lhotse(cut()["recording"])
    assert not is_lhotse({"audio_filepath": "a.wav", "recording": "studio"})


@pytest.mark.parametrize(
    ("sources", "channel", "expected"),
    [
        ([source("a.wav", 0)], 0, ("a.wav", None)),
        ([source("a.wav", 0, 1)], 1, ("a.wav", 1)),
        ([source("a.wav", 0, 1)], [0, 1], ("a.wav", None)),
        ([source("a.wav", 0, 1)], [1], ("a.wav", 1)),
        ([source("a.wav", 2, 5)], 5, ("a.wav", 1)),
        ([source("a.wav", 0), source("b.wav", 1)], 1, ("b.wav", None)),
        ([source("https://x/a.wav", 0, kind="url")], 0, ("https://x/a.wav", None)),
    ],
)
def test_the_channel_is_counted_in_its_file(sources: list[Any], channel: Any, expected: tuple[str, int | None]) -> None:
    columns = to_columns(cut(*sources, channel=channel))
    assert (columns["audio_filepath"], columns["channel"]) == expected


@pytest.mark.parametrize(
    ("start", "duration", "offset"), [(0, 10.0, None), (0.0, 9.995, None), (0.0, 9.9, 0.0), (2.5, 7.5, 2.5)]
)
def test_only_a_section_has_an_offset(start: float, duration: float, offset: float | None) -> None:
    assert to_columns(cut(source("a", 0), start=start, duration=duration)).get("offset") == offset


def test_supervisions_are_joined_in_time_and_differing_values_are_left_out() -> None:
    late = {"start": 3, "text": "b", "language": "en", "speaker": "x"}
    early = {"start": 1, "text": "a", "language": "de", "speaker": "x"}
    columns = to_columns(cut(source("a", 0), supervisions=[late, early, {"start": 2, "text": None}], custom={"k": 1}))
    assert (columns["text"], columns["language"], columns["speaker"], columns["custom"]) == ("a b", None, "x", {"k": 1})


@pytest.mark.parametrize(
    "bad",
    [
        cut(),
        cut(source("a", 0), source("b", 0)),
        cut(source("a", 0), channel=3),
        cut(source("a", 0, kind="command")),
        cut(source("a", 0), duration="long"),
        cut(source("a", 0), supervisions=5),
        cut(source("a", 0), supervisions=[{"text": 5, "start": 0}]),
        cut(source("a", 0), recording={"sources": [source("a", 0)]}),
        {"id": "x", "sources": [None], "duration": 1},
        {"sources": [source("a", 0)], "duration": 1},
    ],
)
def test_a_cut_that_is_not_a_section_of_one_file_is_bad_metadata(bad: dict[str, Any]) -> None:
    with pytest.raises(BadRecording, match="bad_metadata"):
        to_columns(bad)


def test_a_change_of_speed_is_not_ignored() -> None:
    perturbed = cut(source("a", 0))
    perturbed["recording"]["transforms"] = [{"name": "Resample", "kwargs": {}}]
    assert to_columns(perturbed)["audio_filepath"] == "a"
    perturbed["recording"]["transforms"].append({"name": "Speed", "kwargs": {"factor": 1.1}})
    with pytest.raises(BadRecording, match="transforms"):
        to_columns(perturbed)
