"""Reads a config from YAML and `section.key=value` overrides, and says in plain words what is wrong with it."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import pydantic
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pipeline.config import ConfigError, Misfit, Section, public

ConfigT = TypeVar("ConfigT", bound=Section)
PACKAGE = Path(__file__).parent  # this package; its folders assets/ and configs/ are installed with it


def load(schema: type[ConfigT], path: str | None, overrides: list[str]) -> ConfigT:
    """Read a YAML file, if `path` names one, and apply `section.key=value` overrides.

    If no file is at `path`, the config of that name in this package is read: demo.yaml, configs/evaluate-self.yaml.
    The value of an override stays text until pydantic converts it to the type of its key, so that `language=no` is
    not False. Only `null`, `[...]` and `{...}` are parsed as YAML.
    Raises ConfigError with all mistakes, one line each, which names the file or the full key.
    """
    tree: dict[str, Any] = _read_yaml(path) if path else {}
    for override in overrides:
        _apply(tree, override, schema)
    return validate(schema, tree)


def validate(schema: type[ConfigT], tree: dict[str, Any]) -> ConfigT:
    """The config of a tree of sections. Raises ConfigError with all mistakes, one line each, with the full keys."""
    try:
        return schema.model_validate(tree)
    except pydantic.ValidationError as err:
        raise ConfigError("\n".join(mistakes(err, schema))) from None


def _read_yaml(path: str) -> dict[str, Any]:
    packaged = PACKAGE / "configs" / path.removeprefix("configs/")
    use_packaged = not Path(path).exists() and packaged.is_file()
    try:
        tree = _parse((packaged if use_packaged else Path(path)).read_text(encoding="utf-8"))
    except OSError as err:
        raise ConfigError(f"{path}: {err.strerror or err}") from None
    except _Repeated as err:
        raise ConfigError(f"{path}: {err}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as err:
        raise ConfigError(f"{path}: not YAML: {public(' '.join(str(err).split()))}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: the top level must be sections, not a {type(tree).__name__}")
    return _with_package_paths(tree) if use_packaged else tree


class _Repeated(yaml.YAMLError):
    """A key stands twice in one mapping. PyYAML would take the last one."""


class _Loader(yaml.SafeLoader):
    """YAML whose keys are unique."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """The value of a node. Raises YAMLError, also where PyYAML does not: 2026-02-30 is no date."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError) as err:
            raise yaml.constructor.ConstructorError(problem=str(err), problem_mark=node.start_mark) from None

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """A mapping as it is written, before `<<` merges others into it. Raises _Repeated if a key is there twice."""
        node = super().compose_mapping_node(anchor)
        first: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode) and key.value in first:
                raise _Repeated(f"{key.value} is there twice, in lines {first[key.value]} and {line}")
            first[str(key.value)] = line
        return node


def _parse(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)


def _with_package_paths(value: Any) -> Any:
    """The same value of a packaged config, whose paths below pipeline/ and configs/ then point into the package."""
    if isinstance(value, dict):
        return {key: _with_package_paths(item) for key, item in value.items()}
    path = PACKAGE / str(value).removeprefix("pipeline/")
    return str(path) if str(value).startswith(("pipeline/", "configs/")) and path.exists() else value


def _apply(tree: dict[str, Any], override: str, schema: type[Section]) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"{public(override)!r}: an override must look like section.key=value")
    value: Any = text
    if text == "null" or text[:1] in ("[", "{"):
        try:
            value = _parse(text)
        except yaml.YAMLError as err:
            why = err if isinstance(err, _Repeated) else f"{public(text)!r} is not YAML"
            raise ConfigError(f"{key}: {why}") from None
    *parents, leaf = key.split(".")
    node = tree
    section: type[BaseModel] | None = schema
    for depth, parent in enumerate(parents):
        field = section.model_fields.get(parent) if section else None
        section = section_of(field) if field else None
        child = node.setdefault(parent, {})
        if (field and not section) or not isinstance(child, dict):
            raise ConfigError(f"{key}: {'.'.join(parents[: depth + 1])} is not a section")
        node = child
    node[leaf] = value


