"""Makes sure that espeak-ng is there for the tests that speak."""

from __future__ import annotations

from tests.support import debian


def install_espeak() -> None:
    """Skips or fails the test where espeak-ng is missing and cannot be installed (see `debian.install`)."""
    debian.install(("espeak-ng",), ("espeak-ng",))
