"""Whisper looks again where a text is bad, keeps the best of several beams, and says when each word was spoken."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.config import DecodeConfig
from pipeline.model.number_type import torch_type
from pipeline.model.whisper import alignment, cleaning, recogniser, script
from pipeline.model.whisper.recogniser import Heard, Whisper
from pipeline.model.whisper.search import Hypothesis
from pipeline.schemas import SegmentResult, Word
from tests.support.small_model import noise_segment
from tests.support.small_whisper import save_whisper

PLAIN = DecodeConfig(temperatures=(0.0,), no_speech_probability=1.0, clean=False)
COUNT = 8


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Whisper:
    return recogniser.load(str(save_whisper(tmp_path_factory.mktemp("whisper") / "small")), decode=PLAIN)


def other(loaded: Whisper, decode: DecodeConfig) -> Whisper:
    return Whisper(loaded.model, loaded.tokenizer, loaded.spec, decode)


def answers(model: Whisper, numbers: range) -> list[SegmentResult]:
    found = model.recognise([noise_segment(n, "en", seconds=0.2 + 0.08 * n) for n in numbers])
    assert all(result is not None for result in found)
    return [result for result in found if result is not None]


def test_an_improbable_text_is_tried_at_every_temperature_and_the_most_probable_one_stays(loaded: Whisper) -> None:
    """With a bound that no text of this checkpoint reaches."""
    temperatures = (0.0, 0.3, 0.9)
    strict = PLAIN.model_copy(update={"temperatures": temperatures, "min_log_probability": -0.001})
    strict = strict.model_copy(update={"max_compression_ratio": 1000.0})
    alone = [answers(other(loaded, strict), range(n, n + 1))[0] for n in range(COUNT)]
    singles = [
        answers(other(loaded, strict.model_copy(update={"temperatures": (t,)})), range(COUNT)) for t in temperatures
    ]
    chosen = set()
    for n, result in enumerate(alone):
        assert result.signals is not None
        tries = [(of[n].signals or {})["log_probability_mean"] or -math.inf for of in singles]
        assert result.text == singles[tries.index(max(tries))][n].text
        chosen.add(result.signals["temperature"])
    assert len(chosen) > 1
    assert [result.text for result in answers(other(loaded, strict), range(COUNT))] == [one.text for one in alone]


def test_a_text_that_is_good_is_not_tried_again(loaded: Whisper) -> None:
    easy = PLAIN.model_copy(
        update={"temperatures": (0.0, 0.5), "min_log_probability": -100.0, "max_compression_ratio": 1000.0}
    )
    assert answers(other(loaded, easy), range(COUNT)) == answers(loaded, range(COUNT))


def test_beams_find_what_a_beam_search_over_whole_passes_finds(loaded: Whisper) -> None:
    """The reference calls the model anew with every whole text, and copies no cache."""
    found = answers(other(loaded, PLAIN.model_copy(update={"beams": 3})), range(COUNT))
    differ = 0
    for n, result in enumerate(found):
        text, mean = reference(loaded, n, beams=3)
        assert (result.text, (result.signals or {})["log_probability_mean"]) == (text, pytest.approx(mean, abs=1e-3))
        differ += text != reference(loaded, n, beams=1)[0]
    assert differ


@torch.inference_mode()
def reference(loaded: Whisper, n: int, beams: int) -> tuple[str, float]:
    spec, generation = loaded.spec, loaded.model.generation_config
    encoded = loaded.encode([noise_segment(n, "en", seconds=0.2 + 0.08 * n)])
    prompt = spec.prompt(spec.language_ids["en"])
    going: list[tuple[float, list[int]]] = [(0.0, [])]
    ended: list[tuple[float, list[int]]] = []
    while len(ended) < beams and len(going[0][1]) < spec.max_tokens:
        candidates = []
        for score, tokens in going:
            ids = torch.tensor([prompt + tokens])
            logits = loaded.model(encoder_outputs=(encoded,), decoder_input_ids=ids).logits[0, -1]
            logits[generation.suppress_tokens] = -math.inf
            if not tokens:
                logits[generation.begin_suppress_tokens] = -math.inf
            best = logits.log_softmax(-1).topk(2 * beams)
            candidates += [
                (score + value, [*tokens, token]) for value, token in zip(*map(torch.Tensor.tolist, best), strict=True)
            ]
        going = []
        for score, tokens in sorted(candidates, reverse=True):
            (ended if tokens[-1] in spec.eos else going).append((score, tokens))
            if len(going) == beams:
                break
    score, tokens = max(ended or going, key=lambda one: one[0] / len(one[1]))
    return loaded.tokenizer.decode(tokens, skip_special_tokens=True).strip(), score / len(tokens)


def known(loaded: Whisper, text: str, log_probability: float, no_speech: float) -> Heard:
    tokens = [*loaded.tokenizer.encode(text, add_special_tokens=False).ids, loaded.spec.eos[0]]
    count = len(tokens)
    found = Hypothesis(tokens, [0.5] * count, [1.0] * count, log_probability * count)
    return Heard(None, None, no_speech, found, 0.0, text, cleaning.compression_ratio(text))


@pytest.mark.parametrize(
    ("log_probability", "no_speech", "text"),
    [(-1.5, 0.7, ""), (-0.5, 0.7, "ban n"), (-1.5, 0.55, "ban n")],
)
def test_it_is_silence_only_where_the_text_is_improbable_too(
    loaded: Whisper, log_probability: float, no_speech: float, text: str
) -> None:
    model = other(loaded, DecodeConfig())
    heard = known(loaded, "ban n", log_probability, no_speech)
    result = model.result(heard, model._cut(heard), [])
    assert result is not None
    assert result.text == text
    assert (result.confidence == no_speech) == (not text)


def test_what_is_removed_is_counted_in_the_signals(loaded: Whisper) -> None:
    model = other(loaded, DecodeConfig())
    heard = known(loaded, " ban n" * 8 + " f. Subtitles by the Amara.org community", -0.1, 0.0)
    cut = model._cut(heard)
    left = loaded.tokenizer.decode([heard.hypothesis.tokens[at] for at in cut.positions])
    assert (left.strip(), cut.loops, cut.phrases) == ("ban n f.", 14, 5)
    short = known(loaded, "ban n", -0.1, 0.0)
    result = model.result(short, replace(cut, positions=[0]), [])
    assert result is not None
    assert result.signals is not None
    assert (result.signals["repeats_removed"], result.signals["phrases_removed"]) == (14.0, 5.0)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("no no no no", "no no no no"),
        ("go " * 12, "go"),
        ("a b c " * 5 + "a b", "a b c"),
        ("x " + "A, b. " * 6 + "y", "x A, b. y"),
        ("one two three one two three", "one two three one two three"),
        ("", ""),
    ],
)
def test_only_what_nobody_would_say_so_often_is_a_loop(text: str, kept: str) -> None:
    words = text.split()
    assert [words[number] for number in cleaning.without_loops(words)] == kept.split()


@pytest.mark.parametrize(
    ("text", "is_speech", "left"),
    [
        ("Thank you for watching!", True, 4),
        ("Thank you for watching!", False, 0),
        ("I said: thank you.", False, 4),
        ("Untertitel im Auftrag des ZDF für funk, 2017", True, 0),
        ("Bis bald. Untertitel der Amara.org-Community", True, 2),
        ("Untertitel der Amara.org-Community sind gut", True, 5),
    ],
)
def test_known_phrases_go_where_nobody_says_them(text: str, is_speech: bool, left: int) -> None:
    assert cleaning.without_phrases(text.split(), is_speech=is_speech) == left


@pytest.mark.parametrize("seed", range(20))
def test_the_path_is_the_cheapest_of_all(seed: int) -> None:
    random = np.random.default_rng(seed)
    rows, columns = (int(number) for number in random.integers(1, 6, 2))
    cost = random.standard_normal((rows, columns))

    def cheapest(row: int, column: int) -> tuple[float, list[int]]:
        if row == column == 0:
            return float(cost[0, 0]), [0]
        before = [cheapest(row - r, column - c) for r, c in ((1, 0), (0, 1), (1, 1)) if row >= r and column >= c]
        total, starts = min(before)
        return total + float(cost[row, column]), starts if len(starts) > row else [*starts, column]

    assert alignment.path_starts(cost) == cheapest(rows - 1, columns - 1)[1]


def test_tokens_are_where_the_heads_look() -> None:
    scores = np.full((2, 4, 100), -9.0, np.float32)
    for token, (first, end) in enumerate(itertools.pairwise([0, 20, 35, 60, 80])):
        scores[:, token, first:end] = 0.0
    times = alignment.token_times(scores, 80)
    wanted = [(0, 400), (400, 700), (700, 1200)]
    np.testing.assert_allclose(times, wanted, atol=60)


def test_words_have_times_in_order_inside_the_segment(loaded: Whisper) -> None:
    for n, result in enumerate(answers(loaded, range(COUNT))):
        times = [time for word in result.words for time in (word["start_ms"], word["end_ms"])]
        assert times == sorted(times)
        assert not times or (times[0] >= 0 and times[-1] <= 200 + 80 * n)
        without = answers(other(loaded, PLAIN.model_copy(update={"word_times": False})), range(n, n + 1))[0]
        assert [word["start_ms"] for word in without.words] == [None] * len(result.words)
        assert without.text == result.text


def test_mandarin_is_written_in_simplified_characters() -> None:
    words: list[Word] = [
        {"text": text, "confidence": 1.0, "start_ms": 0, "end_ms": 1} for text in ("謝", "謝", "OK", "你")
    ]
    result = SegmentResult("謝謝 OK 你", words=words)
    script.simplify(result)
    assert result.text == "谢谢 OK 你"
    assert [word["text"] for word in result.words] == ["谢", "谢", "OK", "你"]


def test_bfloat16_is_for_a_cpu_that_computes_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = tmp_path / "cpuinfo"
    monkeypatch.setattr("pipeline.model.number_type.CPU", cpu)
    assert torch_type("auto", "cpu", is_whisper=True) == torch.float32
    cpu.write_text("processor: 0\nflags\t\t: fpu avx512_bf16 sse\n")
    assert torch_type("auto", "cpu", is_whisper=True) == torch.bfloat16
    assert torch_type("auto", "cpu") == torch_type("auto", "cuda", is_whisper=True) == torch.float32
    assert torch_type("bfloat16", "cpu") == torch.bfloat16


def test_the_detected_language_is_that_of_the_words(loaded: Whisper) -> None:
    given = noise_segment(1, None)
    found, said = loaded.recognise([given])[0], loaded.recognise([replace(given, language="de")])[0]
    assert found is not None
    assert said is not None
    assert found.language in loaded.spec.language_ids
    assert said.language is None
