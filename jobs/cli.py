"""What the command lines of all jobs share: arguments, help from the config sections, exit codes, a clean stop."""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, get_args, get_origin

from pydantic.fields import FieldInfo

from jobs.stopping import stoppable
from pipeline import logs
from pipeline.config import ConfigError, Section
from pipeline.config_file import load, section_of
from pipeline.output.budget import EXIT_STORAGE, OverBudget
from pipeline.storage.base import OutputError
from pipeline.storage.errors import storage_error

ConfigT = TypeVar("ConfigT", bound=Section)
log = logging.getLogger(__name__)

SCRIPT = "fullcanvas"  # the console script of pyproject.toml
EXIT_USAGE = 2
KEY_WIDTH = 30  # of a key in the help


def main(
    job: str,
    schema: type[ConfigT],
    run: Callable[..., int],
    doc: str | None,
    arguments: list[str] | None = None,
    *,
    instead: Mapping[str, Callable[[ConfigT], int]] | None = None,
    files: Mapping[str, str] | None = None,
    switches: Mapping[str, str] | None = None,
    resumes: bool = True,
    address: bool = False,
) -> int:
    """Parse the arguments, load the config, call `run`, or what an option puts in its place. Returns the exit code.

    Args:
        job: the name of the module below jobs/ ("plan"), or of another module, with its dots.
        schema: the config that the job takes.
        run: does the work; its result is the exit code.
        doc: the job's docstring: what it does and how it is called.
        arguments: words of the command line; None: those of this process.
        instead: by the name of an option, such as "--dry-run", what is called instead; its docstring is the help.
        files: by the name of an option that takes a FILE, such as "--summary", its help. `run` gets them by name.
        switches: the same for options that are there or not, such as "--watch".
        resumes: whether the same command goes on after a stop.
        address: whether the first word that is no setting is the address of the output.

    Returns:
        0 done; 1 the job's own verdict; 2 usage or config, one line per error on stderr; 3 the output is damaged, or a
        store or disk is out of reach, one line; 128 + n after signal n.
    """
    made = parser(job, schema, doc)
    made.add_argument("--log", choices=("text", "json"), default="text", help="json: one object a line, for programs")
    made.set_defaults(chosen=run)
    for option, function in (instead or {}).items():
        about = " ".join((function.__doc__ or "").split())
        made.add_argument(option, dest="chosen", action="store_const", const=function, help=about)
    for option, about in (files or {}).items():
        made.add_argument(option, metavar="FILE", help=about)
    for option, about in (switches or {}).items():
        made.add_argument(option, action="store_true", help=about)
    words = sys.argv[1:] if arguments is None else arguments
    options = made.parse_intermixed_args(words)
    logs.configure(options.log)
    names = [option.strip("-") for option in (*(files or ()), *(switches or ()))]
    given = {name: getattr(options, name) for name in names}
    again = command(job, words) if resumes else ""
    overrides = _with_output(options.overrides) if address else options.overrides
    return _exit_code(again, lambda: options.chosen(load(schema, options.config, overrides), **given))


def _with_output(words: list[str]) -> list[str]:
    """The overrides, of which the first address becomes output.uri=ADDRESS. No key has a slash, so in/day=7 is one."""
    at = next((place for place, word in enumerate(words) if "/" in (key := word.split("=")[0]) or key == word), None)
    return [f"output.uri={word}" if place == at else word for place, word in enumerate(words)]


def _exit_code(again: str, work: Callable[[], int]) -> int:
    """Do the work and return its result, or the code of its error, which is one line. again: as `Listener.command`."""
    try:
        with stoppable(again):
            return work()
    except ConfigError as err:
        say(err)
        return EXIT_USAGE
    except OutputError as err:
        say(err)
        return EXIT_STORAGE
    except OverBudget as err:
        say(err)
        return err.code
    except PermissionError as err:
        if err.filename is None:
            raise
        say(f"{err.filename}: {err.strerror}; with the right to it the same command goes on")
        return EXIT_STORAGE
    except OSError as err:
        failed = storage_error(err)
        if failed is None:
            raise
        say(failed)
        return EXIT_STORAGE


def say(line: object) -> None:
    """Print why a job ends, on stderr. With `--log json` it is an object as every other line."""
    if logs.is_json():
        log.error("%s", line)
    else:
        print(line, file=sys.stderr)


