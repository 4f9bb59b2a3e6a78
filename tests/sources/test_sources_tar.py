"""The tar walk lists every whole member and never raises, whatever was cut, flipped or invented."""

from __future__ import annotations

import io
import tarfile
from functools import lru_cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.sources.access.tar import MAX_PADDING_BYTES, Member, walk


class Data:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def read(self, start: int, length: int) -> bytes:
        return self.data[start : start + length]

    def reaches(self, end: int) -> bool:
        return end <= len(self.data)


def make_tar(members: dict[str, bytes], *, fmt: int = tarfile.GNU_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=fmt) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def special(name: str, kind: bytes, target: str = "x", pax: dict[str, str] | None = None) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.pax_headers = kind, target, pax or {}
        tar.addfile(info)
    return out.getvalue()


def listed(data: bytes) -> list[Member]:
    return list(walk(Data(data)))


LONG = "deep/" * 60 + "ünï/名前.flac"
MEMBERS = {
    "a/one.flac": b"f" * 1000,
    "a/one.json": b"{}",
    LONG: b"g" * 512,
    "empty.wav": b"",
    "rec.1.flac": b"h" * 3,
    "x" * 120 + ".mp3": b"i" * 2000,
}


@lru_cache
def sample(fmt: int) -> bytes:
    """MEMBERS as an archive; ustar holds short names only."""
    return make_tar(
        {n: d for n, d in MEMBERS.items() if fmt != tarfile.USTAR_FORMAT or len(n.encode()) <= 100}, fmt=fmt
    )


FORMATS = pytest.mark.parametrize("fmt", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])


@FORMATS
def test_every_member_is_listed_with_its_bytes(fmt: int) -> None:
    data = sample(fmt)
    members = listed(data)
    expected = {n: d for n, d in MEMBERS.items() if fmt != tarfile.USTAR_FORMAT or len(n.encode()) <= 100}
    assert len(expected) >= 4
    assert {m.name: data[m.offset : m.offset + m.size] for m in members} == expected
    assert all(m.problem is None for m in members)


@FORMATS
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_cut_archive_keeps_every_whole_member_and_says_that_it_is_cut(fmt: int, data: st.DataObject) -> None:
    whole = sample(fmt)
    ends = {m.name: m.offset + m.size for m in listed(whole)}
    cut = data.draw(st.integers(0, max(ends.values()) + 1))
    members = listed(whole[:cut])
    assert [m.name for m in members if m.problem is None] == [name for name, end in ends.items() if end <= cut]
    assert [m.problem[0] for m in members if m.problem] == ["truncated_archive"]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20_000), st.binary(min_size=1, max_size=600)), max_size=4))
def test_flipped_bytes_never_raise_and_members_stay_inside(changes: list[tuple[int, bytes]]) -> None:
    data = bytearray(sample(tarfile.PAX_FORMAT))
    for at, junk in changes:
        data[at : at + len(junk)] = junk
    members = listed(bytes(data))
    assert all(m.offset + m.size <= len(data) for m in members if m.problem is None)
    assert all(m.problem for m in members if not m.name)
    assert not any(m.name == "" for m in members[:-1])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=5000))
def test_garbage_is_one_problem(data: bytes) -> None:
    members = listed(b"x" + data)
    assert [m.name for m in members] == [""]
    assert members[0].problem is not None
    assert members[0].problem[0] in ("corrupt_archive", "truncated_archive")


def test_members_before_damage_are_listed() -> None:
    data = bytearray(make_tar({"a.flac": b"a" * 512, "b.flac": b"b" * 512, "c.flac": b"c" * 512}))
    data[1024:1100] = b"\xff" * 76  # the header of b
    first, last = listed(bytes(data))
    assert (first.name, first.problem) == ("a.flac", None)
    assert last.name == ""
    assert last.problem is not None
    assert last.problem[0] == "corrupt_archive"
    assert "byte 1024" in last.problem[1]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_devices_and_pipes_are_unsafe(kind: bytes) -> None:
    (member,) = listed(special("a.flac", kind, "/etc/passwd"))
    assert member.problem is not None
    assert member.problem[0] == "unsafe_name"


