"""Listing of folders: every regular file once, in a stable order, lazily, whatever links and pipes there are."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import fsspec
import pytest

from pipeline.config import ConfigError
from pipeline.sources.access.listing import list_files, list_folder, local_size


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def names_in(uri: Path | str) -> list[str]:
    return [file.name for file in list_files(str(uri))]


def test_folders_come_after_files_and_in_order(tmp_path: Path) -> None:
    touch(tmp_path, "b/x", "b/a/y", "z", "a", ".hidden/x", "b/.h", "c.d/e")
    assert (
        names_in(tmp_path)
        == names_in(f"{tmp_path}/")
        == names_in(f"file://{tmp_path}")
        == ["a", "z", "b/x", "b/a/y", "c.d/e"]
    )


def test_links_are_followed_but_never_in_circles(tmp_path: Path) -> None:
    touch(tmp_path, "data/a/x", "other/y")
    (tmp_path / "data/up").symlink_to(tmp_path / "data")
    (tmp_path / "data/a/self").symlink_to(tmp_path / "data/a")
    (tmp_path / "data/other").symlink_to(tmp_path / "other")
    (tmp_path / "data/file").symlink_to(tmp_path / "other/y")
    (tmp_path / "data/gone").symlink_to(tmp_path / "nowhere")
    assert names_in(tmp_path / "data") == ["file", "gone", "a/x", "other/y"]


def test_a_link_to_itself_is_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.wav").symlink_to("a.wav")
    (tmp_path / "b.wav").write_bytes(b"B")
    assert [(file.name, file.size) for file in list_files(str(tmp_path))] == [("a.wav", 0), ("b.wav", 1)]


def test_pipes_and_sockets_are_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "a")
    os.mkfifo(tmp_path / "pipe.wav")
    assert names_in(tmp_path) == ["a"]
    with pytest.raises(ConfigError, match="neither a file nor a folder"):
        names_in(tmp_path / "pipe.wav")


def test_names_that_are_not_utf8_can_be_stored(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"m\xfcller.wav")).write_bytes(b"x")
    (file,) = list_files(str(tmp_path))
    assert file.name == "m\\xfcller.wav"
    assert file.uri.encode()


def test_a_glob_lists_no_deeper_than_necessary(tmp_path: Path) -> None:
    touch(tmp_path, "a.tar", "x/b.tar", "x/y/c.tar")
    (tmp_path / "x/y/z").mkdir(mode=0o755)
    assert names_in(tmp_path / "*.tar") == ["a.tar"]
    assert names_in(tmp_path / "*/*.tar") == ["x/b.tar"]
    assert names_in(tmp_path / "x/**.tar") == ["b.tar", "y/c.tar"]
    memory = fsspec.filesystem("memory")
    for name in ("a.tar", "x/b.tar", "x/y/c.tar"):
        memory.pipe_file(f"/deep/{name}", b"x")
    assert names_in("memory://deep/*.tar") == ["a.tar"]
    assert names_in("memory://deep/*/*.tar") == ["x/b.tar"]


def test_a_file_with_wildcards_in_its_name_is_itself(tmp_path: Path) -> None:
    touch(tmp_path, "a[1]{x}*.wav", "a1x.wav")
    (file,) = list_files(str(tmp_path / "a[1]{x}*.wav"))
    assert (file.name, file.named) == ("a[1]{x}*.wav", True)


def test_braces_name_files_one_by_one(tmp_path: Path) -> None:
    touch(tmp_path, *(f"s-{i:02d}.tar" for i in range(12)))
    assert names_in(tmp_path / "s-{08..11}.tar") == [f"s-{i:02d}.tar" for i in range(8, 12)]
    with pytest.raises(ConfigError, match=r"^source\.uri: .*s-12\.tar: no such file$"):
        names_in(tmp_path / "s-{08..12}.tar")
    assert names_in(tmp_path / "s-{08..12}*.tar") == [f"s-{i:02d}.tar" for i in range(8, 12)]


def test_a_changed_file_has_another_version(tmp_path: Path) -> None:
    touch(tmp_path, "a")
    (before,) = list_files(str(tmp_path))
    assert list(list_files(str(tmp_path))) == [before]
    os.utime(tmp_path / "a", ns=(1, 1))
    (after,) = list_files(str(tmp_path))
    assert before.version != after.version


def test_many_files_are_listed_in_bounded_memory(tmp_path: Path) -> None:
    for folder in range(20):
        (tmp_path / f"{folder:02d}").mkdir()
        for name in range(200):
            (tmp_path / f"{folder:02d}" / f"{name}.wav").touch()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert sum(1 for _ in list_files(str(tmp_path))) == 4_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8_000  # KiB


def test_one_folder_is_listed_without_those_below(tmp_path: Path) -> None:
    touch(tmp_path, "b.tsv", "a.tsv", "clips/x.mp3", "audio/y/z", ".git/x", ".h")
    fsspec.filesystem("memory").pipe({f"/one/{name}": b"x" for name in ("b.tsv", "a.tsv", "clips/x.mp3", "audio/y/z")})
    for uri, root in ((str(tmp_path), str(tmp_path)), ("memory://one", "memory:///one")):
        files, folders = list_folder(uri) or ([], [])
        assert [(file.uri, file.name, file.size) for file in files] == [
            (f"{root}/{name}", name, 1) for name in ("a.tsv", "b.tsv")
        ]
        assert folders == [f"{root}/audio", f"{root}/clips"]
        assert list_folder(f"{uri}/a.tsv") is None
        assert list_folder(f"{uri}/gone") is None


def test_only_a_local_file_has_a_known_size(tmp_path: Path) -> None:
    touch(tmp_path, "a")
    size, version = local_size(f"{tmp_path}/a")
    assert (size, bool(version)) == (1, True)
    for uri in (f"{tmp_path}", f"{tmp_path}/gone", "s3://b/a", "a", "/" + "x" * 5000, "/\0"):
        assert local_size(uri) == (0, "")
