"""What `jobs.bench engine` transcribes: prompts of random tokens, and segments of silence with lengths as in speech."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from pipeline.model.recogniser import AsrModel
from pipeline.schemas import SAMPLE_RATE, Segment

TOKENS_PER_SECOND = (2.3, 4.6)  # of speech, that CTC hears in the prompts: 13 s are 30 to 60 tokens (arXiv 2607.13013)


def random_prompts(model: AsrModel, windows: int) -> Tensor:
    """Prompts of random tokens, int64 [windows, prompt length].

    The tokens of audio slots are what CTC hears: TOKENS_PER_SECOND, a rate for each window, and their repetitions.
    """
    generator = torch.Generator().manual_seed(0)
    config = model.config
    prompts = torch.randint(20, config.vocab_size, (windows, model.prompt_length), generator=generator)
    low, high = TOKENS_PER_SECOND
    rates = low + (high - low) * torch.rand(windows, 1, generator=generator)
    new = (
        torch.rand(windows, config.audio_slots, generator=generator)
        < rates * config.window_seconds / config.audio_slots
    )
    new[:, 0] = True
    since = torch.where(new, torch.arange(config.audio_slots), 0).cummax(1).values  # where the slot's token began
    audio = prompts[:, model.audio_start : model.audio_start + config.audio_slots]
    audio.copy_(audio.gather(1, since))
    return prompts


def spread_segments(count: int, shortest: float, longest: float) -> Iterator[Segment]:
    """Segments of `shortest` to `longest` seconds, evenly spread, in shuffled order. Their pcm is silence."""
    for number in range(count):
        seconds = shortest + (longest - shortest) * ((number * 0.618034) % 1.0)
        yield Segment(str(number), None, bytes(2 * round(seconds * SAMPLE_RATE)))
