"""Audio that is there twice is found by its hash, its ETag or its place, and a retry is no duplicate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.labels.duplicates import TextDuplicates, duplicate_recordings
from pipeline.labels.splits import stable_hash
from pipeline.storage.base import open_storage
from tests.support.outputs import plan, ref

ETAG = "d41d8cd98f00b204e9800998ecf8427e"  # pragma: allowlist secret


@pytest.mark.parametrize(
    ("first", "second", "is_twice"),
    [
        ({}, {}, False),
        ({"source_member": "x.flac"}, {"source_member": "x.flac"}, True),
        ({"source_member": "x.flac", "end_ms": 900}, {"source_member": "x.flac", "start_ms": 900}, False),
        ({"source_member": "x.flac", "channel": 0}, {"source_member": "x.flac", "channel": 1}, False),
        ({"metadata": '{"md5": "a"}'}, {"metadata": '{"md5": "a"}'}, True),
        ({"metadata": '{"md5": "a"}'}, {"metadata": '{"md5": "b"}'}, False),
    ],
)
def test_recordings_of_equal_audio_are_found(
    tmp_path: Path, first: dict[str, Any], second: dict[str, Any], is_twice: bool
) -> None:
    storage = open_storage(str(tmp_path))
    plan(storage, [ref(0, **first), ref(1, **second), ref(2)])
    assert duplicate_recordings(storage, "md5") == ({stable_hash("r1")} if is_twice else set())


def test_whole_objects_with_one_etag_are_equal_and_members_are_not(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    whole = {"source_member": None, "offset": None, "version": ETAG}
    refs = [ref(number, source_uri=f"s3://b/{number}.flac", **whole) for number in range(2)]
    members = [ref(number, offset=512 * number, version=ETAG) for number in (2, 3)]
    plan(storage, [*refs, *members, ref(4, source_uri="s3://b/4.flac", **(whole | {"size": 7}))])
    assert duplicate_recordings(storage, None) == {stable_hash("r1")}


def test_texts_are_compared_from_eight_words_on() -> None:
    texts = TextDuplicates(0.8)
    long = [
        "we",
        "all",
        "go",
        "to",
        "the",
        "market",
        "at",
        "nine",
        "in",
        "the",
        "morning",
        "and",
        "then",
        "we",
        "go",
        "home",
        "again",
    ]
    texts.add(long)
    texts.add(long[:7])
    assert texts.is_known(long)
    assert texts.is_known([*long, "today"])
    assert not texts.is_known(long[:7])
    assert not texts.is_known(long[::-1])
