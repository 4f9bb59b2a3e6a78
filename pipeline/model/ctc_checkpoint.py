"""CTC checkpoints of transformers: a batch of segments goes in, a result for each comes out.

Whatever `AutoModelForCTC` loads: wav2vec2, HuBERT, WavLM, Parakeet, Granite and others. The checkpoint's own feature
extractor makes its input, raw or log-mel. The most probable token of each frame counts; equal neighbours are one token,
and blanks are none. A test compares the texts with transformers' pipeline.
"""

from __future__ import annotations

import inspect
import warnings
from itertools import groupby, pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoFeatureExtractor, AutoModelForCTC, AutoTokenizer, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from pipeline.audio.pcm import from_pcm
from pipeline.config import ConfigError, RunConfig
from pipeline.model.batches import BatchEngine
from pipeline.model.denoise.confidence import spelled
from pipeline.model.files import layout
from pipeline.model.files.weights import unusable
from pipeline.model.number_type import torch_type
from pipeline.model.positions import MAX_WINDOW_SECONDS
from pipeline.model.worker import Worker
from pipeline.schemas import BYTES_PER_SAMPLE, SAMPLE_RATE, SIGNALS, WORD_SIGNALS, Segment, SegmentResult, Word

WINDOW = MAX_WINDOW_SECONDS * SAMPLE_RATE  # samples
TRIED = [400 << n for n in range(6)] + [SAMPLE_RATE]  # samples of the shortest clip that a model may take, 25 ms to 1 s
LONGER = 16 * 2560  # samples, 2.56 s: a multiple of every usual length of a frame
NO_SIGNALS: dict[str, float | None] = dict.fromkeys(field.name for field in SIGNALS)
NO_WORD_SIGNALS: dict[str, float | None] = dict.fromkeys(field.name for field in WORD_SIGNALS)
OF_TRAINING = "masked_spec_embed"  # ends the name of a weight that many checkpoints lack, and that nobody needs here
# transformers' methods that say how many frames an input has.
LENGTHS = ("_get_subsampling_output_length", "_get_feat_extract_output_lengths")


class Spelling:
    """A tokenizer for tokens that are collapsed already: no two of them become one."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        known = inspect.signature(tokenizer._decode).parameters
        self.options = {"group_tokens": False} if "group_tokens" in known else {}

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:  # noqa: ARG002 - as tokenizers has it
        """The text of tokens. Special ones are always spelled, as in transformers' pipeline."""
        text: str = self.tokenizer.decode(ids, clean_up_tokenization_spaces=False, **self.options)
        return text

    def id_to_token(self, id: int) -> str | None:
        """The piece of one token, as the tokenizer stores it."""
        piece: str | None = self.tokenizer.convert_ids_to_tokens(id)
        return piece


