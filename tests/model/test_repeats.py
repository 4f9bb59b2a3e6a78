"""Repetitions: what CTC heard less often is cut; what a speaker repeats is never touched."""

from __future__ import annotations

import itertools
import json
import string
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.model.denoise.repeats import kept_words, split_words
from pipeline.model.files.layout import ASSETS

WORDS = st.sampled_from(
    ["a", "the", "very", "good", "bye", "no", "nous", "die", "धीरे", "खुश", "天", "妈", "看", "-", "Yes,", "yes", "yes."]
)
LONGER = st.sampled_from(["very", "good", "again", "tomorrow", "nous", "vous", "धीरे"])
SPOKEN = {
    "en": ["bye bye", "that is very very good", "no no no I said no", "Bye, bye!", "it had had its day"],
    "de": ["dass die die Tür öffnen", "sehr sehr gut", "ja ja ja", "und die, die die Katze sahen"],
    "fr": ["nous nous levons", "vous vous trompez vous vous trompez", "très très bien", "oui oui"],
    "es": ["no no", "muy muy bien", "que no no quiero", "sí sí sí"],
    "hi": ["धीरे धीरे चलो", "बार बार", "अलग अलग रंग", "जल्दी जल्दी"],
    "zh": ["天天", "妈妈看看", "谢谢谢谢", "我天天看看书", "研究研究"],
}
PHRASES = [(language, text) for language, texts in SPOKEN.items() for text in texts]


def clean(text: str, hypothesis: str | None) -> list[str]:
    words = split_words(text)
    return [words[index] for index in kept_words(words, hypothesis)]


def misspelled(word: str, at: int = 1) -> str:
    """The word with another letter at one place, where it has 4 or more."""
    return word if len(word) < 4 else word[:at] + ("q" if word[at] != "q" else "k") + word[at + 1 :]


@given(st.lists(WORDS, max_size=40))
def test_a_text_that_its_ctc_text_equals_is_never_changed(words: list[str]) -> None:
    assert kept_words(words, " ".join(words)) == list(range(len(words)))


@given(st.lists(WORDS, max_size=40))
def test_without_ctc_or_with_an_empty_ctc_text_nothing_is_removed(words: list[str]) -> None:
    assert kept_words(words, None) == kept_words(words, "") == list(range(len(words)))


@given(st.lists(LONGER, max_size=30), st.integers(0, 3))
def test_one_wrong_letter_in_every_longer_word_of_ctc_removes_nothing(words: list[str], at: int) -> None:
    noisy = " ".join(misspelled(word, at) for word in words)
    assert kept_words(words, noisy) == list(range(len(words)))


@given(st.lists(WORDS, max_size=30), st.lists(WORDS, max_size=30), st.sets(st.integers(1, 29)))
def test_what_stays_is_in_order_and_no_joined_words_are_parted(
    words: list[str], heard: list[str], joined: set[int]
) -> None:
    kept = kept_words(words, " ".join(heard), joined)
    assert kept == sorted(set(kept))
    assert set(kept) <= set(range(len(words)))
    assert all((index in kept) == (index - 1 in kept) for index in joined if index < len(words))


def test_of_equal_copies_the_last_goes_first_unless_it_is_joined() -> None:
    assert kept_words(["yes"] * 4, "yes yes") == [0, 1]
    assert kept_words(list("星期星期日"), "星期日") == [0, 1, 4]
    assert kept_words(list("星期星期日"), "星期日", {1, 3, 4}) == [2, 3, 4]
    assert kept_words(list("谢谢谢"), "谢", {1, 2}) == [0, 1, 2]


@given(
    st.lists(st.sampled_from(string.ascii_lowercase), unique=True, min_size=1, max_size=20),
    st.integers(1, 8),
    st.integers(0, 19),
    st.integers(1, 30),
)
def test_a_loop_is_cut_to_the_one_time_that_ctc_heard(letters: list[str], length: int, at: int, more: int) -> None:
    """Of up to 8 words anywhere in a text of different words."""
    base = [4 * letter for letter in letters]
    at = min(at, len(base) - 1)
    ngram = base[at : at + length]
    looped = base[:at] + ngram * more + base[at:]
    assert [looped[index] for index in kept_words(looped, " ".join(base))] == base


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("text", ["the", "der Hund", "天", "धीरे", "he says that", "on y va"])
def test_a_loop_is_cut_to_as_often_as_ctc_heard_it(text: str, times: int) -> None:
    heard = " ".join(["eins"] + [text] * times + ["zwei"])
    assert clean(" ".join(["eins"] + [text] * 9 + ["zwei"]), heard) == split_words(heard)


