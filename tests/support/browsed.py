"""An output for the page of jobs.browse: six recordings with odd texts, one damaged and one dead."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from pipeline.schemas import WORD
from pipeline.storage.base import Storage
from tests.support.labelled import archive, transcribed

NASTY = """<script>missing()</script> "quoted", 'it''s' %_\\ </li> {{ 7 }} ; drop table x --"""
TEXTS = (  # of the segments, two of a recording
    *("Guten Morgen, liebe Größe!", "guten abend"),
    *("Où est l'été déjà passé ?", ""),
    *("मुझे रोटी और नमक चाहिए", "我要茶和鱼。"),
    *(NASTY, "ODD\ttabs\nand lines \U0001f41f \u202e"),
    *("100 % sure (really)", "a.b*c[d]"),
)
LANGUAGES = ("de", "fr", None, "en", "en")
DAMAGED, DEAD = "r4.wav", "r5.wav"


def output(folder: Path) -> Storage:
    """Six recordings in `folder`/in and their output in `folder`/out. Of r0 to r4 TEXTS in turn; r5 is dead.

    Confidences rise from 0.05 by 0.1; the first word of a text has that of its segment, the others one minus it.
    """
    numbers = itertools.count()

    def change(row: dict[str, Any]) -> dict[str, Any]:
        number = row["segment_index"] + 2 * int(row["recording_id"].removesuffix(".wav")[1:])
        assert next(numbers) < len(TEXTS)
        sure = 0.05 + 0.1 * number
        blank = dict.fromkeys(field.name for field in WORD)
        spoken = TEXTS[number].split()
        words = [blank | {"text": word, "confidence": 1 - sure if at else sure} for at, word in enumerate(spoken)]
        return row | {
            "text": TEXTS[number],
            "language": LANGUAGES[number // 2],
            "confidence": sure,
            "words": words,
            "problem": "truncated_audio" if row["recording_id"] == DAMAGED else None,
        }

    source = archive(folder / "in", 6)
    return transcribed(str(source), str(folder / "out"), "source.language=null", change=change, dead=[DEAD])
