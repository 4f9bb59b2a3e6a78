"""Audio that is there twice is found by its hash, its ETag or its place, and a retry is no duplicate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.labels.duplicates import TextDuplicates, shared_audio, signature
from pipeline.labels.splits import stable_hash
from pipeline.planning.pack import PlannedUnit
from pipeline.planning.plan import Round, write_plan
from pipeline.schemas import WorkUnit
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
    plan(storage, [ref(0, **first), ref(1, **second), ref(2, metadata='{"md5": "other"}')])
    assert set(shared_audio(storage, "md5")) == ({stable_hash("r0"), stable_hash("r1")} if is_twice else set())


def test_whole_objects_with_one_etag_are_equal_and_members_are_not(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    whole = {"source_member": None, "offset": None, "version": ETAG}
    refs = [ref(number, source_uri=f"s3://b/{number}.flac", **whole) for number in range(2)]
    members = [ref(number, offset=512 * number, version=ETAG) for number in (2, 3)]
    plan(storage, [*refs, *members, ref(4, source_uri="s3://b/4.flac", **(whole | {"size": 7}))])
    found = shared_audio(storage, None)
    assert set(found) == {stable_hash("r0"), stable_hash("r1")}
    assert len(set(found.values())) == 1


def test_a_recording_that_has_changed_has_the_audio_of_its_latest_version(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    whole = {"source_member": None, "offset": None}
    before = [ref(number, source_uri=f"s3://b/{number}.flac", version=ETAG, **whole) for number in range(2)]
    plan(storage, before)
    changed = replace(before[0], version=ETAG[::-1])
    write_plan(storage, "round-1", [PlannedUnit(WorkUnit("u", (changed,)))], about=Round("update"))
    assert shared_audio(storage, None) == {}


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
    texts.add(signature(long))
    texts.add(signature(long[:7]))
    assert texts.is_known(signature(long))
    assert texts.is_known(signature([*long, "today"]))
    assert not texts.is_known(signature(long[:7]))
    assert not texts.is_known(signature(long[::-1]))
