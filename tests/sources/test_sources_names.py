"""File names: extensions, hidden ones, globs and braces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.sources.access.names import SIDECARS, expand_braces, glob_regex, is_hidden, literal_prefix, split_name


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("rec.1.flac", ("rec.1", "flac")),
        ("a/b.c/REC.WAV", ("a/b.c/REC", "wav")),
        ("a.flac.json", None),
        ("flac", None),
        (".flac", None),
        ("a/.mp3", None),
        ("notes.txt", None),
    ],
)
def test_only_the_last_extension_counts(name: str, parts: tuple[str, str] | None) -> None:
    assert split_name(name) == parts


def test_sidecars_split_like_audio() -> None:
    assert split_name("rec.1.JSON", SIDECARS) == ("rec.1", "json")
    assert split_name("rec.1.flac", SIDECARS) is None


@pytest.mark.parametrize(("name", "hidden"), [(".a", True), ("a/.b/c", True), ("./a/../b", False), ("a.b", False)])
def test_hidden_is_what_begins_with_a_dot(name: str, hidden: bool) -> None:
    assert is_hidden(name) is hidden


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a{0..2}b", ["a0b", "a1b", "a2b"]),
        ("{08..11}", ["08", "09", "10", "11"]),
        ("s-{0,1}.{tar,tgz}", ["s-0.tar", "s-0.tgz", "s-1.tar", "s-1.tgz"]),
        ("{a,{b,c}d}", ["a", "bd", "a", "cd"]),
        ("{x}{}{,y}", ["{x}{}", "{x}{}y"]),
        ("plain", ["plain"]),
        ("{3..1}", []),
    ],
)
def test_braces_are_expanded_in_order(pattern: str, names: list[str]) -> None:
    assert list(expand_braces(pattern)) == names


def test_braces_are_bounded() -> None:
    with pytest.raises(ValueError, match="more than 1,000,000"):
        glob_regex("{0..9999}{0..9999}*")


MATCHES = {
    "*.wav": (["a.wav", ".wav"], ["x/a.wav", "a.wave"]),
    "**.wav": (["a.wav", "x/y/a.wav"], ["a.flac"]),
    "**/a.wav": (["a.wav", "x/a.wav", "x/y/a.wav"], ["xa.wav"]),
    "x/**/a": (["x/a", "x/y/a", "x/y/z/a"], ["xa", "x/ya"]),
    "x/**": (["x/a", "x/y/a"], ["y/a"]),
    "?[0-9][!b-d]": (["a0a", "b9e"], ["a0b", "aa0", "/00", "a0/"]),
    "[!]]": (["[", "a"], ["]", "/"]),
    "[]a]": (["]", "a"], ["b"]),
    "[a": (["[a"], ["a"]),
    "a.(b)+$": (["a.(b)+$"], ["aX(b)+$"]),
    "{a,b*}.{x,y}": (["a.x", "bcd.y"], ["ac.x", "a.z"]),
}


@pytest.mark.parametrize("pattern", MATCHES)
def test_globs_match_whole_paths(pattern: str) -> None:
    matches = glob_regex(pattern).fullmatch
    yes, no = MATCHES[pattern]
    assert [name for name in yes if not matches(name)] == []
    assert [name for name in no if matches(name)] == []


def test_globs_on_ids_cross_slashes() -> None:
    matches = glob_regex("de*?.wav", within_folder=False).fullmatch
    assert matches("de/x/a.wav")
    assert not matches("fr/de/a.wav")


@given(st.text(alphabet="ab/.*?[]{}!-,0\\^$", max_size=12), st.text(alphabet="ab/.0", max_size=8))
def test_any_text_is_a_pattern_or_a_value_error_and_matches_have_its_prefix(pattern: str, name: str) -> None:
    try:
        matches = glob_regex(pattern).fullmatch(name)
    except ValueError:
        return
    assert not matches or name.startswith(literal_prefix(pattern))


@given(st.text(alphabet="ab/.0(+^$\\", max_size=12))
def test_a_name_without_wildcards_matches_only_itself(name: str) -> None:
    matches = glob_regex(name).fullmatch
    assert matches(name)
    assert not matches(f"{name}x")
