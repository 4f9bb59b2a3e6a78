"""Reading ahead: the same recordings and errors as one by one, few requests, bounded bytes, nothing left open."""

from __future__ import annotations

import gzip
import io
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pipeline.config import SourceConfig
from pipeline.schemas import BadRecording, RecordingRef
from pipeline.sources import ahead
from pipeline.sources.access import remote
from pipeline.sources.ahead import read_in_order
from pipeline.sources.formats import list_recordings, read_recording
from pipeline.storage import ranges
from pipeline.storage.background import workers
from pipeline.storage.errors import StorageError
from tests.support.corpora import archive
from tests.support.small_s3 import SmallS3

COUNT = 40
CLIPS = {f"{number:02d}": bytes([number]) * (1000 + number) for number in range(COUNT)}
MEMBERS = {
    name: data
    for stem, clip in CLIPS.items()
    for name, data in ((f"{stem}.wav", clip), (f"{stem}.json", b'{"text": "text of %s"}' % stem.encode()))
}


def a_table() -> bytes:
    out = io.BytesIO()
    rows = {"id": list(CLIPS), "audio": list(CLIPS.values()), "text": [f"text of {stem}" for stem in CLIPS]}
    pq.write_table(pa.table(rows), out, row_group_size=15)
    return out.getvalue()


LAYOUTS: dict[str, Callable[[], dict[str, bytes]]] = {
    "s.tar": lambda: {"s.tar": archive(MEMBERS, ".tar")},
    "s.tar.gz": lambda: {"s.tar.gz": archive(MEMBERS)},
    "called.tar": lambda: {"called.tar": gzip.compress(archive(MEMBERS, ".tar"))},
    "t.parquet": lambda: {"t.parquet": a_table()},
    "": lambda: MEMBERS,
    "m.jsonl": lambda: (
        MEMBERS
        | {"m.jsonl": b"".join(b'{"audio_filepath": "%s.wav", "text": "t"}\n' % stem.encode() for stem in CLIPS)}
    ),
}


def listed(uri: str) -> list[RecordingRef]:
    return list(list_recordings(SourceConfig(uri=uri)))


def outcome(read: Callable[[], Any]) -> tuple[object, ...]:
    """What a recording is, or why there is none."""
    try:
        recording = read()
    except BadRecording as err:
        return err.reason, err.detail
    audio = recording.audio
    if not isinstance(audio, bytes):
        with audio as file:
            audio = file.read()
    return audio, recording.language, recording.reference, recording.metadata


def one_by_one(refs: list[RecordingRef]) -> list[tuple[object, ...]]:
    return [outcome(lambda ref=ref: read_recording(ref)) for ref in refs]  # type: ignore[misc]


def in_order(refs: list[RecordingRef], most: int) -> list[tuple[object, ...]]:
    with closing(read_in_order(refs, most)) as readings:
        return [outcome(read) for read in readings]


@pytest.mark.parametrize("most", [1, 8])
@pytest.mark.parametrize("place", LAYOUTS)
def test_what_is_read_does_not_depend_on_how_much_is_read_ahead(
    s3: SmallS3, place: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "NEIGHBOUR_BYTES", 10_000)  # several readings of one archive
    s3.objects = {f"in/{name}": data for name, data in LAYOUTS[place]().items()}
    refs = listed(f"s3://b/in/{place}")
    expected = one_by_one(refs)
    assert [audio for audio, *_ in expected] == list(CLIPS.values())
    assert in_order(refs, most) == expected
    assert in_order(refs[7:], most) == expected[7:]


@pytest.mark.parametrize("most", [1, 8])
def test_a_recording_that_cannot_be_read_keeps_its_error_to_itself(s3: SmallS3, most: int) -> None:
    """One is missing, one has changed, one cannot be described, one has a problem that its listing knows."""
    s3.objects = {**MEMBERS, "07.json": b"no JSON", "zz/.hidden": b""}
    s3.objects = {f"in/{name}": data for name, data in s3.objects.items()}
    refs = listed("s3://b/in")
    refs.insert(5, RecordingRef("known", "files", "s3://b/in/none.wav", problem="unsafe_name", problem_detail="x"))
    del s3.objects["in/03.wav"]
    s3.objects["in/11.wav"] = b"another"
    expected = one_by_one(refs)
    assert [index for index, (reason, *_) in enumerate(expected) if isinstance(reason, str)] == [3, 5, 8, 12]
    assert in_order(refs, most) == expected


@pytest.mark.parametrize("most", [1, 8])
def test_an_archive_that_was_written_again_has_changed_for_all_its_members(s3: SmallS3, most: int) -> None:
    s3.objects = {"s.tar": archive(MEMBERS, ".tar")}
    refs = listed("s3://b/s.tar")
    s3.objects = {"s.tar": archive(dict(reversed(MEMBERS.items())), ".tar")}
    assert [reason for reason, *_ in in_order(refs, most)] == ["source_changed"] * COUNT


def test_neighbours_in_an_archive_come_with_their_version_by_one_request(s3: SmallS3) -> None:
    s3.objects = {"s.tar": archive(MEMBERS, ".tar")}
    refs = listed("s3://b/s.tar")
    s3.log.clear()
    assert len(in_order(refs, 8)) == COUNT
    assert [method for method, *_ in s3.log] == ["GET"]


def test_a_member_that_is_read_alone_comes_with_its_version_too(s3: SmallS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "NEIGHBOUR_BYTES", 1000)
    s3.objects = {"s.tar": archive(MEMBERS, ".tar")}
    refs = listed("s3://b/s.tar")
    s3.log.clear()
    assert len(in_order(refs, 8)) == COUNT
    assert [method for method, *_ in s3.log] == ["GET"] * COUNT


