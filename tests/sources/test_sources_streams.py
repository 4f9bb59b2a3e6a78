"""Archive bytes: a gzip stream unpacks forwards in bounded memory, ranges fetch little more than headers."""

from __future__ import annotations

import gzip
import random
import tracemalloc
from pathlib import Path

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.schemas import BadRecording
from pipeline.sources.access import streams
from pipeline.sources.access.streams import GzipArchive, PlainArchive

DATA = random.Random(0).randbytes(300_000) + bytes(300_000)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gz") / "data.gz"
    path.write_bytes(gzip.compress(DATA[:1000]) + gzip.compress(DATA[1000:]) + bytes(100))
    return path


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 650_000), st.integers(0, 50_000)), max_size=8))
def test_any_forward_reads_give_the_unpacked_bytes(packed: Path, reads: list[tuple[int, int]]) -> None:
    stream = GzipArchive(str(packed))
    at = 0
    for start, length in sorted(reads):
        start = max(start, at)
        assert stream.read(start, length) == DATA[start : start + length]
        at = max(at, min(start + length, len(DATA)))
    assert stream.reaches(len(DATA)) or at > len(DATA)
    assert not stream.reaches(len(DATA) + 1)
    stream.close()


@pytest.mark.parametrize("zeros", [1, 10_240, streams.CHUNK_BYTES, 2 * streams.CHUNK_BYTES + 1])
def test_zeros_between_and_behind_gzip_files_are_no_damage(tmp_path: Path, zeros: int) -> None:
    (tmp_path / "a.gz").write_bytes(
        gzip.compress(DATA[:1000]) + bytes(zeros) + gzip.compress(DATA[1000:]) + bytes(zeros)
    )
    stream = GzipArchive(str(tmp_path / "a.gz"))
    assert stream.read(0, len(DATA) + 1) == DATA
    assert stream.consumed == (tmp_path / "a.gz").stat().st_size


def test_reading_backwards_is_an_error(packed: Path) -> None:
    stream = GzipArchive(str(packed))
    stream.read(100, 1)
    with pytest.raises(ValueError, match="forwards"):
        stream.read(100, 1)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 300_000))
def test_a_cut_stream_ends_early(packed: Path, cut: int) -> None:
    whole = packed.read_bytes()
    path = packed.with_name("cut.gz")
    path.write_bytes(whole[: min(cut, len(whole) - 2000)])
    data = GzipArchive(str(path)).read(0, len(DATA))
    assert DATA.startswith(data)
    assert len(data) < len(DATA)


def test_a_bomb_unpacks_in_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.gz"
    with gzip.open(path, "wb", 1) as out:
        for _ in range(64):
            out.write(bytes(1 << 20))
    tracemalloc.start()
    assert GzipArchive(str(path)).reaches(64 << 20)
    skipped = tracemalloc.get_traced_memory()[1]
    assert len(GzipArchive(str(path)).read(0, 64 << 20)) == 64 << 20
    read = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert skipped < 8 << 20
    assert read < 80 << 20, "little more than what was asked for"
    monkeypatch.setattr(streams, "MAX_UNPACKED_BYTES", 1 << 20)
    with pytest.raises(BadRecording, match="too_large"):
        GzipArchive(str(path)).reaches(64 << 20)


def test_a_file_that_is_not_gzip_is_corrupt(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(b"no gzip at all")
    with pytest.raises(BadRecording, match="corrupt_archive"):
        GzipArchive(str(tmp_path / "a.gz")).read(0, 1)
    with pytest.raises(BadRecording, match="missing_file"):
        GzipArchive(str(tmp_path / "gone.gz"))


@pytest.mark.parametrize("remote", [False, True])
def test_ranges_are_the_bytes_of_the_file(tmp_path: Path, remote: bool) -> None:
    (tmp_path / "a").write_bytes(DATA)
    fsspec.filesystem("memory").pipe_file("/ranges/a", DATA)
    data = PlainArchive("memory://ranges/a" if remote else str(tmp_path / "a"), len(DATA))
    for start, length in ((0, 512), (512, 512), (299_990, 20), (600_000, 1), (599_990, 512), (5, 5)):
        assert data.read(start, length) == DATA[start : start + length]
    assert data.reaches(len(DATA))
    assert not data.reaches(len(DATA) + 1)
    data.close()


def test_headers_far_apart_fetch_little_and_near_ones_share_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(
        streams.remote, "read_range", lambda _, start, end: asked.append(end - start) or bytes(end - start)
    )
    far = PlainArchive("memory://nowhere", 1 << 40)
    for index in range(100):
        far.read(index << 30, 512)
    assert len(asked) == 100
    assert sum(asked) < 4 << 20
    asked.clear()
    near = PlainArchive("memory://nowhere", 1 << 40)
    for index in range(100):
        near.read(index * 10_000, 512)
    assert len(asked) == 1
