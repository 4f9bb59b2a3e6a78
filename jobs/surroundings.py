"""What no command may stumble over: a terminal that cannot show all letters, a package that is missing."""

from __future__ import annotations

import io
import locale
import os
import sys
from types import TracebackType

from pipeline.missing import missing_package


def take_names_as_utf8() -> None:
    """Where the locale has another encoding, start this command again with names of files in UTF-8, as they mostly are.

    The processes that it starts do the same. PYTHONUTF8 in the environment, whatever its value, prevents it.
    """
    if sys.getfilesystemencoding() != "utf-8" and "PYTHONUTF8" not in os.environ:
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def replace_what_cannot_be_shown() -> None:
    """Write "?" for letters that the terminal cannot show. It shows UTF-8 unless the locale names another encoding."""
    shown = locale.getencoding()
    is_named = shown.upper().replace("-", "") not in ("UTF8", "ASCII", "ANSI_X3.41968", "646")  # the last three: none
    encoding = shown if is_named and "PYTHONIOENCODING" not in os.environ else None
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding=encoding, errors="replace")


def say_missing_package(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """End the process with one line and exit code 2 if a package is missing; Python's own way for other errors."""
    if not isinstance(error, ModuleNotFoundError) or (error.name or "").startswith(("pipeline.", "jobs.")):
        sys.__excepthook__(kind, error, trace)
        return
    sys.stderr.write(f"{missing_package(str(error))}\n")
    sys.stderr.flush()
    os._exit(2)