def section_of(field: FieldInfo) -> type[Section] | None:
    """The section class of a field of type Section, `Section | None` or dict[str, Section]; None for a plain value.

    A list of sections is a plain value: its entries have no key of their own.
    """
    if get_origin(field.annotation) is list:
        return None
    for candidate in (field.annotation, *get_args(field.annotation)):
        if isinstance(candidate, type) and issubclass(candidate, Section):
            return candidate
    return None


def keys(schema: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every key that can be set, with its full name and its field: ("source.uri", ...), ...

    A field of type dict[str, Section] has user-chosen names; its keys contain the word NAME instead.
    """
    for name, field in schema.model_fields.items():
        inner = section_of(field)
        if inner:
            named = get_origin(field.annotation) is dict
            yield from keys(inner, f"{prefix}{name}.{'NAME.' if named else ''}")
        else:
            yield prefix + name, field


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every setting of sections that are dictionaries, by its full name ("source.uri"), without secrets."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = public(value) if isinstance(value, str) else value
    return found


def as_text(value: Any) -> str:
    """A setting or another plain value as people read it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


_WORDS = {  # pydantic's types of errors, in plain words, with its own figures in braces
    "missing": "required, but not given",
    "greater_than_equal": "must be {ge} or more",
    "greater_than": "must be above {gt}",
    "less_than_equal": "must be {le} or less",
    "less_than": "must be below {lt}",
    "finite_number": "must be a finite number",
    "literal_error": "must be {expected}",
    "string_too_short": "must not be empty",
    "string_type": "must be text",
    "list_type": "must be a list: [a, b]",
    "dict_type": "must be keys with values: {{a: 1}}",
    "model_type": "must be a section of keys with values",
    "too_short": "must not be empty",
} | {
    f"{kind}_{error}": f"must be {words}"
    for kind, words, errors in (
        ("int", "a whole number", ("type", "parsing", "from_float", "parsing_size")),
        ("float", "a number", ("type", "parsing")),
        ("bool", "true or false", ("type", "parsing")),
    )
    for error in errors
}


def mistakes(err: pydantic.ValidationError, schema: type[Section]) -> list[str]:
    """What is wrong, one line for each key, which begins with the full key. Values that may be secret are left out."""
    lines: dict[str, list[str]] = {}
    given: dict[str, str] = {}
    for error in err.errors():
        # steps of `loc` that are pydantic's own are not part of the key
        steps = [str(step) for step in error["loc"]]
        steps = [step for step in steps if not step.startswith(("constrained", "literal", "function")) and step]
        cause = error.get("ctx", {}).get("error")
        if isinstance(cause, Misfit):
            steps.append(cause.key)
        key = ".".join(steps)
        if error["type"] == "extra_forbidden":
            text = f"no such key{_suggestion(key, schema)}"
        elif error["type"] in _WORDS:
            figures = error.get("ctx", {}).items()
            limits = {name: int(v) if isinstance(v, float) and v.is_integer() else v for name, v in figures}
            text = _WORDS[error["type"]].format(**limits)
        else:
            text = error["msg"].removeprefix("Value error, ").replace("Input should", "must")
        if text not in lines.setdefault(key, []):
            lines[key].append(text)
        if error["type"] not in ("extra_forbidden", "missing"):
            given[key] = _shown(error["input"])
    named = ((f"{key}: " if key else "", texts, given.get(key, "")) for key, texts in lines.items())
    return [f"{key}{' or '.join(texts)}{shown}" for key, texts, shown in named]


def _shown(value: Any) -> str:
    """The value that was given, in brackets; "" for a whole section and for one that contains a secret."""
    if isinstance(value, dict | BaseModel) or public(text := repr(value)) != text:
        return ""
    return f" (given: {text if len(text) <= 100 else f'{text[:100]}...'})"


def _suggestion(key: str, schema: type[Section]) -> str:
    known = {name for name, _ in keys(schema)}
    known |= {name.rpartition(".")[0] for name in known} - {""}
    near = difflib.get_close_matches(key, sorted(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""
