"""fullcanvas: transcribe whole speech archives with a diffusion speech recogniser on Ray Data.

For notebooks (docs/notebook.md):

    >>> from pipeline import transcribe, read_transcripts
    >>> summary = transcribe("recordings/", "out/mine", source={"language": "de"})
    >>> table = read_transcripts("out/mine")
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["read_transcripts", "transcribe"]  # noqa: F822 - `__getattr__` below brings them


def __getattr__(name: str) -> Any:
    """`transcribe` and `read_transcripts`, loaded at the first use: `import pipeline` alone loads nothing."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pipeline import notebook

    return getattr(notebook, name)
