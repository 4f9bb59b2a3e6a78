"""Splits of corpora: searched in folders, files and globs; one of several must be named."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import fsspec
import pytest

from pipeline.config import ConfigError, SourceConfig
from pipeline.schemas import BadRecording
from pipeline.sources.access import names, remote
from pipeline.sources.access.listing import list_files, list_folder
from pipeline.sources.corpora import splits
from pipeline.sources.corpora.splits import Layout, choose_splits, file_stem, find_splits, is_corpus

LAYOUT = Layout(re.compile(r"[a-z]{2}/(?P<split>dev|test)\.tsv"), "clips", re.compile("clips"))
TREE = [
    "de/dev.tsv",
    "de/test.tsv",
    "de/clips/a.mp3",
    "fr/test.tsv",
    "fr/clips/b.mp3",
    "es/test.tsv",
    "de/x/de/test.tsv",
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in TREE:
        path = tmp_path / "corpus" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize(
    ("uri", "tables"),
    [
        ("corpus", ["de/dev", "de/test", "fr/test"]),
        ("", ["de/dev", "de/test", "fr/test"]),
        ("corpus/de", ["de/dev", "de/test"]),
        ("corpus/fr/../de/.", ["de/dev", "de/test"]),
        ("corpus/de/test.tsv", ["de/test"]),
        ("corpus/*/test.tsv", ["de/test", "fr/test"]),
        ("corpus/{fr,de}", ["fr/test", "de/dev", "de/test"]),
        ("corpus/{fr,de}/test.tsv", ["fr/test", "de/test"]),
        ("corpus/es", []),  # no clips beside it
    ],
)
def test_tables_with_audio_beside_them_are_splits(root: Path, uri: str, tables: list[str]) -> None:
    splits = list(find_splits(f"{root}/{uri}", LAYOUT))
    assert [f"{split.folder()}/{split.name}" for split in splits] == tables
    for split in splits:
        assert Path(split.uri("clips")).is_dir()
        assert Path(split.uri("", up=2)).name == "corpus"


def test_a_relative_folder_has_its_full_name(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root / "corpus/de")
    assert [split.folder() for split in find_splits(".", LAYOUT)] == ["de", "de"]


def test_stores_are_searched_like_disks() -> None:
    for name in TREE:
        fsspec.filesystem("memory").pipe_file(f"/splits/{name}", b"x")
    for uri in ("memory://splits", "memory:///splits/"):
        splits = list(find_splits(uri, LAYOUT))
        assert [(split.folder(), split.name) for split in splits] == [("de", "dev"), ("de", "test"), ("fr", "test")]
        assert splits[0].uri("clips/a.mp3") == "memory:///splits/de/clips/a.mp3"


def test_a_corpus_in_a_zip_is_searched_too(root: Path) -> None:
    with zipfile.ZipFile(root / "corpus.zip", "w") as file:
        for name in TREE:
            file.writestr(name, b"x")
    (split,) = find_splits(f"zip://fr::{root}/corpus.zip", LAYOUT)
    assert (split.folder(), split.name) == ("fr", "test")
    assert split.uri("clips/b.mp3") == f"zip://fr/clips/b.mp3::{root}/corpus.zip"
    assert remote.read_file(split.uri("clips/b.mp3")) == b"x"


@pytest.mark.parametrize(
    ("uri", "is_one"),
    [("", True), ("corpus/de", True), ("corpus/*/test.tsv", True), ("corpus/es", False), ("corpus/*/clips/*", False)],
)
def test_a_hint_leads_to_a_corpus(root: Path, uri: str, is_one: bool) -> None:
    layout = LAYOUT._replace(hint=re.compile(r"/clips/[^/]+$|/test\.tsv$"))
    assert is_corpus(f"{root}/{uri}", list_files(f"{root}/{uri}"), layout) is is_one


def test_false_hints_cause_a_few_listings_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(40):
        (tmp_path / f"{number:02d}/clips").mkdir(parents=True)
        (tmp_path / f"{number:02d}/clips/x.mp3").touch()
    listed: list[str] = []
    monkeypatch.setattr(splits, "list_folder", lambda uri: listed.append(uri) or list_folder(uri))
    assert not is_corpus(str(tmp_path), list_files(str(tmp_path)), LAYOUT._replace(hint=re.compile("/clips/")))
    assert listed == [f"{tmp_path}/{number:02d}" for number in range(splits.MAX_HINTS)]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"uri": "corpus"}, r"source\.split: .*corpus has several; set it to one of dev, test"),
        ({"uri": "corpus", "split": "train"}, r"source\.split: .*corpus has no 'train' \(it has dev, test\)"),
        ({"uri": "corpus/es"}, r"source\.uri: .*es: no table of a split with the folder clips beside it \(format x\)"),
        ({"uri": "corpus/nowhere"}, r"source\.uri: .*nowhere: no such file or folder"),
        ({"uri": "corpus/{nowhere,de}"}, r"source\.uri: .*nowhere: no such file or folder"),
        ({"uri": "corpus/{00..99}"}, r"source\.uri: .*: the braces stand for more than 10 names"),
        ({"uri": "corpus/de", "id_column": "x"}, r"source\.id_column: format x has a fixed column for it"),
        ({"uri": "corpus/de", "audio_column": "x"}, r"source\.audio_column: format x has a fixed column for it"),
    ],
)
def test_wrong_settings_of_a_split_are_an_error_in_one_line(
    root: Path, keys: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "MAX_EXPANSION", 10)
    with pytest.raises(ConfigError, match=f"^{message}$"):
        choose_splits(SourceConfig(**keys | {"uri": f"{root}/{keys['uri']}"}), LAYOUT, "x")


def test_one_split_of_every_language_is_chosen(root: Path) -> None:
    chosen = choose_splits(SourceConfig(uri=str(root), split="test"), LAYOUT, "x")
    assert [split.folder() for split in chosen] == ["de", "fr"]
    assert [split.folder() for split in choose_splits(SourceConfig(uri=f"{root}/corpus/fr"), LAYOUT, "x")] == ["fr"]


@pytest.mark.parametrize(("path", "parts"), [("a.1.MP3", ("a.1", "mp3")), ("a.b", ("a.b", "")), ("a", ("a", ""))])
def test_only_the_extension_of_audio_is_split_off(path: str, parts: tuple[str, str]) -> None:
    assert file_stem(path, "path") == parts


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        (None, "bad_metadata"),
        ("", "bad_metadata"),
        ("/a.mp3", "unsafe_name"),
        ("../a", "unsafe_name"),
        ("a\0", "unsafe_name"),
    ],
)
def test_paths_with_folders_are_refused(path: str | None, reason: str) -> None:
    with pytest.raises(BadRecording, match=f"^{reason}: path: "):
        file_stem(path, "path")
