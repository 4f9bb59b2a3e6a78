"""Removes what Whisper writes though nobody says it: loops, and lines of subtitles that it was trained on."""

from __future__ import annotations

import zlib

from pipeline.text.spelling import letters

LONGEST_LOOP = 8  # words, or Han characters, of what is repeated
LEAST_REPETITIONS = 4  # as often as people say "no, no, no, no" is no loop
LEAST_REPEATED = 12  # words in all

# Credits of subtitles: nobody says them. They end a text, or are all of it.
CREDITS = (
    "Subtitles by the Amara.org community",
    "Transcribed by https://otter.ai",
    "Transcription by CastingWords",
    "Untertitel der Amara.org-Community",
    "Untertitelung des ZDF, 2020",
    "Untertitel im Auftrag des ZDF für funk, 2017",
    "Untertitel von Stephanie Geiges",
    "Untertitelung aufgrund der Amara.org-Community",
    "Sous-titres réalisés par la communauté d'Amara.org",
    "Sous-titres réalisés para la communauté d'Amara.org",
    "Sous-titrage Société Radio-Canada",
    "Sous-titrage ST' 501",
    "Subtítulos realizados por la comunidad de Amara.org",
    "Subtítulos por la comunidad de Amara.org",
    "字幕由Amara.org社区提供",
    "中文字幕志愿者 李宗盛",
    "字幕志愿者 李宗盛",
    "请不吝点赞 订阅 转发 打赏支持明镜与点点栏目",
    "優優獨播劇場——YoYo Television Series Exclusive",
)
# What people say too: it goes only where it is all of a text and the model itself hears no speech.
CLOSINGS = (
    "Thank you for watching",
    "Thanks for watching",
    "Thank you",
    "Bye",
    "you",
    "Please subscribe",
    "Vielen Dank",
    "Vielen Dank fürs Zuschauen",
    "Merci d'avoir regardé cette vidéo",
    "Gracias por ver el video",
    "谢谢观看",
    "謝謝觀看",
)


def compression_ratio(text: str) -> float:
    """Bytes of a text divided by those that zlib makes of it: a loop compresses well."""
    data = text.encode()
    return len(data) / len(zlib.compress(data))


def without_loops(words: list[str]) -> list[int]:
    """The words to keep, by number: of a phrase that is repeated without end only its first occurrence."""
    plain = [letters(word) for word in words]
    kept: list[int] = []
    at = 0
    while at < len(plain):
        length, end = _loop(plain, at)
        kept += range(at, at + length)
        at = end
    return kept


def _loop(words: list[str], at: int) -> tuple[int, int]:
    """The length of the phrase at `at`, and the end of the loop that it begins; one word where it begins none."""
    for length in range(1, LONGEST_LOOP + 1):
        phrase, end = words[at : at + length], at + length
        while words[end : end + length] == phrase:
            end += length
        tail = 0  # the last repetition may be cut
        while tail < length and end + tail < len(words) and words[end + tail] == phrase[tail]:
            tail += 1
        if (end - at) // length >= LEAST_REPETITIONS and end - at >= LEAST_REPEATED:
            return length, end + (tail if end + tail == len(words) else 0)
    return 1, at + 1


def without_phrases(words: list[str], *, is_speech: bool) -> int:
    """How many words are left, counted from the first, without a known phrase at the end.

    is_speech: whether the model itself hears speech.
    """
    tails = [letters("".join(words[at:])) for at in range(len(words))]
    if not is_speech and tails and tails[0] in _CLOSINGS:
        return 0
    return next((at for at, tail in enumerate(tails) if tail in _CREDITS), len(words))


_CREDITS = frozenset(map(letters, CREDITS))
_CLOSINGS = frozenset(map(letters, CLOSINGS))
