"""Tests of the seekable files that fetch ranges: which ranges they request, and what a reader gets."""

from __future__ import annotations

import io
import threading

import pytest

from pipeline.storage import ranges
from pipeline.storage.ranges import Ranges, Slice, buffered, read_ahead

CONTENT = bytes(range(256)) * 4


class Counted:
    """Reads CONTENT. asked: the ranges that were requested."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def __call__(self, start: int, end: int) -> bytes:
        self.asked.append((start, end))
        return CONTENT[start:end]


def test_seeking_and_reading_give_the_content() -> None:
    stream = buffered(Ranges(Counted(), len(CONTENT)), 16)
    assert stream.seek(-4, io.SEEK_END) == len(CONTENT) - 4
    assert stream.read() == CONTENT[-4:]
    assert stream.read(1) == b""
    stream.seek(100)
    stream.seek(5, io.SEEK_CUR)
    assert stream.read(7) == CONTENT[105:112]
    stream.seek(2_000)
    assert stream.read(1) == b""


def test_small_reads_share_one_request() -> None:
    read = Counted()
    stream = buffered(Ranges(read, len(CONTENT)), 256)
    assert b"".join(stream.read(1) for _ in range(256)) == CONTENT[:256]
    assert read.asked == [(0, 256)]


def test_coming_back_to_the_first_range_costs_no_request() -> None:
    read = Counted()
    stream = buffered(Ranges(read, len(CONTENT)), 100)
    read_ahead(stream, 2)
    for start in (0, 44, 0, 60):
        stream.seek(start)
        assert stream.read(20) == CONTENT[start : start + 20]
    assert read.asked.count((0, 100)) == 1
    assert set(read.asked) <= {(0, 100), (100, 200)}  # the second one is fetched ahead
    assert b"".join(iter(lambda: stream.read(30), b"")) == CONTENT[80:]
    assert sorted(read.asked) == [(start, min(start + 100, 1024)) for start in range(0, 1024, 100)]


def test_no_request_is_larger_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "REQUEST_BYTES", 300)
    read = Counted()
    assert buffered(Ranges(read, len(CONTENT)), 16).read(len(CONTENT)) == CONTENT
    assert max(end - start for start, end in read.asked) <= 300
    read.asked.clear()
    assert Ranges(read, len(CONTENT)).readall() == CONTENT
    assert read.asked == [(0, 300), (300, 600), (600, 900), (900, 1024)]


def test_a_slice_is_a_section_of_a_file_and_closes_it() -> None:
    whole = io.BytesIO(CONTENT)
    section = buffered(Slice(whole, 10, 20), 8)
    assert section.read() == CONTENT[10:30]
    section.seek(5)
    assert section.read(100) == CONTENT[15:30]
    section.close()
    assert whole.closed


@pytest.mark.parametrize("most", [1, 3, 50])
def test_what_follows_is_fetched_ahead_and_the_content_is_the_same(most: int) -> None:
    read = Counted()
    stream = buffered(Ranges(read, len(CONTENT)), 100)
    read_ahead(stream, most)
    assert b"".join(iter(lambda: stream.read(30), b"")) == CONTENT
    stream.seek(450)
    assert stream.read(7) == CONTENT[450:457]
    assert sorted(read.asked[:11]) == [(start, min(start + 100, 1024)) for start in range(0, 1024, 100)]


def test_no_more_ranges_are_under_way_than_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    read = Counted()
    stream = Ranges(read, 10_000)
    stream.read_ahead(8)
    monkeypatch.setattr(ranges, "WAITING_BYTES", 300)
    for last in (100, 200, 300):
        assert len(stream.read(100)) == len(CONTENT[last - 100 : last])
        assert max(end for _, end in read.asked) <= last + 300


def test_a_section_is_not_read_ahead_beyond_its_end() -> None:
    read = Counted()
    section = buffered(Slice(buffered(Ranges(read, len(CONTENT)), 100), 150, 400), 8)
    read_ahead(section, 8)
    assert section.read() == CONTENT[150:550]
    section.close()
    assert max(start for start, _ in read.asked) < 550


def test_a_range_that_fails_ahead_is_asked_for_again_at_its_turn() -> None:
    main, failed = threading.get_ident(), threading.Event()

    def read(start: int, end: int) -> bytes:
        if threading.get_ident() != main:
            failed.set()
            raise ConnectionError
        if start == 300:
            raise EOFError("the content is gone")
        return CONTENT[start:end]

    stream = Ranges(read, len(CONTENT))
    stream.read_ahead(2)
    assert stream.read(100) + stream.read(100) + stream.read(100) == CONTENT[:300]
    with pytest.raises(EOFError, match="the content is gone"):
        stream.read(100)
    assert failed.wait(60)
