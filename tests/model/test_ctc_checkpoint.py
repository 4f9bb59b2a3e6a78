"""CTC checkpoints of transformers: the texts of its own pipeline, confidence and times by hand, any clip, any fault."""

from __future__ import annotations

import json
import shutil
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from pipeline.audio.pcm import from_pcm
from pipeline.config import LANGUAGES, ConfigError
from pipeline.model.batches import BatchEngine
from pipeline.model.ctc_checkpoint import WINDOW, CtcRecogniser, load
from pipeline.model.files import layout
from pipeline.schemas import SIGNALS, WORD_SIGNALS, Segment, SegmentResult
from tests.support.small_ctc import FAMILIES, save_ctc
from tests.support.small_model import noise_segment

# The pipeline also reads a frame that is nothing but padding. Sounds of these lengths have none, in any family.
SECONDS = (0.74, 2.38, 1.0, 5.0, 1.5)
SEGMENTS = [noise_segment(number, seconds=seconds) for number, seconds in enumerate(SECONDS)]
PADDED = ("wav2vec2", "wav2vec2-bert", "parakeet")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("ctc")
    return {family: save_ctc(root / family, family) for family in FAMILIES if family != "granite"}


@pytest.fixture(scope="module")
def loaded(folders: dict[str, Path]) -> dict[str, CtcRecogniser]:
    return {family: load(str(folder)) for family, folder in folders.items()}


