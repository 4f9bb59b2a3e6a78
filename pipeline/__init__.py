"""fullcanvas: transcribe whole speech archives with a diffusion speech recogniser on Ray Data.

For notebooks (docs/notebook.md):

    >>> from pipeline import transcribe, read_transcripts
    >>> summary = transcribe("recordings/", "out/mine", source={"language": "de"})
    >>> table = read_transcripts("out/mine")
"""

from __future__ import annotations

import sys
from typing import Any

__version__ = "0.1.0"
__all__ = ["read_transcripts", "transcribe"]  # noqa: F822 - `__getattr__` below brings them


def missing_package(error: str) -> str:
    """The line for a package that this Python lacks. error: "No module named 'av'"."""
    return (
        f"{error}: {sys.executable} lacks a package that the jobs need: install those of requirements.lock into it, on "
        "every node of a cluster (pip install -r requirements.lock)"
    )


def __getattr__(name: str) -> Any:
    """`transcribe` and `read_transcripts`, loaded at the first use: `import pipeline` alone loads nothing."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pipeline import notebook

    return getattr(notebook, name)
