"""Whisper of transformers: a batch of segments goes in, a result for each comes out.

It writes the same output as the diffusion model, so that one report can show both. It is greedy and gives no
timestamps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    WhisperConfig,
    WhisperForConditionalGeneration,
)
from transformers.modeling_outputs import BaseModelOutput

from pipeline.audio.pcm import from_pcm
from pipeline.model.denoise import confidence
from pipeline.model.denoise.confidence import FinalCanvas
from pipeline.model.files import layout, weights, whisper_layout
from pipeline.model.files.weights import unusable
from pipeline.model.files.whisper_layout import WhisperSpec
from pipeline.model.network.features import LogMel
from pipeline.model.positions import POSITIONS_PER_SECOND
from pipeline.schemas import SAMPLE_RATE, Segment, SegmentResult

HEAD = "proj_out.weight"


@dataclass(frozen=True, slots=True)
class Generated:
    """The tokens of a batch: one row per segment, one column per token. Columns after a row's end mean nothing."""

    tokens: list[list[int]]
    probability: list[list[float]]  # of the token at T = 1, among the allowed ones; NaN: not finite
    entropy: list[list[float]]  # of the same distribution, in nats


class Whisper:
    """A loaded checkpoint, which recognises segments."""

    def __init__(self, model: WhisperForConditionalGeneration, tokenizer: Tokenizer, spec: WhisperSpec) -> None:
        self.model, self.tokenizer, self.spec = model, tokenizer, spec
        self.window_samples = spec.positions * SAMPLE_RATE // POSITIONS_PER_SECOND
        self.log_mel = LogMel(spec.mels).to(model.device)
        self._token_of = {token: name for name, token in getattr(model.generation_config, "lang_to_id", {}).items()}

    def recognise(self, segments: list[Segment]) -> list[SegmentResult | None]:
        """One result per segment; None where its logits were not finite.

        A segment has at most `window_samples`, and a language of the spec or None: then the language is detected.
        """
        generated = self.generate(segments)
        rows = zip(generated.tokens, generated.probability, generated.entropy, strict=True)
        return [self.result(*row) for row in rows]

    @torch.inference_mode()
    def generate(self, segments: list[Segment]) -> Generated:
        """Greedy tokens with their probabilities, until the longest row ends."""
        encoded = self.encode(segments)
        chosen = _Chosen()
        prompt: dict[str, Any] = {}
        if self.spec.language_tokens:
            prompt = {"language": self.languages(segments, encoded), "task": "transcribe"}
        self.model.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=encoded),
            attention_mask=torch.ones(encoded.shape[:2], dtype=torch.long, device=encoded.device),
            logits_processor=LogitsProcessorList([chosen]),
            return_timestamps=False,
            do_sample=False,
            num_beams=1,
            **prompt,
        )
        return chosen.generated(self.spec.max_tokens)

    def encode(self, segments: list[Segment]) -> Tensor:
        """The encoder's output [segments, positions, d_model]."""
        windows = np.stack([from_pcm(segment.pcm, self.window_samples) for segment in segments])
        mel = self.log_mel(torch.from_numpy(windows).to(self.model.device))
        hidden: Tensor = self.model.get_encoder()(mel.to(self.model.dtype)).last_hidden_state
        return hidden

    def languages(self, segments: list[Segment], encoded: Tensor) -> list[str]:
        """The language token of each segment: its own, else the most likely one that the checkpoint knows."""
        tokens = [self.spec.language_tokens[segment.language] if segment.language else "" for segment in segments]
        unknown = [row for row, token in enumerate(tokens) if not token]
        if unknown:
            likely = self.model.detect_language(encoder_outputs=BaseModelOutput(last_hidden_state=encoded[unknown]))
            for row, token in zip(unknown, likely.tolist(), strict=True):
                tokens[row] = self._token_of[token]
        return tokens

    def result(self, tokens: list[int], probability: list[float], entropy: list[float]) -> SegmentResult | None:
        """The result of one row, as of a canvas. Signals that only a canvas has are null.

        steps: generated tokens with the end token; each took one pass of the decoder. canvas_length: the most tokens
        that there may be. overflow: whether that limit stopped the row.
        """
        spec = self.spec
        end = next((i for i, token in enumerate(tokens) if token in spec.eos), len(tokens))
        steps = min(end + 1, len(tokens))
        if not np.isfinite(probability[:steps]).all():
            return None
        text = [i for i in range(steps) if tokens[i] not in spec.timestamps]
        tail = spec.max_tokens - len(text)
        canvas = FinalCanvas(
            tokens=[tokens[i] for i in text] + [spec.eos[0]] * tail,
            probability=[probability[i] for i in text] + [1.0] * tail,
            entropy=[entropy[i] for i in text] + [0.0] * tail,
            stable_since=[0] * spec.max_tokens,
            revisions=[0] * spec.max_tokens,
            steps=steps,
        )
        result = confidence.result(canvas, None, self.tokenizer, eos=set(spec.eos), vocab_size=spec.vocab_size)
        result.overflow = end == len(tokens)
        result.signals = (result.signals or {}) | {"first_stable_step_mean": None, "revisions": None}
        return result


class _Chosen(LogitsProcessor):
    """The last logits processor of `generate`: it changes nothing and records each greedy choice."""

    def __init__(self) -> None:
        self.steps: list[tuple[Tensor, Tensor, Tensor]] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002 - transformers' signature
        logp = scores.float().log_softmax(dim=-1)
        token = scores.argmax(dim=-1)
        entropy = torch.special.entr(logp.exp()).sum(dim=-1)
        self.steps.append((token, logp.gather(-1, token[:, None])[:, 0].exp(), entropy))
        return scores

    def generated(self, length: int) -> Generated:
        """The recorded tokens of all rows, the first `length` at most."""
        columns = zip(*self.steps[:length], strict=True)
        return Generated(*(torch.stack(of, dim=1).tolist() for of in columns))


def load(name: str, revision: str | None = None, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Whisper:
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
    model.generation_config.max_length = spec.max_tokens  # transformers adds the length of the prompt
    model.generation_config.max_new_tokens = None
    nn.Module.to(model, dtype).to_empty(device=device).eval().requires_grad_(False)
    model.tie_weights()
    targets = model.state_dict()
    tied = config.tie_word_embeddings  # then some files have the head's weight twice, and some do not
    if tied:
        del targets[HEAD]
    weights.fill(targets, spec.weights, rename=lambda name: None if tied and name == HEAD else name)
    return Whisper(model, tokenizer, spec)