def samples(segment: Segment) -> np.ndarray:
    return from_pcm(segment.pcm, len(segment.pcm) // 2)


def answers(recogniser: CtcRecogniser, segments: list[Segment]) -> list[SegmentResult]:
    results = recogniser.recognise(segments)
    assert all(result is not None for result in results)
    return [result for result in results if result is not None]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_texts_are_those_of_the_pipeline_of_transformers(family: str, tmp_path: Path) -> None:
    if family == "granite":
        pytest.importorskip("torchaudio", reason="needs torchaudio")
    folder = str(save_ctc(tmp_path / family, family))
    pipe = transformers.pipeline(
        "automatic-speech-recognition", model=folder, feature_extractor=folder, tokenizer=folder, device="cpu"
    )
    wanted = [pipe(samples(segment))["text"] for segment in SEGMENTS]
    assert len(set(wanted)) > 1
    recogniser = load(folder)
    assert [answers(recogniser, [segment])[0].text for segment in SEGMENTS] == wanted


def test_parakeet_says_what_its_own_generate_says_of_sounds_of_any_length(
    folders: dict[str, Path], loaded: dict[str, CtcRecogniser]
) -> None:
    recogniser = loaded["parakeet"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders["parakeet"])
    for number in range(9):
        segment = noise_segment(number, seconds=0.9 + 0.013 * number)
        inputs = recogniser.extractor(samples(segment), sampling_rate=16_000, return_tensors="pt")
        tokens = recogniser.model.generate(**inputs)  # type: ignore[operator]
        assert answers(recogniser, [segment])[0].text == tokenizer.decode(tokens[0])


@pytest.mark.parametrize("family", [*PADDED, "hubert"])
def test_neighbours_in_a_batch_do_not_change_a_text(family: str, loaded: dict[str, CtcRecogniser]) -> None:
    together = answers(loaded[family], SEGMENTS)
    for result, segment in zip(together, SEGMENTS, strict=True):
        alone = answers(loaded[family], [segment])[0]
        assert result.text == alone.text
        assert result.confidence == pytest.approx(alone.confidence, abs=1e-4)
        assert result.signals == pytest.approx(alone.signals, abs=1e-3)


def test_without_a_mask_only_equal_lengths_share_a_batch(loaded: dict[str, CtcRecogniser]) -> None:
    seen: list[tuple[int, ...]] = []

    def watch(_: Any, arguments: tuple[torch.Tensor, ...], options: dict[str, Any]) -> None:
        seen.append(tuple(arguments[0].shape))
        assert options["attention_mask"] is None

    hook = loaded["hubert"].model.register_forward_pre_hook(watch, with_kwargs=True)
    loaded["hubert"].recognise([*SEGMENTS, noise_segment(9, seconds=1.0)])
    hook.remove()
    assert seen == [(1, 11_840), (2, 16_000), (1, 24_000), (1, 38_080), (1, 80_000)]


@pytest.mark.parametrize("family", ["wav2vec2", "hubert"])
def test_words_and_their_times_are_those_of_the_frames(
    family: str, folders: dict[str, Path], loaded: dict[str, CtcRecogniser]
) -> None:
    folder = str(folders[family])
    pipe = transformers.pipeline(
        "automatic-speech-recognition", model=folder, feature_extractor=folder, tokenizer=folder, device="cpu"
    )
    for segment, result in zip(SEGMENTS, answers(loaded[family], SEGMENTS), strict=True):
        chunks = pipe(samples(segment), return_timestamps="word")["chunks"]
        wanted = [(one["text"], *(round(seconds * 1000) for seconds in one["timestamp"])) for one in chunks]
        assert [(word["text"], word["start_ms"], word["end_ms"]) for word in result.words] == wanted


def test_the_length_of_a_frame_is_known_of_every_family(loaded: dict[str, CtcRecogniser]) -> None:
    assert {family: one.frame_ms for family, one in loaded.items()} == {
        "wav2vec2": 20.0,
        "hubert": 20.0,
        "wav2vec2-bert": 20.0,
        "parakeet": 80.0,
    }


def test_confidence_is_the_mean_probability_of_the_tokens_without_blanks(loaded: dict[str, CtcRecogniser]) -> None:
    recogniser = loaded["wav2vec2"]
    segment = SEGMENTS[1]
    with torch.inference_mode():
        inputs = recogniser.extractor(samples(segment), sampling_rate=16_000, return_tensors="pt")
        (probability, best) = (one[0].tolist() for one in recogniser.model(**inputs).logits.softmax(-1).max(-1))
    words: list[list[float]] = [[]]
    for token, run in groupby(range(len(best)), key=best.__getitem__):
        frames = list(run)
        if token == 4:  # |
            words.append([])
        elif token != 0:
            words[-1].append(sum(probability[frame] for frame in frames) / len(frames))
    wanted = [sum(word) / len(word) for word in words if word]
    result = answers(recogniser, [segment])[0]
    assert len(wanted) > 3
    assert [word["confidence"] for word in result.words] == pytest.approx(wanted, abs=1e-5)
    assert result.confidence == pytest.approx(sum(wanted) / len(wanted), abs=1e-5)


def test_what_the_engine_does_not_have_is_null(loaded: dict[str, CtcRecogniser]) -> None:
    result = answers(loaded["parakeet"], SEGMENTS[:1])[0]
    assert (result.steps, result.canvas_length, result.canvas_fill, result.overflow) == (None, None, None, None)
    assert result.language is None
    assert result.signals is not None
    assert set(result.signals) == {field.name for field in SIGNALS}
    assert {name for name, value in result.signals.items() if value is not None} == {
        *("token_probability_mean", "token_probability_min", "entropy_mean", "entropy_max", "ctc_score")
    }
    for word in result.words:
        assert word["signals"] is not None
        assert word["signals"].keys() == {field.name for field in WORD_SIGNALS}
        known = {name: value for name, value in word["signals"].items() if value is not None}
        assert known.keys() == {"token_probability_min", "token_probability_mean", "entropy_max"}
        assert 0 < known["token_probability_min"] <= known["token_probability_mean"] == word["confidence"]
        assert 0 < known["entropy_max"] <= result.signals["entropy_max"]  # type: ignore[operator]


@pytest.mark.parametrize("family", [*PADDED, "hubert"])
def test_the_shortest_clips_have_an_answer_with_times_inside(family: str, loaded: dict[str, CtcRecogniser]) -> None:
    clips = [Segment(f"{count}", None, SEGMENTS[0].pcm[: 2 * count]) for count in (0, 1, 90, 399, 400, 801, 1700)]
    for clip, result in zip(clips, answers(loaded[family], clips), strict=True):
        assert result.confidence is not None
        assert 0 <= result.confidence <= 1
        times = [time for word in result.words for time in (word["start_ms"], word["end_ms"])]
        assert times == sorted(times, key=lambda time: time or 0)
        assert all(time is not None and 0 <= time <= len(clip.pcm) / 32 for time in times)


def test_an_empty_text_is_silence_with_the_probability_of_the_blanks(folders: dict[str, Path]) -> None:
    recogniser = load(str(folders["wav2vec2"]))
    with torch.no_grad():
        recogniser.model.lm_head.bias[0] = 100.0  # type: ignore[index,union-attr]
    result = answers(recogniser, SEGMENTS[:1])[0]
    assert (result.text, result.words) == ("", [])
    assert result.confidence == pytest.approx(1.0)
    assert result.signals is not None
    assert result.signals["ctc_score"] is None


def test_a_row_that_is_not_finite_has_no_answer_and_its_neighbour_has(folders: dict[str, Path]) -> None:
    recogniser = load(str(folders["wav2vec2"]))
    plain = answers(recogniser, SEGMENTS[:2])
    extract = recogniser.extractor

    def broken(audio: list[np.ndarray], **options: Any) -> Any:
        inputs = extract(audio, **options)
        inputs["input_values"][-1] = torch.nan
        return inputs

    broken.sampling_rate = 16_000  # type: ignore[attr-defined]
    recogniser.extractor = broken
    results = recogniser.recognise(SEGMENTS[:2])
    assert results[1] is None
    assert results[0] is not None
    assert results[0].text == plain[0].text


def test_batches_are_neighbours_in_length_and_the_first_one_does_not_wait(loaded: dict[str, CtcRecogniser]) -> None:
    recogniser = loaded["wav2vec2"]
    batches: list[list[int]] = []

    class Watched:
        detects_language, pads, check = False, True, recogniser.check

        def recognise(self, segments: list[Segment]) -> list[SegmentResult | None]:
            batches.append([len(segment.pcm) // 32 for segment in segments])
            return recogniser.recognise(segments)

    engine = BatchEngine(Watched(), slots=2)
    texts = [result.text for result in engine.transcribe(SEGMENTS)]
    engine.close()
    assert texts == [result.text for result in answers(recogniser, SEGMENTS)]
    assert batches == [[740, 1000], [1500, 2380], [5000]]


def test_a_segment_longer_than_the_window_is_refused(loaded: dict[str, CtcRecogniser]) -> None:
    loaded["wav2vec2"].check(Segment("fits", "de", bytes(2 * WINDOW)))
    with pytest.raises(ValueError, match="segment long: "):
        loaded["wav2vec2"].check(Segment("long", "de", bytes(2 * WINDOW + 2)))


def test_a_job_learns_what_the_files_say(folders: dict[str, Path]) -> None:
    info = layout.describe(str(folders["parakeet"]))
    assert (info.name, info.window_seconds, info.canvas_length) == ("parakeet", 30, None)
    assert (info.languages, info.detects_language) == (LANGUAGES, False)


@pytest.mark.parametrize(
    ("family", "name"),
    [("parakeet", name) for name in ("config.json", "preprocessor_config.json", "tokenizer.json", "model.safetensors")]
    + [("wav2vec2", "vocab.json")],
)
def test_the_hash_changes_with_every_file(folders: dict[str, Path], tmp_path: Path, family: str, name: str) -> None:
    folder = Path(shutil.copytree(folders[family], tmp_path / "model"))
    before = layout.describe(str(folder)).weights_hash
    (folder / name).write_bytes((folder / name).read_bytes() + b" ")
    assert layout.describe(str(folder)).weights_hash != before


def _set(name: str, **changes: Any) -> Any:
    def change(folder: Path) -> None:
        tree = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(tree | changes))

    return change


def _without(*names: str) -> Any:
    def change(folder: Path) -> None:
        state = load_file(folder / "model.safetensors")
        save_file({key: weight for key, weight in state.items() if key not in names}, folder / "model.safetensors")

    return change


FAULTS: dict[str, tuple[Any, str]] = {
    "a weight is missing": (_without("lm_head.weight"), "lm_head.weight"),
    "a weight has another shape": (_set("config.json", vocab_size=99), "lm_head.weight"),
    "no extractor": (lambda folder: (folder / "preprocessor_config.json").unlink(), "preprocessor_config.json"),
    "another rate": (_set("preprocessor_config.json", sampling_rate=8000), "sampling_rate: 8000 Hz"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors"),
    "code of its own": (_set("config.json", model_type="x", auto_map={"AutoModelForCTC": "evil.Model"}), "model"),
    "no config": (lambda folder: (folder / "config.json").write_text('{"architectures": ["XForCTC"]}'), "model_type"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_checkpoint_that_cannot_be_used_is_one_line(fault: str, folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["wav2vec2"], tmp_path / "model"))
    change, named = FAULTS[fault]
    change(folder)
    with pytest.raises(ConfigError) as raised:
        load(str(folder))
    message = str(raised.value)
    assert message.startswith(f"model.name: {folder}")
    assert named in message
    assert "\n" not in message


def test_a_weight_of_training_alone_may_be_missing(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["wav2vec2"], tmp_path / "model"))
    _without("wav2vec2.masked_spec_embed")(folder)
    assert answers(load(str(folder)), SEGMENTS[:1])[0].text
