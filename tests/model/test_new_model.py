"""The tokenizer spells every text, deterministically, in few tokens and with the ids that new_model names."""

from __future__ import annotations

import random
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from pipeline.model import new_model
from pipeline.model.new_model import LANGUAGE_TOKENS, SPECIAL_TOKENS, train_tokenizer

TEXTS = ["guten morgen", "buenos días", "नमस्ते दुनिया", "你好世界", "twenty one", "vingt et un", "ja", "yes"] * 4
SMALL = train_tokenizer(TEXTS, 420)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return SMALL


def encoded(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


@pytest.mark.parametrize("text", sorted(set(TEXTS)))
def test_texts_it_was_trained_on_come_back(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(encoded(tokenizer, text), skip_special_tokens=True) == text


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\u2581"), max_size=6), max_size=5))
def test_any_text_comes_back_by_way_of_bytes(words: list[str]) -> None:
    """But for U+2581, which stands for the space."""
    text = " ".join(unicodedata.normalize("NFC", " ".join(words)).split())
    if any(token in text for token in (*SPECIAL_TOKENS, *LANGUAGE_TOKENS)):
        return
    assert SMALL.decode(encoded(SMALL, text), skip_special_tokens=True) == text


def test_special_tokens_have_the_ids_that_are_named(tokenizer: Tokenizer) -> None:
    for number, token in enumerate((*SPECIAL_TOKENS, *LANGUAGE_TOKENS)):
        assert tokenizer.token_to_id(token) == number
    named = [new_model.PAD, new_model.EOS, new_model.BOS, new_model.AUDIO]
    assert [tokenizer.id_to_token(number) for number in named] == ["<pad>", "<eos>", "<bos>", "<|audio|>"]


def test_special_tokens_are_one_token_each_and_left_out_of_text(tokenizer: Tokenizer) -> None:
    ids = encoded(tokenizer, "<bos><|turn><|en|><|audio|><turn|>")
    assert [tokenizer.id_to_token(number) for number in ids] == ["<bos>", "<|turn>", "<|en|>", "<|audio|>", "<turn|>"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == ""


def test_the_same_texts_give_the_same_tokenizer_in_any_order() -> None:
    shuffled = list(TEXTS)
    random.Random(0).shuffle(shuffled)
    assert train_tokenizer(shuffled, 420).to_str() == train_tokenizer(TEXTS, 420).to_str()


@pytest.mark.parametrize("vocab_size", [330, 360, 5000])
def test_the_vocabulary_is_never_larger_than_asked_for(vocab_size: int) -> None:
    tokenizer = train_tokenizer(TEXTS, vocab_size)
    ids = tokenizer.get_vocab().values()
    assert tokenizer.get_vocab_size() <= vocab_size
    assert sorted(ids) == list(range(len(ids)))  # no gap: the model has a row for every id and no other


def test_every_byte_has_a_token(tokenizer: Tokenizer) -> None:
    size = tokenizer.get_vocab_size()
    assert [tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in range(256)] == list(range(size - 256, size))


def test_a_frequent_word_is_one_token() -> None:
    tokenizer = train_tokenizer(["morgen"] * 50 + ["abend"] * 40, 400)
    assert len(encoded(tokenizer, "morgen")) == 1
    assert len(encoded(tokenizer, "morgen abend")) == 2  # the space is part of the word's token
