"""Whisper of transformers: a batch of segments goes in, a result for each comes out.

It writes the same output as the diffusion model, so that one report can show both. No text is conditioned on an earlier
one, and there are no timestamp tokens: the times of words come from the decoder's attention.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration

from pipeline.audio.pcm import from_pcm
from pipeline.config import DecodeConfig
from pipeline.model.denoise import confidence
from pipeline.model.denoise.confidence import Kept
from pipeline.model.denoise.signals import FinalCanvas
from pipeline.model.files import layout, weights, whisper_layout
from pipeline.model.files.weights import unusable
from pipeline.model.files.whisper_layout import WhisperSpec
from pipeline.model.network.features import LogMel
from pipeline.model.positions import POSITIONS_PER_SECOND
from pipeline.model.whisper import alignment, cleaning, script
from pipeline.model.whisper.decoder import Caches, Decoder
from pipeline.model.whisper.search import Hypothesis, Rules, best_texts
from pipeline.schemas import BYTES_PER_SAMPLE, SAMPLE_RATE, Segment, SegmentResult

HEAD = "proj_out.weight"
CPU_WINDOWS = 4  # encoded at once on a CPU: of more, the kernel gives each layer new pages, a tenth of the time
Times = list[tuple[int, int]]  # beginning and end in milliseconds of the segment, of each token


@dataclass(slots=True)
class Heard:
    """What is known of a segment: before its text, and then the text of the last try and how good it is."""

    language_token: int | None  # None: an English-only checkpoint
    language_probability: float | None  # None: the language was given
    no_speech: float  # probability
    hypothesis: Hypothesis
    temperature: float
    text: str
    compression_ratio: float


@dataclass(frozen=True, slots=True)
class Cut:
    """What is left of a text: positions of its tokens. loops, phrases: words that were removed."""

    positions: list[int]
    loops: int
    phrases: int


class Whisper:
    """A loaded checkpoint, which recognises segments.

    A row's text depends on its batch by rounding only: all prompts have one length, so nothing is padded, and a row
    that has ended leaves the batch.
    """

    pads = False  # every window has 30 s

    def __init__(
        self,
        model: WhisperForConditionalGeneration,
        tokenizer: Tokenizer,
        spec: WhisperSpec,
        decode: DecodeConfig | None = None,
    ) -> None:
        self.model, self.tokenizer, self.spec, self.decode = model, tokenizer, spec, decode or DecodeConfig()
        self.window_samples = spec.positions * SAMPLE_RATE // POSITIONS_PER_SECOND
        self.log_mel = LogMel(spec.mels).to(model.device)
        self.decoder = Decoder(model)
        generation = model.generation_config
        forbidden = torch.zeros(spec.vocab_size, device=model.device)
        at_first = forbidden.clone()
        forbidden[generation.suppress_tokens or []] = -torch.inf
        at_first[generation.begin_suppress_tokens or []] = -torch.inf
        self._rules = Rules(frozenset(spec.eos), spec.max_tokens, forbidden, at_first)
        self._languages = list(spec.language_ids.values())
        self._code_of: dict[int | None, str] = {token: code for code, token in spec.language_ids.items()}

    @property
    def detects_language(self) -> bool:
        """Whether the checkpoint knows more languages than English."""
        return bool(self.spec.language_ids)

    def check(self, segment: Segment) -> None:
        """Raises ValueError where the segment is longer than the window, or in a language without a prompt."""
        window = BYTES_PER_SAMPLE * self.window_samples
        if len(segment.pcm) % BYTES_PER_SAMPLE or len(segment.pcm) > window:
            raise ValueError(f"segment {segment.key}: {len(segment.pcm)} bytes of int16 in a window of {window}")
        if segment.language and segment.language not in (self.spec.language_ids or ("en",)):
            raise ValueError(f"segment {segment.key}: no prompt for language {segment.language!r}")

    def recognise(self, segments: list[Segment]) -> list[SegmentResult | None]:
        """One result per segment; None where its logits were not finite.

        A segment has at most `window_samples`, and a language of the spec or None: then the language is detected.
        """
        with torch.inference_mode():
            encoded = self.encode(segments)
            caches = self.decoder.open(encoded, self.spec.prompt_tokens + self.spec.max_tokens)
            heard = self._listen(segments, caches)
            cuts = [self._cut(one) for one in heard]
            times: list[Times] = [[] for _ in segments]
            if self.decode.word_times:
                texts = [
                    [one.hypothesis.tokens[at] for at in cut.positions] for one, cut in zip(heard, cuts, strict=True)
                ]
                times = self._times(segments, caches, texts)
            return [self.result(*of_row) for of_row in zip(heard, cuts, times, strict=True)]

    def encode(self, segments: list[Segment]) -> Tensor:
        """The encoder's output [segments, positions, d_model]."""
        windows = np.stack([from_pcm(segment.pcm, self.window_samples) for segment in segments])
        mel = self.log_mel(torch.from_numpy(windows).to(self.model.device)).to(self.model.dtype)
        at_once = CPU_WINDOWS if mel.is_cpu else len(mel)
        encoder = self.model.get_encoder()
        return torch.cat([encoder(part).last_hidden_state for part in mel.split(at_once)])

    def _listen(self, segments: list[Segment], caches: Caches) -> list[Heard]:
        """The text of each segment. Where it is a loop or improbable, it is tried again at the next temperature."""
        logits = self.decoder.logits(caches, [[self.spec.start]] * len(segments))
        no_speech = logits.softmax(-1)[:, self.spec.no_speech].tolist()
        languages = self._detected(segments, logits)
        prompts = [self.spec.prompt(token)[1:] for token, _ in languages]
        logits = self.decoder.logits(caches, prompts)
        tries: list[list[Heard]] = [[] for _ in segments]
        left = list(range(len(segments)))
        for temperature in self.decode.temperatures:
            width = 1 if temperature else self.decode.beams
            found = best_texts(
                self.decoder,
                caches.fork(left, width),
                logits[left],
                self._rules,
                width=width,
                temperature=temperature,
                seeds=[self._seed(segments[row], temperature) for row in left],
            )
            for row, hypothesis in zip(left, found, strict=True):
                text = self._text(hypothesis)
                ratio = cleaning.compression_ratio(text)
                tries[row].append(Heard(*languages[row], no_speech[row], hypothesis, temperature, text, ratio))
            left = [row for row in left if self._is_bad(tries[row][-1])]
            if not left:
                break
        return [self._best(of_row) for of_row in tries]

    def _detected(self, segments: list[Segment], logits_BV: Tensor) -> list[tuple[int | None, float | None]]:
        """The language token of each segment: its own, else the most likely of all, with its probability.

        logits_BV: behind the start token.
        """
        if not self._languages:
            return [(None, None)] * len(segments)
        likely = logits_BV[:, self._languages].softmax(-1).max(-1)
        return [
            (self.spec.language_ids[segment.language], None)
            if segment.language
            else (self._languages[number], probability)
            for segment, number, probability in zip(
                segments, likely.indices.tolist(), likely.values.tolist(), strict=True
            )
        ]

    def _is_bad(self, heard: Heard) -> bool:
        """Whether another temperature may help: not where nobody speaks."""
        if self._is_silence(heard):
            return False
        improbable = heard.hypothesis.log_probability < self.decode.min_log_probability
        return improbable or heard.compression_ratio > self.decode.max_compression_ratio

    def _is_silence(self, heard: Heard) -> bool:
        """Whisper's rule: its probability of no speech alone is not enough, since voice activity has found speech."""
        unsure = heard.hypothesis.log_probability < self.decode.min_log_probability
        return unsure and heard.no_speech > self.decode.no_speech_probability

    def _best(self, tries: list[Heard]) -> Heard:
        """The last try where it is good, else the most probable one that is no loop."""
        if not self._is_bad(tries[-1]):
            return tries[-1]
        plain = [one for one in tries if one.compression_ratio <= self.decode.max_compression_ratio]
        return max(plain or tries, key=lambda one: one.hypothesis.log_probability)

    def _seed(self, segment: Segment, temperature: float) -> int:
        """The same sound gets the same draws, whatever its neighbours are."""
        name = f"{self.decode.seed} {temperature:g} ".encode()
        return int.from_bytes(hashlib.sha256(name + bytes(segment.pcm)).digest()[:7])

    def _text(self, hypothesis: Hypothesis) -> str:
        tokens = [hypothesis.tokens[at] for at in self._spoken(hypothesis)]
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True)).strip()

    def _spoken(self, hypothesis: Hypothesis) -> list[int]:
        """Where the tokens of the text are: before the end, without timestamps."""
        tokens = hypothesis.tokens
        end = next((at for at, token in enumerate(tokens) if token in self.spec.eos), len(tokens))
        return [at for at in range(end) if tokens[at] not in self.spec.timestamps]

    def _cut(self, heard: Heard) -> Cut:
        """The text without what nobody has said."""
        positions = self._spoken(heard.hypothesis)
        if self._is_silence(heard):
            return Cut([], 0, 0)
        if not self.decode.clean:
            return Cut(positions, 0, 0)
        tokens = [heard.hypothesis.tokens[at] for at in positions]
        words = confidence.spelled(tokens, self.tokenizer)
        kept = cleaning.without_loops([word for word, _ in words])
        is_speech = heard.no_speech <= self.decode.no_speech_probability
        left = cleaning.without_phrases([words[number][0] for number in kept], is_speech=is_speech)
        chosen = confidence.kept_positions([span for _, span in words], kept[:left], len(tokens))
        return Cut([positions[at] for at in chosen], len(words) - len(kept), len(kept) - left)

    def _times(self, segments: list[Segment], caches: Caches, texts: list[list[int]]) -> list[Times]:
        """Milliseconds of each token of each text, by one pass of the decoder over all of them."""
        rows = [row for row, text in enumerate(texts) if text]
        times: list[Times] = [[] for _ in texts]
        if not rows:
            return times
        longest = max(len(texts[row]) for row in rows)
        again = caches.fork(rows)
        again.length = self.spec.prompt_tokens - 1
        end = self.spec.eos[0]
        new = [[self.spec.no_timestamps, *texts[row], *[end] * (longest - len(texts[row]))] for row in rows]
        seen: list[Tensor] = []
        self.decoder.hidden(again, new, self.spec.alignment_heads, seen)
        scores = torch.cat(seen, dim=1).cpu().numpy()
        for place, row in enumerate(rows):
            samples = len(segments[row].pcm) // BYTES_PER_SAMPLE
            positions = max(1, -(-samples * POSITIONS_PER_SECOND // SAMPLE_RATE))
            of_text = alignment.token_times(scores[place, :, : len(texts[row]) + 1], positions)
            last = samples * 1000 // SAMPLE_RATE
            times[row] = [(min(first, last), min(end_ms, last)) for first, end_ms in of_text]
        return times

    def result(self, heard: Heard, cut: Cut, times: Times) -> SegmentResult | None:
        """The result of one segment, as of a canvas. Signals that only a canvas has are null.

        steps: generated tokens with the end token; each took one pass of the decoder. canvas_length: the most tokens
        that there may be. overflow: whether that limit stopped the text. times: of the tokens that are left; empty:
        not wanted.
        """
        spec, found = self.spec, heard.hypothesis
        steps = len(found.tokens)
        if not np.isfinite(found.probability).all():
            return None
        tail = spec.max_tokens - steps
        canvas = FinalCanvas(
            tokens=found.tokens + [spec.eos[0]] * tail,
            probability=found.probability + [1.0] * tail,
            entropy=found.entropy + [0.0] * tail,
            stable_since=None,
            revisions=None,
            steps=steps,
        )
        kept = Kept(cut.positions, cut.loops)
        result = confidence.result(
            canvas, None, self.tokenizer, eos=set(spec.eos), vocab_size=spec.vocab_size, kept=kept
        )
        if times:
            tokens = [found.tokens[at] for at in cut.positions]
            for word, (_, (first, last)) in zip(result.words, confidence.spelled(tokens, self.tokenizer), strict=True):
                word["start_ms"], word["end_ms"] = times[first][0], times[last][1]
        if self._is_silence(heard):
            result.confidence = heard.no_speech
        code = self._code_of.get(heard.language_token)
        if code == "zh":
            script.simplify(result)
        if heard.language_probability is not None:
            result.language = code
        result.overflow = found.tokens[-1] not in spec.eos
        result.signals = (result.signals or {}) | {
            "repeats_removed": float(cut.loops) if self.decode.clean else None,
            "phrases_removed": float(cut.phrases) if self.decode.clean else None,
            "language_probability": heard.language_probability,
            "no_speech_probability": heard.no_speech,
            "log_probability_mean": found.log_probability,
            "compression_ratio": heard.compression_ratio,
            "temperature": heard.temperature,
        }
        return result


def load(
    name: str,
    revision: str | None = None,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    decode: DecodeConfig | None = None,
) -> Whisper:
    """A checkpoint ready for inference. Raises ConfigError where a file is missing or does not fit."""
    folder = layout.directory(name, revision)
    spec = whisper_layout.read(folder)
    path = folder / whisper_layout.TOKENIZER
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as err:  # noqa: BLE001 - tokenizers raises bare Exception
        raise unusable(path, err) from None
    path = folder / whisper_layout.CONFIG
    try:
        config = WhisperConfig.from_json_file(path)
        with torch.device("meta"):
            model = WhisperForConditionalGeneration(config)
        path = folder / whisper_layout.GENERATION
        model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    except Exception as err:  # noqa: BLE001 - whatever transformers raises on values that do not fit
        raise unusable(path, err) from None
    nn.Module.to(model, dtype).to_empty(device=device).eval().requires_grad_(False)
    model.tie_weights()
    targets = model.state_dict()
    tied = config.tie_word_embeddings  # then some files have the head's weight twice, and some do not
    if tied:
        del targets[HEAD]
    weights.fill(targets, spec.weights, rename=lambda name: None if tied and name == HEAD else name)
    return Whisper(model, tokenizer, spec, decode)
