"""A stand-in for a tokenizer that is still to be fetched, which gives the longest prompt that there may be."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.model.files.layout import AsrConfig


@dataclass(frozen=True, slots=True)
class Encoding:
    """What tokenizers calls so, as far as a prompt needs it."""

    ids: list[int]


class LongestPrompt:
    """Every byte of the prompt's UTF-8 is a token of its own: a byte-level or byte-fallback tokenizer has no more."""

    def __init__(self, config: AsrConfig) -> None:
        prompt, tokens = config.prompt, config.tokens
        marks = (tokens.bos, tokens.begin_audio, tokens.audio, tokens.end_audio)
        held = [token for token in marks if token is not None]
        text = prompt.before + prompt.after
        longest = max(len(text.replace("{language}", words).encode()) for words in prompt.languages.values())
        self._ids = held + [-1] * max(0, longest - len(held))

    def id_to_token(self, token: int) -> str:
        """Every token exists."""
        return f"<{token}>"

    def encode(self, _text: str, **_options: bool) -> Encoding:
        """Special tokens, each once, and as many others as it takes, whatever the text."""
        return Encoding(self._ids)