class CtcRecogniser:
    """A loaded checkpoint, which recognises segments.

    A model whose feature extractor wants an attention mask gets batches that are padded. To any other one padding would
    be sound, so only segments of one length are in one batch. Segments shorter than the model takes get silence.
    """

    detects_language = False
    pads = True

    def __init__(self, model: PreTrainedModel, extractor: Any, tokenizer: Any) -> None:
        """Raises ValueError where the parts do not fit together or the model computes nothing usable."""
        self.model, self.extractor, self.spelling = model, extractor, Spelling(tokenizer)
        if extractor.sampling_rate != SAMPLE_RATE:
            raise ValueError(f"sampling_rate: {extractor.sampling_rate} Hz; this version reads {SAMPLE_RATE} Hz")
        self.blank = model.config.pad_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        if self.blank is None:
            raise ValueError("pad_token_id: missing; it is the blank of CTC")
        self.frames_of = next((getattr(model, name) for name in LENGTHS if hasattr(model, name)), None)
        self.masked = self.frames_of is not None and getattr(extractor, "return_attention_mask", True)
        self.shortest = 0
        self.shortest, self.frame_ms = self._measured()

    def check(self, segment: Segment) -> None:
        """Raises ValueError where the segment is longer than the window."""
        if len(segment.pcm) % BYTES_PER_SAMPLE or len(segment.pcm) > BYTES_PER_SAMPLE * WINDOW:
            raise ValueError(
                f"segment {segment.key}: {len(segment.pcm)} bytes of int16 in a window of {WINDOW} samples"
            )

    def recognise(self, segments: list[Segment]) -> list[SegmentResult | None]:
        """One result per segment; None where its logits were not finite."""
        audio = [from_pcm(s.pcm, max(self.shortest, len(s.pcm) // BYTES_PER_SAMPLE)) for s in segments]
        results: list[SegmentResult | None] = [None] * len(segments)
        places = sorted(range(len(audio)), key=lambda place: len(audio[place]))
        for _, batch in groupby(places, key=lambda place: 0 if self.masked else len(audio[place])):
            rows = list(batch)
            read = self._read([audio[row] for row in rows], [segments[row] for row in rows])
            for row, result in zip(rows, read, strict=True):
                results[row] = result
        return results

    @torch.inference_mode()
    def _logits(self, audio: list[np.ndarray]) -> tuple[Tensor, Tensor]:
        """float32 [batch, frames, vocabulary], and how many frames of each row are no padding, int64 [batch]."""
        inputs = self.extractor(
            audio, sampling_rate=SAMPLE_RATE, padding=True, return_tensors="pt", return_attention_mask=self.masked
        )
        name, device = self.model.main_input_name, self.model.device
        mask = inputs["attention_mask"].to(device) if self.masked else None
        logits: Tensor = self.model(inputs[name].to(device, self.model.dtype), attention_mask=mask).logits.float()
        frames = torch.full((len(audio),), logits.shape[1], device=device)
        if mask is not None and self.frames_of is not None:
            frames = self.frames_of(mask.sum(-1)).long().clamp(max=logits.shape[1])
        return logits, frames

    def _measured(self) -> tuple[int, float]:
        """How many samples the model needs at least, and how long a frame is, in milliseconds."""
        noise = np.random.default_rng(0).normal(0, 0.1, SAMPLE_RATE + LONGER).astype(np.float32)
        tried: dict[int, int] = {}
        for samples in [len(noise), *reversed(TRIED)]:  # until one is too short
            try:
                with warnings.catch_warnings(action="ignore"):  # numpy's, of a variance of one frame
                    logits, frames = self._logits([noise[:samples]])
            except (RuntimeError, ValueError):
                if len(tried) < 2:
                    raise
                break
            if not int(frames) or not logits.isfinite().all():
                break
            tried[samples] = int(frames)
        more = tried.get(len(noise), 0) - tried.get(SAMPLE_RATE, 0)
        if len(tried) < 2 or more < 1:
            raise ValueError(f"the model gives {tried} frames for samples of noise")
        return min(tried), LONGER * 1000 / SAMPLE_RATE / more

    def _read(self, audio: list[np.ndarray], segments: list[Segment]) -> list[SegmentResult | None]:
        logits, frames = self._logits(audio)
        log_probs = logits.log_softmax(-1)
        best = log_probs.max(-1)
        entropy = -(log_probs.exp() * log_probs).sum(-1) / np.log(log_probs.shape[-1])
        finite = logits.isfinite().all(-1)
        paths = [row[:count] for row, count in zip(best.indices.tolist(), frames.tolist(), strict=True)]
        scores = self._scores(log_probs, frames, [_collapsed(path, self.blank)[0] for path in paths])
        rows = zip(segments, paths, best.values.exp().tolist(), entropy.tolist(), scores, finite.tolist(), strict=True)
        return [
            self._result(segment, path, probability, spread, score) if all(good[: len(path)]) else None
            for segment, path, probability, spread, score, good in rows
        ]

    def _scores(self, log_probs: Tensor, frames: Tensor, texts: list[list[int]]) -> list[float | None]:
        """Log-probability of each text per token, nats, over all its alignments; None without tokens."""
        counts = torch.tensor([len(text) for text in texts])
        targets = torch.tensor([token for text in texts for token in text], dtype=torch.long)
        losses = F.ctc_loss(
            log_probs.transpose(0, 1).cpu(), targets, frames.cpu(), counts, blank=self.blank, reduction="none"
        )
        return [-loss / len(text) if text else None for loss, text in zip(losses.tolist(), texts, strict=True)]

    def _result(
        self, segment: Segment, path: list[int], probability: list[float], entropy: list[float], score: float | None
    ) -> SegmentResult:
        """The result of one segment. Each list has one entry per frame.

        A word's confidence is the mean probability of its tokens, which is that of their frames. A segment's is the
        mean of its words or, where the text is empty, the mean probability of the blanks.
        """
        tokens, spans = _collapsed(path, self.blank)
        own = [_mean(probability[first : last + 1]) for first, last in spans]
        counted = [frame for span in spans for frame in _frames(span)] or list(range(len(path)))
        length = len(segment.pcm) // BYTES_PER_SAMPLE * 1000 // SAMPLE_RATE
        words: list[Word] = [
            {
                "text": text,
                "confidence": _mean(own[first : last + 1]),
                "start_ms": min(length, round(spans[first][0] * self.frame_ms)),
                "end_ms": min(length, round((spans[last][1] + 1) * self.frame_ms)),
                "signals": NO_WORD_SIGNALS
                | {
                    "token_probability_min": min(own[first : last + 1]),
                    "token_probability_mean": _mean(own[first : last + 1]),
                    "entropy_max": max(entropy[frame] for one in spans[first : last + 1] for frame in _frames(one)),
                },
            }
            for text, (first, last) in spelled(tokens, self.spelling)
        ]
        of_frames = [probability[frame] for frame in counted]
        of_words = [float(word["confidence"]) for word in words]
        signals = NO_SIGNALS | {
            "token_probability_mean": _mean(own or of_frames),
            "token_probability_min": min(own or of_frames),
            "entropy_mean": _mean([entropy[frame] for frame in counted]),
            "entropy_max": max(entropy[frame] for frame in counted),
            "ctc_score": score,
        }
        return SegmentResult(
            text=self.spelling.decode(tokens).strip(),
            confidence=_mean(of_words or of_frames),
            words=words,
            signals=signals,
        )


def start(run: RunConfig, device: str) -> Worker:
    """The engine on "cpu" or "cuda", ready for segments. Raises ConfigError. It uses neither denoise.* nor decode.*."""
    model = run.model
    loaded = load(model.name, model.revision, device=device, dtype=torch_type(model.dtype, device))
    return BatchEngine(loaded, slots=run.compute.canvases)


def load(
    name: str, revision: str | None = None, *, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> CtcRecogniser:
    """A checkpoint ready for inference. No code of a checkpoint is run. Raises ConfigError where it cannot be used."""
    folder = layout.directory(name, revision)
    disable_progress_bar()
    here = {"local_files_only": True, "trust_remote_code": False}
    try:
        extractor = AutoFeatureExtractor.from_pretrained(folder, **here)
        tokenizer = AutoTokenizer.from_pretrained(folder, **here)
        model, loaded = AutoModelForCTC.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True, **here
        )
        lost = [key for key in loaded["missing_keys"] if not key.endswith(OF_TRAINING)]
        if lost := [*lost, *(key for key, *_ in loaded["mismatched_keys"])]:
            raise ValueError(f"weights are missing or of another shape: {', '.join(lost[:3])}")
        return CtcRecogniser(model.to(device).eval(), extractor, tokenizer)
    except ConfigError:
        raise
    except Exception as err:  # noqa: BLE001 - whatever transformers and torch raise on files that do not fit
        raise unusable(folder, err) from None


def _collapsed(path: list[int], blank: int) -> tuple[list[int], list[tuple[int, int]]]:
    """The tokens of the best path, and the first and the last frame of each."""
    borders = [0, *(frame for frame in range(1, len(path)) if path[frame] != path[frame - 1]), len(path)]
    runs = [(path[first], (first, end - 1)) for first, end in pairwise(borders) if path[first] != blank]
    return [token for token, _ in runs], [span for _, span in runs]


def _frames(span: tuple[int, int]) -> range:
    return range(span[0], span[1] + 1)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
