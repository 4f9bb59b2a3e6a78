"""The utterances with most errors: which they are, and each as reference and hypothesis laid over each other."""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote, urlsplit

import pyarrow as pa
from markupsafe import Markup

from pipeline.evaluation.result import Counts, headline
from pipeline.evaluation.score import alignment
from pipeline.evaluation.wording import percent

PLAYABLE = (".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".webm")
AROUND = 8  # equal words shown on each side of an error; longer stretches are cut
PIECES = 400  # stretches of one utterance shown: an hour of it is not embedded

_COUNTS = ("hits", "substitutions", "deletions", "insertions")


def counts_of(row: Mapping[str, Any]) -> Counts:
    """Of the metric that the row's language is judged by. row: of schemas.EVALUATED."""
    unit = "char" if headline(row["language"]) == "CER" else "word"
    return Counts(*(row[f"{unit}_{name}"] or 0 for name in _COUNTS))


def worst(rows: pa.Table, most: int) -> list[dict[str, Any]]:
    """Rows of the transcribed recordings with a reference that have most errors, by errors, then by rate.

    rows: schemas.EVALUATED. Those without an error are left out. Recordings without a transcript are no utterances that
    can be looked at: they are not here.
    """
    columns = [f"{unit}_{name}" for unit in ("word", "char") for name in _COUNTS]
    ranks: list[tuple[int, float, int]] = []
    for index, row in enumerate(rows.select(["language", "status", "reference", *columns]).to_pylist()):
        counts = counts_of(row)
        if row["status"] == "transcribed" and row["reference"] is not None and counts.errors:
            ranks.append((counts.errors, counts.rate if counts.rate is not None else float("inf"), -index))
    return rows.take([-index for _, _, index in heapq.nlargest(most, ranks)]).to_pylist() if ranks else []


def listing(rows: Sequence[Mapping[str, Any]]) -> Markup:
    """The rows that `worst` gave, each with its figures, its diff and a player where a browser can reach the audio."""
    if not rows:
        return Markup()
    legend = Markup(
        '<p class="soft">Normalised text. <del>struck through</del>: in the reference, not heard. '
        "<ins>underlined</ins>: heard, not in the reference. Both together: heard instead.</p>"
    )
    return legend + Markup('\n<ol class="worst">{}</ol>').format(Markup("\n").join(map(_item, rows)))


def _item(row: Mapping[str, Any]) -> Markup:
    counts = counts_of(row)
    errors = "1 error" if counts.errors == 1 else f"{counts.errors} errors"
    figures = [
        f"{row['set']} · {row['language']}",
        f"speaker {row['speaker']}" if row["speaker"] is not None else "",
        f"{row['seconds']:.1f} s" if row["seconds"] is not None else "",
        f"SNR {row['snr_db']:.0f} dB" if row["snr_db"] is not None else "",
        f"{errors} (S {counts.substitutions}, D {counts.deletions}, I {counts.insertions})",
        f"{headline(row['language'])} {percent(counts.rate)}",
        f"confidence {row['confidence']:.2f}" if row["confidence"] is not None else "",
    ]
    chars = headline(row["language"]) == "CER"
    pieces = alignment(row["reference_normal"] or "", row["hypothesis_normal"] or "", chars=chars)
    return Markup(
        '<li><header><b dir="auto">{}</b>{}</header><p class="text" dir="auto" lang="{}">{}</p>{}</li>'
    ).format(
        row["recording_id"],
        Markup().join(Markup("<span>{}</span>").format(figure) for figure in figures if figure),
        row["language"],
        diff(pieces, separator="" if chars else " "),
        player(row["audio"]),
    )


def diff(pieces: Iterable[tuple[str, str, str]], *, separator: str) -> Markup:
    """An alignment as <del> and <ins>, neighbours of one kind together, long equal stretches and long texts cut.

    pieces: (equal | substitute | delete | insert, text of the reference, text of the hypothesis); separator: what
    stands between two units, " " or "".
    """
    shown: list[Markup] = []
    runs = [
        (kind, *(separator.join(filter(None, texts)) for texts in list(zip(*group, strict=True))[1:]))
        for kind, group in groupby(pieces, key=lambda piece: piece[0])
    ]
    for place, (kind, reference, hypothesis) in enumerate(runs[:PIECES]):
        if kind == "equal":
            cut = _cut(reference, separator, first=place == 0, last=place == len(runs) - 1)
            shown.append(Markup("{}").format(cut))
            continue
        removed = Markup("<del>{}</del>").format(reference) if reference else Markup()
        added = Markup("<ins>{}</ins>").format(hypothesis) if hypothesis else Markup()
        shown.append(Markup(" " if separator else "").join(filter(None, (removed, added))))
    if len(runs) > PIECES:
        shown.append(Markup('<span class="soft">… and {} more stretches</span>').format(len(runs) - PIECES))
    return Markup(separator).join(shown)


def _cut(text: str, separator: str, *, first: bool, last: bool) -> str:
    """An equal stretch without its middle; what begins or ends the utterance keeps only the side of the error."""
    units = text.split(separator) if separator else list(text)
    around = AROUND if separator else 2 * AROUND
    before, after = (0 if first else around), (0 if last else around)
    if (first and last) or len(units) <= before + after + around:
        return text
    parts = [separator.join(units[:before]), "…", separator.join(units[-after:] if after else [])]
    return " ".join(part for part in parts if part)


def player(audio: str | None) -> Markup:
    """A player for an http, https or file address or a path to a file a browser plays; other addresses as text."""
    if not audio:
        return Markup()
    address = playable(audio)
    if address is None:
        return Markup('<div class="place">{}</div>').format(audio)
    return Markup('<audio controls preload="none" src="{}" aria-label="{}"></audio><div class="place">{}</div>').format(
        address, f"play {audio}", audio
    )


def playable(audio: str) -> str | None:
    """What a browser can fetch, or None: not "shard.tar!member.wav". A path is quoted; it is relative to the report
    unless it is absolute."""
    if re.search(r"\.\w+!", audio):
        return None
    try:
        scheme = urlsplit(audio).scheme.lower()
    except ValueError:  # "http://[": no address at all
        return None
    if scheme in ("http", "https", "file"):
        return audio
    if scheme or audio.startswith("//") or PurePosixPath(audio).suffix.lower() not in PLAYABLE:
        return None
    return quote(audio)
