"""Listing a bucket by several requests at the same time: the same keys in the same order as page by page."""

from __future__ import annotations

import hashlib
import random
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.sources.access import remote
from pipeline.sources.access.bucket import further
from pipeline.sources.access.listing import find_file, list_files
from pipeline.storage.errors import StorageError
from tests.support import small_s3
from tests.support.small_s3 import SmallS3

COUNT, PAGE = 1500, 20
LAYOUTS: dict[str, Callable[[], list[str]]] = {
    "numbers of one length": lambda: [f"{number:07d}.wav" for number in range(COUNT)],
    "numbers of any length": lambda: [f"{number}.wav" for number in range(COUNT)],
    "hashes": lambda: [hashlib.md5(bytes([number % 256, number // 256])).hexdigest() for number in range(COUNT)],
    "days": lambda: [f"2024/{day // 30:02d}/{day % 30:02d}/{call}.wav" for day in range(75) for call in range(20)],
    "folders as large as a page": lambda: [f"{n // PAGE:04d}/{n:07d}.wav" for n in range(COUNT)],
    "words": lambda: [f"{random.Random(number).choices('aábcdÄß鱼é z-+%&', k=6)}" for number in range(COUNT)],
    "one large folder among small ones": lambda: (
        [f"b/{number:05d}" for number in range(COUNT - 60)] + [f"{name}/x" for name in "ac" for _ in range(30)]
    ),
}


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_s3, "PAGE", PAGE)


def names(uri: str) -> list[str]:
    return [file.name for file in list_files(uri)]


@pytest.mark.usefixtures("pages")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_listing_has_every_key_once_and_in_order(s3: SmallS3, layout: str) -> None:
    keys = sorted(set(LAYOUTS[layout]()))
    s3.objects = {f"in/{key}": b"x" for key in keys} | {"in/": b"", "in/zz/": b"", "a": b"", "inn": b"", "z/z": b""}
    assert names("s3://b/in") == keys
    s3.log.clear()
    flat = [key for key in keys if "/" not in key]
    if flat:
        s3.objects |= {f"in/folder{number}/x": b"x" for number in range(100)}
        assert names("s3://b/in/*") == flat


@pytest.mark.usefixtures("pages")
@pytest.mark.parametrize("layout", ["numbers of one length", "hashes", "days", "folders as large as a page"])
def test_a_listing_takes_few_more_requests_than_pages(s3: SmallS3, layout: str) -> None:
    s3.objects = {f"in/{key}": b"x" for key in LAYOUTS[layout]()}
    expected = -(-len(s3.objects) // PAGE)
    s3.log.clear()
    assert len(names("s3://b/in")) == len(s3.objects)
    assert expected <= len(s3.log) <= 1.5 * expected


@pytest.mark.usefixtures("pages")
def test_pages_without_objects_are_passed(s3: SmallS3) -> None:
    """A page of markers of folders, and where folders are left out a page of their names."""
    keys = [*(f"{number:05d}" for number in range(3 * PAGE)), *(f"2{number:04d}" for number in range(3 * PAGE))]
    s3.objects = {f"in/{key}": b"x" for key in keys} | {f"in/1{number:04d}/": b"" for number in range(3 * PAGE)}
    assert names("s3://b/in") == keys
    s3.objects |= {f"in/1{number:04d}/x": b"x" for number in range(3 * PAGE)}
    assert names("s3://b/in/*") == keys


@pytest.mark.usefixtures("pages")
@pytest.mark.parametrize("kind", ["ignores start-after", "lists in no order"])
def test_a_store_that_cannot_begin_at_a_key_is_listed_page_by_page(
    s3: SmallS3, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.objects = {f"in/{number:05d}": b"x" for number in range(COUNT)}
    known = s3.page

    def page(query: dict[str, list[str]]) -> str:
        query = {name: value for name, value in query.items() if name != "start-after"}
        answer = known(query)
        if kind == "ignores start-after":
            return answer
        head, *entries = answer.split("<Contents>")
        return "<Contents>".join(
            [head, *reversed([entry.removesuffix("</ListBucketResult>") for entry in entries])]
        ) + ("</ListBucketResult>")

    monkeypatch.setattr(s3, "page", page)
    assert sorted(names("s3://b/in")) == [f"{number:05d}" for number in range(COUNT)]


@pytest.mark.usefixtures("pages")
def test_a_store_that_fails_in_the_middle_ends_the_listing(s3: SmallS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "ATTEMPTS", 2)
    s3.objects = {f"in/{number:05d}": b"x" for number in range(COUNT)}
    listing = list_files("s3://b/in")
    first = [next(listing).name for _ in range(5 * PAGE)]
    s3.fail[""] = deque([503] * 10_000)
    with pytest.raises(StorageError, match=r"^s3://b/in: [^\n]+; once it answers again"):
        first += [file.name for file in listing]
    assert first == [f"{number:05d}" for number in range(len(first))]


def test_the_version_in_a_listing_is_that_of_the_file(s3: SmallS3) -> None:
    s3.objects = {"in/a.wav": b"audio", "in/b.wav": b"more audio"}
    for file in list_files("s3://b/in"):
        alone = find_file(file.uri)
        assert alone is not None
        assert (file.size, file.version) == (alone.size, alone.version)


@given(st.lists(st.text("abc019./-é", min_size=1, max_size=9), min_size=2, unique=True), st.integers(1, 50))
def test_a_guess_lies_behind_the_last_key(keys: list[Any], times: int) -> None:
    keys.sort()
    guess = further(keys, (keys[0], keys[-1]), times)
    assert guess is None or guess > keys[-1]


@pytest.mark.parametrize(
    ("keys", "times", "expected"),
    [
        (["00000.wav", "00099.wav"], 4, "00495"),
        (["00400.wav", "00499.wav"], 6, "01093"),
        (["z0", "z9"], 100, None),
    ],
)
def test_keys_are_counted_like_numbers(keys: list[str], times: int, expected: str | None) -> None:
    guess = further(keys, (keys[0], keys[-1]), times)
    assert (guess and guess[:5]) == expected