def test_concatenated_archives_are_all_listed() -> None:
    data = make_tar({"a.flac": b"a"}) + make_tar({"b.flac": b"b"})
    assert [m.name for m in listed(data)] == ["a.flac", "b.flac"]


def test_folders_are_left_out_and_an_archive_without_files_is_not_damaged() -> None:
    assert listed(special("folder", tarfile.DIRTYPE)) == []
    assert listed(make_tar({})) == []


def test_zeros_in_place_of_an_archive_are_damage() -> None:
    (member,) = listed(bytes(MAX_PADDING_BYTES * 2))
    assert member.problem is not None
    assert member.problem[0] == "corrupt_archive"


def test_an_empty_file_is_a_cut_archive() -> None:
    (member,) = listed(b"")
    assert member.problem == ("truncated_archive", "zero bytes")


def test_text_after_the_end_mark_is_not_damage() -> None:
    assert [m.name for m in listed(make_tar({"a.flac": b"a"}) + b"signature" * 100)] == ["a.flac"]


@pytest.mark.parametrize("size", ["-1", "9" * 18, "nine", "99999999999999999999"])
def test_impossible_pax_sizes_are_a_problem(size: str) -> None:
    members = listed(special("a.flac", tarfile.REGTYPE, pax={"size": size}))
    assert len(members) == 1
    assert members[0].problem is not None


def test_pax_records_of_a_wrong_length_are_damage() -> None:
    data = bytearray(make_tar({LONG: b"x"}, fmt=tarfile.PAX_FORMAT))
    assert data[512:515].isdigit()
    data[512:515] = b"999"
    (member,) = listed(bytes(data))
    assert member.problem is not None
    assert member.problem[0] == "corrupt_archive"


def test_sparse_members_are_a_problem_and_the_rest_is_listed() -> None:
    data = special("s.flac", tarfile.REGTYPE, pax={"GNU.sparse.major": "1"})[:1536] + make_tar({"b.flac": b"b"})
    sparse, sound = listed(data)
    assert sparse.problem is not None
    assert sparse.problem[0] == "corrupt_archive"
    assert (sound.name, sound.problem) == ("b.flac", None)


def checksummed(header: bytearray) -> bytes:
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def test_old_sparse_members_are_a_problem_and_the_rest_is_listed() -> None:
    data = bytearray(make_tar({"s.flac": b"x" * 700, "b.flac": b"b"}))
    data[156:157] = tarfile.GNUTYPE_SPARSE
    data[482] = 1  # two more blocks of the map follow
    maps = bytearray(1024)
    maps[504] = 1
    sparse, sound = listed(checksummed(data[:512]) + bytes(maps) + bytes(data[512:]))
    assert sparse.problem is not None
    assert sparse.problem[0] == "corrupt_archive"
    assert (sound.name, sound.problem, sound.size) == ("b.flac", None, 1)


def test_times_in_a_gnu_header_are_not_part_of_the_name() -> None:
    data = bytearray(make_tar({"a.flac": b"a"}))
    data[345:357] = b"15301131767\0"
    (member,) = listed(checksummed(data[:512]) + bytes(data[512:]))
    assert member.name == "a.flac"


def test_a_long_name_of_a_dumped_folder_is_not_that_of_the_next_file() -> None:
    data = bytearray(make_tar({LONG: b"listing", "b.flac": b"b"}))
    at = 512 * 2  # behind the long name and its data
    assert data[at + 156 : at + 157] == tarfile.REGTYPE
    header = data[at : at + 512]
    header[156:157] = b"D"
    data[at : at + 512] = checksummed(header)
    assert [m.name for m in listed(bytes(data))] == ["b.flac"]


def test_names_that_are_not_utf8_can_be_stored() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT, encoding="latin-1") as tar:
        tar.addfile(tarfile.TarInfo("müller.flac"))
    (member,) = listed(out.getvalue())
    assert member.name == "m\\xfcller.flac"
    assert member.name.encode()


def test_data_is_kept_on_demand() -> None:
    members = list(walk(Data(make_tar(MEMBERS)), keep=lambda name, _: name.endswith(".json")))
    assert [m.data for m in members if m.data is not None] == [b"{}"]
