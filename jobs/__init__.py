"""The command lines: `python -m jobs.NAME --config FILE section.key=value ...`, or `fullcanvas NAME ...`."""

import multiprocessing
import sys
from pathlib import Path

from jobs import stopping, surroundings

# While Python looks for the module of `-m`, the name of the program is "-m": this is the first import of a command.
if Path(sys.argv[0]).name in ("-m", "fullcanvas") and multiprocessing.parent_process() is None:
    surroundings.take_names_as_utf8()
    stopping.listen()
    surroundings.replace_what_cannot_be_shown()
    sys.excepthook = surroundings.say_missing_package
