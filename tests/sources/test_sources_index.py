"""The index beside a .tar: the same recordings from a fraction of the bytes, and never those of another archive."""

from __future__ import annotations

import json
import os
import random
from collections import Counter, deque
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import ConfigError, SourceConfig
from pipeline.schemas import BadRecording, RecordingRef
from pipeline.sources.formats import detect_format, list_recordings, read_recording, write_indexes
from tests.support.corpora import archive
from tests.support.small_s3 import SmallS3

MEMBERS = {
    name: data
    for number in range(30)
    for name, data in (
        (f"{number:02d}.wav", random.Random(number).randbytes(50_000)),
        (f"{number:02d}.json", b'{"text": "text of %d"}' % number),
    )
} | {"notes.md": b"notes", "é/../x.wav": b"out of it", "é.wav": b"a name"}


def listed(uri: object) -> list[RecordingRef]:
    return list(list_recordings(SourceConfig(uri=str(uri))))


def write(uri: object) -> list[bool]:
    return [is_new for _, is_new in write_indexes(SourceConfig(uri=str(uri)))]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A whole shard, one that is cut, one that is packed, one that is none."""
    root = tmp_path / "in"
    root.mkdir()
    whole = archive(MEMBERS, ".tar")
    contents = {"a.tar": whole, "b.tar": whole[:700_000], "c.tar.gz": archive(MEMBERS), "d.tar": b"no archive" * 100}
    for name, data in contents.items():
        (root / name).write_bytes(data)
    return root


def test_a_listing_with_indexes_is_the_listing_without(shards: Path) -> None:
    before = listed(shards)
    assert write(shards) == [True, True, False, True]
    assert sorted(path.name for path in shards.glob("*.idx.json")) == [f"{name}.tar.idx.json" for name in "abd"]
    assert listed(shards) == before
    assert write(shards) == [False] * 4
    assert listed(f"{shards}/*.tar") == [ref for ref in before if not ref.source_uri.endswith(".gz")]
    assert not list(shards.glob(".*"))


def test_an_index_is_no_file_of_the_source(shards: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(shards)
    ignored: Counter[str] = Counter()
    list(list_recordings(SourceConfig(uri=str(shards)), ignored=ignored))
    assert ignored == {"md": 2}  # the cut shard ends before
    assert detect_format(str(shards)) == "webdataset"
    assert "other formats" not in caplog.text


def test_a_remote_archive_with_an_index_is_not_read_to_be_listed(s3: SmallS3) -> None:
    data = archive(MEMBERS, ".tar")
    s3.objects = {"in/a.tar": data, "in/b.tar": data}
    before = listed("s3://b/in/*.tar")
    s3.objects["in/a.tar.idx.json"] = index_of("in/a.tar", s3)
    s3.log.clear()
    assert listed("s3://b/in/*.tar") == before
    fetched = dict.fromkeys(("in/a.tar", "in/b.tar"), 0)
    for method, key, asked in s3.log:
        if method == "GET" and key in fetched and asked:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            fetched[key] += int(last) + 1 - int(first)
    assert fetched["in/a.tar"] <= 2  # whether it is packed
    assert fetched["in/b.tar"] > 0.5 * len(data)
    assert read_recording(before[3]).audio == MEMBERS["03.wav"]


def index_of(key: str, s3: SmallS3) -> bytes:
    """The index that `write_indexes` would put: this store takes none."""
    from pipeline.sources.access import tar_index
    from pipeline.sources.access.listing import find_file

    put: list[bytes] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tar_index, "_put", lambda _uri, data: put.append(data))
        file = find_file(f"s3://b/{key}")
        assert file is not None
        assert tar_index.write_index(file)
    return put[0]


def test_the_index_of_another_version_is_not_used(shards: Path) -> None:
    write(shards)
    other = archive(dict(reversed(MEMBERS.items())), ".tar")
    (shards / "a.tar").write_bytes(other)
    os.utime(shards / "a.tar", (1, 1))
    with_stale = listed(shards / "a.tar")
    (shards / "a.tar.idx.json").unlink()
    assert with_stale == listed(shards / "a.tar")
    assert write(shards / "a.tar") == [True]


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda _: b"no JSON",
        lambda _: b"[]",
        lambda index: json.dumps(index | {"members": [["x.wav", 10**9, 5]]}).encode(),
        lambda index: json.dumps(index | {"members": [["x.wav", -5, 5]]}).encode(),
        lambda index: json.dumps(index | {"members": [["x.wav", 0, 5, "no reason", ""]]}).encode(),
        lambda index: json.dumps(index | {"members": [3]}).encode(),
        lambda index: json.dumps(index | {"format": "another"}).encode(),
        lambda index: json.dumps({**index, "consumed": None}).encode(),
    ],
)
def test_a_damaged_index_is_not_used(shards: Path, damage: Any) -> None:
    before = listed(shards / "a.tar")
    write(shards)
    index = shards / "a.tar.idx.json"
    index.write_bytes(damage(json.loads(index.read_bytes())))
    assert listed(shards / "a.tar") == before


def test_a_member_that_is_not_where_the_index_says_is_a_change(shards: Path) -> None:
    write(shards)
    index = shards / "a.tar.idx.json"
    content = json.loads(index.read_bytes())
    content["members"][0][1] += 512
    index.write_text(json.dumps(content))
    ref = listed(shards / "a.tar")[0]
    with pytest.raises(BadRecording, match="source_changed"):
        read_recording(ref)


def test_a_store_that_forbids_what_is_not_there_has_no_index(s3: SmallS3) -> None:
    s3.objects = {"in/a.tar": archive(MEMBERS, ".tar")}
    s3.fail["in/a.tar.idx.json"] = deque([403] * 50)
    assert len(listed("s3://b/in/a.tar")) == 32


def test_only_archives_have_an_index(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"^source\.format: .* is files; only \.tar shards have an index"):
        write(tmp_path)


def test_a_folder_that_takes_no_index_is_one_line(s3: SmallS3) -> None:
    s3.objects = {"in/a.tar": archive(MEMBERS, ".tar")}
    s3.fail["in/a.tar.idx.json"] = deque([403] * 20)
    with pytest.raises((ConfigError, OSError), match=r"a\.tar\.idx\.json") as caught:
        write("s3://b/in/a.tar")
    assert "\n" not in str(caught.value)
