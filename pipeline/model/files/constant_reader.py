"""Constants of Python and JSON files, read as text: no code is run, nothing is imported.

A constant has a name: that of a variable, a field, a parameter with its default, an argument of a call, a key of a
dict, an option of argparse. Its value is computed from literals and from other constants of the same file: f-strings,
sums, products.
"""

from __future__ import annotations

import ast
import functools
import json
import operator
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

Scalar = int | float | str
Value = int | float | str | tuple[Scalar, ...]
Evaluate = Callable[[ast.AST | None], Value | None]

ARITHMETIC = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}
LARGEST_NUMBER = 2**63
LONGEST = 4096  # characters of a string, items of a list
DEPTH = 30  # of an expression
READERS = {"tok", "tokenizer", "tokenize", "encode", "processor"}  # what is called with a prompt as its first argument
CHANGED = {"strip", "lstrip", "rstrip", "dedent", "tuple", "list", "set", "frozenset"}  # calls that keep the meaning


@dataclass(frozen=True, slots=True)
class Constant:
    """Its name as the file has it, its value, and `file:line`."""

    name: str
    value: Value
    place: str


def read_python(name: str, data: bytes) -> list[Constant]:
    """All constants of a Python file. Raises SyntaxError, ValueError, RecursionError or MemoryError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the file's own business
        tree = ast.parse(data.decode("utf-8-sig"), filename=name)
    known: dict[str, Value] = {}
    constants = []
    for node in ast.walk(tree):  # level by level, so constants of the module come before those that use them
        for own, expression in _pairs(node):
            value = _value(expression, known)
            if value is None:
                continue
            if isinstance(node, ast.Assign | ast.AnnAssign):
                known[own] = value
            constants.append(Constant(own, value, f"{name}:{getattr(expression, 'lineno', 0)}"))
    return constants


def read_json(name: str, data: bytes) -> list[Constant]:
    """All constants of a JSON file. Raises ValueError or RecursionError."""
    return list(_json_constants(name, json.loads(data)))


def _json_constants(name: str, tree: Any) -> Iterator[Constant]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        if isinstance(value, list) and value and all(is_scalar(item) for item in value):
            yield Constant(str(key), tuple(value), name)
        elif isinstance(value, dict | list):
            yield from _json_constants(name, value)
        elif is_scalar(value):
            yield Constant(str(key), value, name)


def _pairs(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Names and the expressions that give them their values, in one node."""
    match node:
        case ast.Assign(targets=targets, value=value):
            for target in targets:
                yield from _targets(target, value)
        case ast.AnnAssign(target=target, value=ast.expr() as value):
            yield from _targets(target, value)
        case ast.FunctionDef(args=a) | ast.AsyncFunctionDef(args=a) | ast.Lambda(args=a):
            plain = [*a.posonlyargs, *a.args]
            given = a.defaults
            yield from zip((arg.arg for arg in plain[len(plain) - len(given) :]), given, strict=True)
            yield from ((arg.arg, value) for arg, value in zip(a.kwonlyargs, a.kw_defaults, strict=True) if value)
        case ast.Dict(keys=keys, values=values):
            for key, value in zip(keys, values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(key.value, str):
                    yield key.value, value
        case ast.Call():
            yield from _arguments(node)


def _targets(target: ast.expr, value: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    """`a = 1`, `self.a = 1`, `a, b = 1, 2`."""
    match target, value:
        case ((ast.Name(id=name) | ast.Attribute(attr=name)), _):
            yield name, value
        case ((ast.Tuple(elts=targets) | ast.List(elts=targets)), (ast.Tuple(elts=values) | ast.List(elts=values))):
            for one, its in zip(targets, values, strict=False):
                if isinstance(one, ast.Name | ast.Attribute):
                    yield from _targets(one, its)


def _arguments(call: ast.Call) -> Iterator[tuple[str, ast.expr]]:
    """Named arguments, options of argparse, `get("a", 1)`, `getattr(x, "a", 1)` and a tokenizer's text."""
    named = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
    yield from named.items()
    function = _called(call)
    words = [arg.value if isinstance(arg, ast.Constant) else None for arg in call.args]
    if function == "add_argument" and "default" in named:
        yield from ((word.lstrip("-"), named["default"]) for word in words if isinstance(word, str))
    if function in ("get", "getattr", "pop", "setdefault") and len(words) > 1 and isinstance(words[-2], str):
        yield words[-2], call.args[-1]
    if call.args and READERS & set(snake(function).split("_")):
        yield "prompt", call.args[0]


def _value(node: ast.AST | None, known: Mapping[str, Value], depth: int = DEPTH) -> Value | None:
    """The value of an expression of literals and known names; None where it has another part."""
    if depth == 0:
        return None
    inner = functools.partial(_value, known=known, depth=depth - 1)
    match node:
        case ast.Constant(value=literal):
            return literal if is_scalar(literal) else None
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return known.get(name)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _combined(ast.Sub(), 0, inner(operand))
        case ast.BinOp(left=left, op=op, right=right):
            return _combined(op, inner(left), inner(right))
        case ast.JoinedStr(values=parts):
            return "".join(_text(part, inner) for part in parts)[:LONGEST]
        case ast.Tuple(elts=items) | ast.List(elts=items) | ast.Set(elts=items):
            return tuple(value for item in items[:LONGEST] if is_scalar(value := inner(item)))
        case ast.Lambda(body=body):
            return inner(body)
        case ast.Call():
            return _of_call(node, inner)
    return None


def _of_call(call: ast.Call, inner: Evaluate) -> Value | None:
    """The value of `field(default=1)`, `"a".strip()` and `tuple([1, 2])`."""
    name = _called(call)
    if name in ("field", "Field"):
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        return inner(given.get("default") or given.get("default_factory") or next(iter(call.args), None))
    if name not in CHANGED:
        return None
    if call.args:
        return inner(call.args[0])
    return inner(call.func.value) if isinstance(call.func, ast.Attribute) else None


def _called(call: ast.Call) -> str:
    """The last name of what is called."""
    return str(getattr(call.func, "attr", None) or getattr(call.func, "id", ""))


def _text(part: ast.expr, inner: Evaluate) -> str:
    """A part of an f-string; `{}` where its value is not known."""
    value = inner(part.value if isinstance(part, ast.FormattedValue) else part)
    return str(value) if is_scalar(value) else "{}"


def _combined(op: ast.operator, left: Value | None, right: Value | None) -> Value | None:
    """The value of an operation on two known values; None for other operations and for results that are too large."""
    number: object = None
    if isinstance(left, int | float) and isinstance(right, int | float):
        try:
            number = ARITHMETIC[type(op)](left, right)
        except (KeyError, ArithmeticError):
            return None
    elif isinstance(left, str) and isinstance(right, int) and isinstance(op, ast.Mult):
        number = (left * min(right, LONGEST))[:LONGEST]
    elif isinstance(left, str) and isinstance(right, str) and isinstance(op, ast.Add):
        number = (left + right)[:LONGEST]
    elif isinstance(left, tuple) and isinstance(right, tuple) and isinstance(op, ast.Add):
        return (left + right)[:LONGEST]
    return number if is_scalar(number) else None


def is_scalar(value: object) -> TypeGuard[Scalar]:
    """Whether a value is a string or number of a size that a person would write; True and False are none."""
    if isinstance(value, str):
        return len(value) <= LONGEST
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST_NUMBER


def snake(name: str) -> str:
    """`defaultCanvasLength`, `DEFAULT_CANVAS_LENGTH` and `_canvas-length` as canvas_length."""
    words = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name.replace("-", "_")).lower().strip("_")
    return words.removeprefix("default_")
