"""Whisper gives what transformers itself gives, in any batch, and no answer for a row that is not finite."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizer

from pipeline.config import LANGUAGES, ConfigError, DecodeConfig
from pipeline.model.whisper import recogniser
from pipeline.model.whisper import recogniser as whisper
from pipeline.model.whisper.recogniser import Heard, Whisper
from pipeline.model.whisper.search import Hypothesis, best_texts
from pipeline.schemas import SAMPLE_RATE, Segment, SegmentResult
from tests.support.small_model import noise_segment
from tests.support.small_whisper import edit, save_whisper

COUNT = 12
# What transformers does: one greedy try, and whatever comes out is the text.
PLAIN = DecodeConfig(temperatures=(0.0,), no_speech_probability=1.0, clean=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_whisper(tmp_path_factory.mktemp("whisper") / "small")


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Whisper:
    return whisper.load(str(folder), decode=PLAIN)


@pytest.fixture(scope="module")
def segments() -> list[Segment]:
    return [noise_segment(n, (None, *LANGUAGES)[n % 7], seconds=0.1 + 0.9 * n / COUNT) for n in range(COUNT)]


def recognised(model: Whisper, segments: list[Segment]) -> list[SegmentResult]:
    results = model.recognise(segments)
    assert all(result is not None for result in results)
    return [result for result in results if result is not None]


@pytest.fixture(scope="module")
def alone(loaded: Whisper, segments: list[Segment]) -> list[SegmentResult]:
    return [result for segment in segments for result in recognised(loaded, [segment])]


def test_the_text_is_what_transformers_alone_makes_of_the_same_audio(
    folder: Path, segments: list[Segment], alone: list[SegmentResult]
) -> None:
    """The reference uses the features, loading, generate and detokenisation of transformers only."""
    model = WhisperForConditionalGeneration.from_pretrained(folder)
    tokenizer = WhisperTokenizer.from_pretrained(folder)
    extract = WhisperFeatureExtractor(chunk_length=1)
    for segment, ours in zip(segments, alone, strict=True):
        samples = np.frombuffer(segment.pcm, "<i2") / 32768
        features = extract(samples, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
        tokens = model.generate(features, language=segment.language, task="transcribe", max_new_tokens=16)
        assert ours.text == tokenizer.decode(tokens[0], skip_special_tokens=True).strip()


def test_the_texts_of_this_checkpoint_differ_and_end(alone: list[SegmentResult]) -> None:
    """Otherwise the tests here would prove little."""
    assert len({result.text for result in alone}) == COUNT
    assert len({result.steps for result in alone}) > 3
    assert {result.overflow for result in alone} == {False, True}


@pytest.mark.parametrize("size", [2, 5, COUNT])
def test_a_result_does_not_depend_on_its_batch(
    loaded: Whisper, segments: list[Segment], alone: list[SegmentResult], size: int
) -> None:
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(size)).tolist()
    for start in range(0, COUNT, size):
        numbers = order[start : start + size]
        for n, got in zip(numbers, recognised(loaded, [segments[n] for n in numbers]), strict=True):
            assert (got.text, got.steps, got.overflow) == (alone[n].text, alone[n].steps, alone[n].overflow)
            assert got.confidence == pytest.approx(alone[n].confidence, abs=1e-4)


def test_the_same_again_is_the_same_to_the_last_bit(loaded: Whisper, segments: list[Segment], folder: Path) -> None:
    assert (
        loaded.recognise(segments)
        == loaded.recognise(segments)
        == whisper.load(str(folder), decode=PLAIN).recognise(segments)
    )


def test_a_result_has_what_a_sequence_has_and_null_for_the_rest(alone: list[SegmentResult]) -> None:
    for result in alone:
        assert result.error is None
        assert result.confidence is not None
        assert 0 < result.confidence <= 1
        assert result.canvas_length == 16
        assert result.overflow == (result.canvas_fill == 1.0)
        assert result.steps == round(result.canvas_fill * 16) + (not result.overflow)  # the end token took one too
        assert result.signals is not None
        mean, lowest = (result.signals[f"token_probability_{name}"] for name in ("mean", "min"))
        assert 0 < lowest <= mean <= 1
        assert 0 < result.signals["entropy_mean"] <= result.signals["entropy_max"] <= 1
        assert [name for name, value in result.signals.items() if value is None] == [
            "first_stable_step_mean",
            "revisions",
            "early_distance",
            "ctc_score",
            "ctc_disagreement",
            "repeats_removed",
            "phrases_removed",
            *(["language_probability"] if result.language is None else []),
        ]
        assert "".join(str(word["text"]) for word in result.words) == "".join((result.text or "").split())


def test_probabilities_are_those_of_the_decoder_at_temperature_one(loaded: Whisper, segments: list[Segment]) -> None:
    """One pass over the whole sequence gives the same as the steps. Forbidden tokens have no share."""
    segment = segments[2]
    with mock.patch.object(recogniser, "best_texts", wraps=best_texts) as watched:
        watched.side_effect = lambda *given, **wanted: found.append(best_texts(*given, **wanted)) or found[-1]
        found: list[list[Hypothesis]] = []
        recognised(loaded, [segment])
    generated = found[0][0]
    ids = loaded.tokenizer.token_to_id
    prompt = [ids(f"<|{name}|>") for name in ("startoftranscript", str(segment.language), "transcribe", "notimestamps")]
    count = len(generated.tokens)
    with torch.inference_mode():
        logits = loaded.model(
            encoder_outputs=(loaded.encode([segment]),),
            decoder_input_ids=torch.tensor([prompt + generated.tokens[:-1]]),
        ).logits[0, 3:]
    logits = logits.clone()
    generation = loaded.model.generation_config
    logits[:, generation.suppress_tokens] = -math.inf
    logits[0, generation.begin_suppress_tokens] = -math.inf
    probability = logits.softmax(-1)
    assert probability.argmax(-1).tolist() == generated.tokens
    np.testing.assert_allclose(probability.max(-1).values, generated.probability, rtol=1e-4)
    assert generated.score == pytest.approx(float(probability.max(-1).values.log().sum()), rel=1e-4)
    entropy = [-sum(p * math.log(p) for p in probability[i].double().tolist() if p > 0) for i in range(count)]
    np.testing.assert_allclose(entropy, generated.entropy, rtol=1e-4)


def test_the_language_decides_and_where_it_is_unknown_it_is_detected(loaded: Whisper) -> None:
    """Like Whisper does, it compares all languages that it knows; one that is none of ours may be the one."""
    foreign = [noise_segment(n, seconds=0.1 + 0.07 * n) for n in range(COUNT)]
    found = recognised(loaded, foreign)
    codes = {str(result.language) for result in found}
    assert "it" in codes
    assert codes & set(LANGUAGES)
    for segment, result in zip(foreign, found, strict=True):
        assert result.signals is not None
        assert 0 < (result.signals["language_probability"] or 0) <= 1
        spoken = recognised(loaded, [replace(segment, language=result.language)])[0]
        assert (spoken.text, spoken.confidence) == (result.text, pytest.approx(result.confidence, abs=1e-4))
        assert spoken.language is None
    spoken_by = {recognised(loaded, [replace(foreign[1], language=code)])[0].confidence for code in LANGUAGES}
    assert len(spoken_by) == len(LANGUAGES)


def test_an_english_only_checkpoint_is_asked_without_language_and_task(tmp_path: Path) -> None:
    model = whisper.load(str(save_whisper(tmp_path / "en", multilingual=False)), decode=PLAIN)
    one, other = recognised(model, [noise_segment(1, "en"), noise_segment(1)])
    assert one == other
    stock = WhisperForConditionalGeneration.from_pretrained(tmp_path / "en")
    samples = np.frombuffer(noise_segment(1).pcm, "<i2") / 32768
    features = WhisperFeatureExtractor(chunk_length=1)(samples, sampling_rate=SAMPLE_RATE, return_tensors="pt")
    tokens = stock.generate(features.input_features, max_new_tokens=16)
    text = WhisperTokenizer.from_pretrained(tmp_path / "en").decode(tokens[0], skip_special_tokens=True)
    assert one.text == text.strip()


def said(model: Whisper, tokens: list[int], probability: float = 0.5, **known: Any) -> Heard:
    """What the model knows when these tokens came out."""
    found = Hypothesis(tokens, [probability] * len(tokens), [1.0] * len(tokens), math.log(probability) * len(tokens))
    return replace(Heard(None, None, 0.0, found, 0.0, "", 1.0), **known)


@pytest.mark.parametrize(
    ("spoken", "text", "steps", "overflow"),
    [
        ("Ġ ban <|0.00|> n <|1.02|> Ġ f <|endoftext|> ban", "bann f", 8, False),
        ("<|endoftext|> ban", "", 1, False),
        ("ban " * 16, "ban" * 16, 16, True),
        ("ban " * 15 + "<|0.00|>", "ban" * 15, 16, True),
        ("<|it|> ban <|endoftext|>", "ban", 3, False),
    ],
)
def test_what_counts_as_text(loaded: Whisper, spoken: str, text: str, steps: int, overflow: bool) -> None:
    """No timestamps, no special tokens, nothing after the end."""
    tokens = [loaded.tokenizer.token_to_id(token) for token in spoken.split()]
    heard = said(loaded, tokens[: 1 + next((n for n, token in enumerate(tokens) if token in loaded.spec.eos), 99)])
    result = loaded.result(heard, loaded._cut(heard), [])
    assert result is not None
    assert (result.text, result.steps, result.overflow) == (text, steps, overflow)
    assert result.confidence == 0.5


def test_a_text_whose_numbers_are_not_finite_is_no_answer(loaded: Whisper) -> None:
    ban, end = (loaded.tokenizer.token_to_id(token) for token in ("ban", "<|endoftext|>"))
    heard = said(loaded, [ban, end])
    heard.hypothesis.probability[1] = math.nan
    assert loaded.result(heard, loaded._cut(heard), []) is None


def test_a_row_of_nan_leaves_its_neighbours_alone(
    loaded: Whisper, segments: list[Segment], alone: list[SegmentResult]
) -> None:
    encoded = loaded.encode

    def poisoned(given: list[Segment]) -> torch.Tensor:
        hidden = encoded(given).clone()
        hidden[1] = torch.nan
        return hidden

    with mock.patch.object(loaded, "encode", poisoned):
        got = loaded.recognise(segments[2:5])
    assert got[1] is None
    assert [result.text for result in (got[0], got[2]) if result] == [alone[2].text, alone[4].text]


def test_weights_may_be_shards_and_of_another_type(
    folder: Path, tmp_path: Path, segments: list[Segment], alone: list[SegmentResult]
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "shards"))
    state = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    names = sorted(state)
    where = {name: f"model-0000{1 + n % 2}-of-00002.safetensors" for n, name in enumerate(names)}
    for file in set(where.values()):
        save_file({name: state[name].double() for name in names if where[name] == file}, copy / file)
    edit_index = copy / "model.safetensors.index.json"
    edit_index.write_text("{}")
    edit(edit_index, weight_map=where)
    assert [result.text for result in recognised(whisper.load(str(copy), decode=PLAIN), segments)] == [
        result.text for result in alone
    ]


def test_bfloat16_recognises_too(folder: Path, segments: list[Segment]) -> None:
    model = whisper.load(str(folder), dtype=torch.bfloat16)
    assert {weight.dtype for weight in model.model.parameters()} == {torch.bfloat16}
    assert len(recognised(model, segments)) == COUNT


def broken(folder: Path, how: str) -> str:
    """Break a checkpoint. Returns what the error must name."""
    path = folder / "model.safetensors"
    state = load_file(path)
    if how == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    elif how == "missing":
        save_file({k: v for k, v in state.items() if k != "model.decoder.layer_norm.bias"}, path)
        return "missing weights: model.decoder.layer_norm.bias"
    elif how == "unexpected":
        save_file(state | {"model.decoder.extra": torch.zeros(1)}, path)
        return "unexpected weight model.decoder.extra"
    elif how == "shape":
        edit(folder / "config.json", d_model=64)
    elif how == "tokenizer":
        (folder / "tokenizer.json").write_text("{}")
        return "tokenizer.json"
    elif how == "config":
        edit(folder / "config.json", d_model=33)
        return "config.json"
    elif how == "generation":
        edit(folder / "generation_config.json", max_new_tokens=-1)
        return "generation_config.json"
    return "model.safetensors"


@pytest.mark.parametrize("how", ["cut", "missing", "unexpected", "shape", "tokenizer", "config", "generation"])
def test_what_cannot_be_loaded_is_one_line(folder: Path, tmp_path: Path, how: str) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "broken"))
    named = broken(copy, how)
    with pytest.raises(ConfigError) as raised:
        whisper.load(str(copy))
    message = str(raised.value)
    assert message.startswith(f"model.name: {copy}/")
    assert named in message
    assert "\n" not in message