def test_members_that_nobody_wants_are_not_fetched_with_their_neighbours(s3: SmallS3) -> None:
    clips = {f"{number:02d}.wav": bytes([number]) * 400_000 for number in range(COUNT)}
    s3.objects = {"s.tar": archive(clips, ".tar")}
    refs = listed("s3://b/s.tar")[::10]
    s3.log.clear()
    assert [audio for audio, *_ in in_order(refs, 8)] == list(clips.values())[::10]
    fetched = [asked.removeprefix("bytes=").split("-") for _, _, asked in s3.log if asked]
    assert sum(int(last) + 1 - int(first) for first, last in fetched) < len(refs) * 400_000 * 1.1


def test_what_an_error_ahead_means_is_decided_at_its_turn(s3: SmallS3) -> None:
    """Forbidden is one recording if another of its store can be read, which nobody knows before the first one is."""
    s3.objects = {f"in/{name}.wav": b"audio" for name in ("a", "b", "c")}
    refs = listed("s3://b/in")
    s3.fail["in/b.wav"] = deque([403] * 50)
    assert [first for first, *_ in in_order(refs, 8)] == [b"audio", "missing_file", b"audio"]


def test_a_store_that_fails_ends_the_reading_at_the_first_recording_that_it_refuses(
    s3: SmallS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "ATTEMPTS", 2)
    s3.objects = {f"in/{name}.wav": b"audio" for name in "abcd"}
    refs = listed("s3://b/in")
    for name in "bcd":
        s3.fail[f"in/{name}.wav"] = deque([503] * 50)
    done = []
    with closing(read_in_order(refs, 8)) as readings, pytest.raises(StorageError, match=r"^s3://b/in/b\.wav: "):
        done += [read().audio for read in readings]
    with closing(read_in_order(refs, 8)) as readings:
        assert next(readings)().audio == b"audio"


class Counting(MemoryFileSystem):
    """Files in memory. fetched: bytes of all requests. open: files that are not closed yet."""

    protocol = "counting"
    store: dict[str, Any] = {}  # noqa: RUF012 as MemoryFileSystem has it
    fetched = 0
    gate = threading.Event()

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.removeprefix("counting://")))

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        data: bytes = super().cat_file(path, start=start, end=end, **options)
        Counting.gate.wait(60)
        Counting.fetched += len(data)
        return data


@pytest.fixture
def counting() -> Iterator[type[Counting]]:
    fsspec.register_implementation("counting", Counting, clobber=True)
    Counting.store.clear()
    Counting.fetched = 0
    Counting.gate.set()
    yield Counting
    Counting.gate.set()
    Counting.store.clear()


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_bytes_that_wait_are_bounded(counting: type[Counting], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "WAITING_BYTES", 3_500)
    for number in range(12):
        counting().pipe_file(f"/in/{number:02d}.wav", bytes([number]) * 1000)
    refs = listed("counting:///in")
    counting.fetched = 0
    with closing(read_in_order(refs, 8)) as readings:
        for number, read in enumerate(readings):
            assert read().audio == bytes([number]) * 1000
            wait_for(lambda number=number: counting.fetched >= min(12, number + 3) * 1000)  # type: ignore[misc]
            assert counting.fetched <= (number + 3) * 1000


def test_large_recordings_are_not_loaded(counting: type[Counting], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "WHOLE_BYTES", 1000)
    content = bytes(range(250)) * 8
    for number in range(4):
        counting().pipe_file(f"/in/{number}.wav", content)
    refs = listed("counting:///in")
    counting.fetched = 0
    with closing(read_in_order(refs, 8)) as readings:
        first, second = next(readings)().audio, next(readings)().audio
        assert not isinstance(first, bytes)
        assert not isinstance(second, bytes)
        assert counting.fetched == 0
        assert second.read() == first.read() == content


def test_readings_that_nobody_takes_are_given_up(counting: type[Counting]) -> None:
    for number in range(20):
        counting().pipe_file(f"/in/{number:02d}.wav", b"x" * 1000)
    refs = listed("counting:///in")
    counting.fetched = 0
    counting.gate.clear()
    readings = read_in_order(refs, 2)
    next(readings)
    readings.close()
    counting.gate.set()
    both_are_free = threading.Barrier(3, timeout=60)
    for _ in range(2):
        workers(2).submit(both_are_free.wait)
    both_are_free.wait()
    assert counting.fetched <= 2000


def test_rows_of_a_table_come_with_their_version(s3: SmallS3) -> None:
    s3.objects = {"t.parquet": a_table()}
    refs = listed("s3://b/t.parquet")
    s3.log.clear()
    assert len(in_order(refs, 8)) == COUNT
    assert [method for method, *_ in s3.log].count("HEAD") == 1  # for its size


def test_what_is_read_of_a_long_recording_has_its_version(s3: SmallS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "WHOLE_BYTES", 1000)
    monkeypatch.setattr(ranges, "AHEAD_BYTES", 200)
    s3.objects = {"in/a.wav": bytes(range(200)) * 10}
    (ref,) = listed("s3://b/in")
    s3.log.clear()
    file = read_recording(ref).audio
    assert not isinstance(file, bytes)
    with file:
        assert file.read(300) == s3.objects["in/a.wav"][:300]
        assert remote.version_read(file) == ref.version
        assert [method for method, *_ in s3.log].count("HEAD") == 1
        s3.objects["in/a.wav"] = bytes(2000)
        assert len(file.read()) == 1700
        assert remote.version_read(file) == ""
    with pytest.raises(BadRecording, match="source_changed"):
        read_recording(ref)
