"""Reports as HTML pages: the Jinja2 templates beside this file. Every value is escaped; a page is readable offline."""

from __future__ import annotations

import re
from html import escape
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

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