def program(job: str) -> str:
    """How this process was called: "fullcanvas plan" by the console script, else "python -m jobs.plan"."""
    if "." in job:
        return f"python -m {job}"
    if Path(sys.argv[0]).name == SCRIPT:
        return f"{SCRIPT} {job.replace('_', '-')}"
    return f"python -m jobs.{job}"


def command(job: str, arguments: Sequence[str]) -> str:
    """The whole command, quoted for a shell: `program` with its arguments."""
    return f"{program(job)} {shlex.join(arguments)}".rstrip()


def parser(job: str, schema: type[Section], doc: str | None) -> argparse.ArgumentParser:
    """The argument parser of a job. Its help lists every config key."""
    lines = ["keys, their defaults and meaning:", *_key_lines(schema), "", _EXIT_CODES]
    made = Parser(
        prog=program(job),
        description=(doc or "").strip().replace(f"python -m jobs.{job}", program(job)),
        epilog="\n".join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--config", action=Once, metavar="FILE", help="YAML file with the sections below")
    made.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="settings, which replace those of the file"
    )
    return made


class Parser(argparse.ArgumentParser):
    """A parser whose usage errors are one line, like all errors of a user."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"{message} ({self.prog} --help lists what exists)\n")


class Once(argparse.Action):
    """Stores the value of an option, which may be given once: of two files only one would count."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, _option: str | None = None
    ) -> None:
        """Store the value, or end with a usage error if it is empty (an unset variable) or there is one already."""
        if not values:
            parser.error("--config: names no file")
        if getattr(namespace, self.dest) is not None:
            parser.error(f"--config twice: {getattr(namespace, self.dest)} and {values}; one file, and overrides")
        setattr(namespace, self.dest, values)


_EXIT_CODES = (
    "exit codes: 0 done; 1 more failed than allowed, or units are left; 2 usage or config: trying again cannot help; "
    "3 the output is damaged, or a store, mount or disk is out of reach; 130 stopped by SIGINT; 143 by SIGTERM"
)


def _key_lines(schema: type[Section], prefix: str = "") -> Iterator[str]:
    """The help of every key, in groups: for each section a line that says what it is, then its keys."""
    inner = [(name, field) for name, field in schema.model_fields.items() if section_of(field)]
    for name, field in schema.model_fields.items():
        if not section_of(field):
            yield _key_line(f"{prefix}{name}", field)
    for name, field in inner:
        section = section_of(field)
        assert section
        key = f"{prefix}{name}{'.NAME' if get_origin(field.annotation) is dict else ''}"
        yield f"\n{key}: {field.description or _first_line(section.__doc__)}"
        yield from _key_lines(section, f"{key}.")


def _key_line(key: str, field: FieldInfo) -> str:
    default = "(required)" if field.is_required() else _text(field.get_default(call_default_factory=True))
    about = field.description or ""
    values = "|".join(_choices(field.annotation))
    if about.startswith(values):
        values = ""
    return f"  {key:<{KEY_WIDTH}} {default:<12} {'; '.join(filter(None, (values, _bounds(field), about)))}".rstrip()


def _first_line(doc: str | None) -> str:
    return (doc or "").strip().partition("\n")[0]


def _choices(annotation: Any) -> list[str]:
    if annotation is bool:
        return ["true", "false"]
    if get_origin(annotation) is Literal:
        return [str(value) for value in get_args(annotation)]
    if get_origin(annotation) in (typing.Union, types.UnionType, list):
        return [choice for part in get_args(annotation) for choice in _choices(part)]
    return []


def _bounds(field: FieldInfo) -> str:
    """The bounds of a number, also of one among other choices: "1 to 256", "above 0, to 10"; "" for anything else."""
    limits = list(field.metadata)
    for part in get_args(field.annotation):
        for inner in getattr(part, "__metadata__", ()):
            limits += getattr(inner, "metadata", [inner])
    known = {
        name: getattr(limit, name) for limit in limits for name in ("ge", "gt", "le", "lt") if hasattr(limit, name)
    }
    low = f"above {known['gt']:,}" if "gt" in known else f"{known['ge']:,}" if "ge" in known else ""
    if "lt" in known:
        return f"{low} to below {known['lt']:,}"
    return f"{low}{', to' if 'gt' in known else ' to'} {known['le']:,}" if "le" in known else low


def _text(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, list):
        return f"[{', '.join(map(str, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)
