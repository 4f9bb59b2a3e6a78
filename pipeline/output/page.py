"""Reports as HTML pages: the Jinja2 templates beside this file. Every value is escaped; a page is readable offline."""

from __future__ import annotations

import re
from html import escape
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote, urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined

PLAYABLE = (".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".webm")

_TEMPLATES = Environment(
    loader=PackageLoader("pipeline.output"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render_page(template: str, **values: Any) -> str:
    """The text of one template, with `values` under their names.

    Raises jinja2.UndefinedError where the template uses a name that is not given.
    """
    return _TEMPLATES.get_template(template).render(values)


def markdown(text: str) -> str:
    """Text from outside for Markdown, also for a cell of a table: one line, in which no sign means anything."""
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", escape(" ".join(text.split()), quote=False))


def playable(audio: str) -> str | None:
    """The address that a browser can fetch, or None, as for "shard.tar!member.wav".

    A path is quoted; it is relative to the report unless it is absolute.
    """
    if re.search(r"\.\w+!", audio):
        return None
    try:
        scheme = urlsplit(audio).scheme.lower()
    except ValueError:  # "http://[" is no address
        return None
    if scheme in ("http", "https", "file"):
        return audio
    if scheme or audio.startswith("//") or PurePosixPath(audio).suffix.lower() not in PLAYABLE:
        return None
    return quote(audio)