@pytest.mark.parametrize(("language", "text"), PHRASES)
def test_what_people_repeat_is_kept(language: str, text: str) -> None:
    """Also where CTC joins all its words, or splits one, or misspells them."""
    words = split_words(text)
    joined = "".join(words)
    for heard in (text, joined, f"{joined[:2]} {joined[2:]}", " ".join(map(misspelled, words)), text.casefold()):
        assert clean(text, heard) == words, (language, heard)


@pytest.mark.parametrize(
    ("text", "heard"),
    [
        ("bye bye", "by bye"),
        ("bye bye", "bye b"),
        ("nous nous levons", "nou nus levon"),
        ("very very good", "vary verry god"),
        ("die die Tür", "di die tür"),
        ("no no quiero", "nono kiero"),
        ("धीरे धीरे चलो", "धरे धीर चलो"),
        ("我妈妈说", "我吗妈说"),
        ("天天看看", "天大看看"),
        ("hello there bye bye", "bye bye"),
        ("now or never no no", "no no"),
    ],
)
def test_a_noisy_ctc_text_is_support(text: str, heard: str) -> None:
    assert clean(text, heard) == split_words(text)


@pytest.mark.parametrize(
    ("text", "heard", "expected"),
    [
        ("the the the the", "the", "the"),
        ("the the the the cat", "the kat", "the cat"),
        ("Yes, yes. Yes! yes", "yes", "Yes,"),
        ("very very good very very good", "vary verry good", "very very good"),
        ("the the tie", "the tie", "the tie"),
        ("我妈妈妈妈说", "我妈妈说", "我妈妈说"),
        ("天天天天天", "天天", "天天"),
        ("धीरे धीरे धीरे धीरे", "धीरे धरे", "धीरे धीरे"),
        ("guten Tag guten Tag guten Tag", "gutn tag", "guten Tag"),
        ("the the the the cat sat on the mat", "kat sat on mat", "the cat sat on the mat"),
    ],
)
def test_a_loop_is_cut(text: str, heard: str, expected: str) -> None:
    assert clean(text, heard) == split_words(expected)


def test_a_ctc_text_that_heard_too_little_decides_nothing() -> None:
    assert clean("no no I will not go", "no") == ["no", "no", "I", "will", "not", "go"]
    assert clean("no no I will not go", "no i will not go") == ["no", "I", "will", "not", "go"]


def test_nine_words_are_no_repetition_and_eight_are() -> None:
    nine = [2 * letter for letter in string.ascii_lowercase[:9]]
    assert len(kept_words(nine * 2, " ".join(nine))) == 18
    assert len(kept_words(nine[:8] * 2, " ".join(nine[:8]))) == 8


def test_marks_alone_are_no_words_that_repeat() -> None:
    assert clean("- - yes - -", "yes") == ["-", "-", "yes", "-", "-"]


def references() -> Iterator[tuple[str, str]]:
    """Language and text of every recording of the sample archive and of the evaluation set."""
    for path in [*sorted((ASSETS / "sample").glob("shard-00[012].tar")), ASSETS / "evaluation" / "self.tar"]:
        with tarfile.open(Path(path)) as archive:
            for member in archive:
                if member.name.endswith(".json"):
                    file = archive.extractfile(member)
                    assert file is not None
                    about = json.load(file)
                    yield about["language"], about["text"]


def test_nothing_is_removed_from_the_texts_of_the_sample_archive() -> None:
    """With CTC texts that are right, joined, misspelled or have more words."""
    found = list(references())
    assert {language for language, _ in found} == {"en", "de", "fr", "es", "hi", "zh"}
    repeating = 0
    for _, text in found:
        words = split_words(text)
        repeating += any(one == other for one, other in itertools.pairwise(words))
        for heard in (words, ["".join(words)], [misspelled(word) for word in words], ["so", *words, "so"]):
            assert clean(text, " ".join(heard)) == words
    assert repeating >= 6  # 妈妈, 爸爸, 哥哥
