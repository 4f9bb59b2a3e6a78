"""The page as text: the form with what was asked, and its hits."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from urllib.parse import urlencode

from pipeline.browse.query import Query
from pipeline.browse.search import PAGE, Found
from pipeline.config import public
from pipeline.evaluation.rows import speaker_of
from pipeline.labels.splits import label_id
from pipeline.output.page import render_page
from pipeline.schemas import REASONS

LONGEST = 500  # characters of a value of metadata


@dataclass(frozen=True, slots=True)
class Stretch:
    """Some letters of a text. confidence: of their word; None: not known. is_match: somebody looks for them."""

    text: str
    confidence: float | None
    is_match: bool


def render(uri: str, token: str, query: Query, found: Found, languages: Sequence[str], error: str = "") -> str:
    """The page. error: why nothing was searched; "": it was."""
    shown = _letter if query.show == "dead" else _segment
    first = (query.page - 1) * PAGE
    return render_page(
        "browse.html.j2",
        uri=public(uri),
        token=token,
        query=query,
        languages=list(dict.fromkeys([*languages, *filter(None, [query.language])])),
        error=error,
        total=found.total,
        length=f"{found.seconds / 3600:,.1f} hours" if found.seconds >= 3600 else f"{found.seconds:,.1f} seconds",
        first=first + 1,
        hits=[shown(row, query, token) for row in found.rows],
        earlier=_link(token, query, page=query.page - 1) if query.page > 1 else None,
        later=_link(token, query, page=query.page + 1) if first + len(found.rows) < found.total else None,
    )


def stretches(text: str, words: Sequence[Mapping[str, Any]], query: Query) -> list[Stretch]:
    """A text in stretches of one confidence each, with what is looked for. words: of the text, in order."""
    needles = query.text.split() if query.match == "words" else [query.text]
    pattern = "|".join(map(re.escape, filter(None, needles)))
    matches = [match.span() for match in re.finditer(pattern, text, re.IGNORECASE)] if pattern else []
    spoken, at = [], 0
    for word in words:
        if (start := text.find(word["text"], at)) >= 0:
            at = start + len(word["text"])
            spoken.append((start, at, word["confidence"]))
    cuts = sorted({0, len(text), *(place for span in [*matches, *spoken] for place in span[:2])})
    return [
        Stretch(
            text[start:end],
            next((confidence for low, high, confidence in spoken if low <= start < high), None),
            any(low <= start < high for low, high in matches),
        )
        for start, end in pairwise(cuts)
    ]


def clock(milliseconds: int) -> str:
    """A place in a recording: "1:02:03.4"."""
    minutes, rest = divmod(milliseconds // 100, 600)
    hours, minutes = divmod(minutes, 60)
    return f"{f'{hours}:{minutes:02}' if hours else minutes}:{rest / 10:04.1f}"


def _link(token: str, query: Query, **changes: object) -> str:
    return f"?{urlencode({'token': token})}&{query.parameters(**changes)}"


def _segment(row: Mapping[str, Any], query: Query, token: str) -> dict[str, Any]:
    name = label_id(row["model"], row["recording_id"], row["channel"], [row["segment_index"]])
    figures = [f"{clock(row['start_ms'])} – {clock(row['end_ms'])}"]
    figures += [f"confidence {row['confidence']:.2f}"] if row["confidence"] is not None else []
    figures += [f"channel {row['channel']}"] if row["channel"] is not None else []
    return _common(row, figures, token) | {
        "problem": f"{row['problem']}: {REASONS.get(row['problem'], '')}" if row["problem"] else "",
        "stretches": stretches(row["text"], row["words"] or (), query),
        "audio": "audio?" + urlencode({"token": token, "part": row["part"], "row": row["row"], "id": name}),
    }


def _letter(row: Mapping[str, Any], query: Query, token: str) -> dict[str, Any]:
    figures = [f"{row['seconds']:,.1f} s"] if row["seconds"] is not None else []
    figures += [f"stage: {row['stage']}"]
    problem = f"{row['reason']}: {REASONS.get(row['reason'], '')}"
    return _common(row, figures, token) | {
        "problem": problem,
        "stretches": stretches(row["error"] or "", (), query),
        "audio": None,
    }


def _common(row: Mapping[str, Any], figures: list[str], token: str) -> dict[str, Any]:
    speaker = speaker_of(row["metadata"])
    member = f"!{row['source_member']}" if row["source_member"] else ""
    more = [("reference", row["reference"]), *_metadata(row["metadata"])]
    return {
        "recording_id": row["recording_id"],
        "link": _link(token, Query(recording=row["recording_id"][:1000])),
        "language": row["language"],
        "figures": [row["language"] or "unknown language", *figures, *([f"speaker {speaker}"] if speaker else [])],
        "place": public(row["source_uri"] or "") + member,
        "more": [(key, value) for key, value in more if value],
    }


def _metadata(text: str | None) -> list[tuple[str, str]]:
    """Keys and values of metadata, which is JSON; other text is one value."""
    try:
        values = json.loads(text or "{}")
    except ValueError:
        values = text
    pairs = values.items() if isinstance(values, dict) else [("metadata", values)]
    return [(str(key), _short(value)) for key, value in pairs]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
