"""The objects of an S3 bucket, listed in the order of their keys by several requests at the same time."""

from __future__ import annotations

import string
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import zip_longest
from typing import Any
from xml.etree import ElementTree

from pipeline.config import ConfigError
from pipeline.sources.access import names, remote
from pipeline.storage.background import workers

REQUESTS = 8  # at the same time
SPANS = 16  # at most, begun or waiting
SPAN_PAGES = 4  # about so many pages are between two guessed keys
WAITING_PAGES = 8  # of one span, at most
DIGITS = 6  # characters behind the common beginning of a page's keys that count when a key is guessed
_LETTERS = (string.digits, string.ascii_lowercase, string.ascii_uppercase)

_TYPES: dict[str, Callable[[str], Any]] = {  # of what a page says, as botocore gives it
    **dict.fromkeys(("Key", "ETag", "StorageClass", "Prefix"), str),
    **dict.fromkeys(("Size", "KeyCount", "MaxKeys"), int),
    "LastModified": datetime.fromisoformat,
    "IsTruncated": "true".__eq__,
}

Object = tuple[str, int, str]  # key, size in bytes, version


@dataclass(slots=True)
class _Page:
    """One answer. folders: keys below them are left out. token: asks for the next page; None: this is the last one."""

    objects: list[Object]
    folders: list[str]
    token: str | None


@dataclass(slots=True)
class _Span:
    """The keys behind `after` and not behind `end`, None: to the last one. pages: those that nobody has taken yet.

    last: of its last page. step: the last keys of two pages in a row, of this span or the one that it was cut from.
    """

    after: str | None = None
    end: str | None = None
    last: str = ""
    step: tuple[str, str] | None = None
    token: str | None = None  # of the next page
    pages: deque[list[Object]] = field(default_factory=deque)
    request: Future[_Page] | None = None
    is_over: bool = False


def list_objects(fs: Any, prefix: str, uri: str, *, flat: bool) -> Iterator[Object]:
    """Yield the objects whose path (bucket and key) begins with `prefix`, without those that stand for folders.

    A single connection gets one page of 1000 after the other. So the end of what is listed is divided at guessed keys
    from the second page on, and all spans are listed at the same time. A wrong guess costs a request; it changes
    nothing in what is yielded. Memory: SPANS * WAITING_PAGES pages. The second page is asked for when the first one is
    used up. flat: without the objects in folders. Raises as `remote.ask`.
    """
    bucket, key = _bucket_and_key(prefix, uri)
    fetch = partial(_fetch, fs, {"Bucket": bucket, "Prefix": key, **({"Delimiter": "/"} if flat else {})}, uri)
    first = fetch()
    yield from first.objects
    if first.token is None:
        return
    divide = partial(_divide, start=len(key), most=SPANS if _can_divide(first, fetch) else 1)
    spans = deque([_Span(token=first.token, last=first.objects[-1][0] if first.objects else "")])
    try:
        while spans:
            _ask(spans, fetch)
            head = spans[0]
            if head.pages:
                yield from head.pages.popleft()
            elif head.is_over:
                spans.popleft()
            else:
                wait([span.request for span in spans if span.request], return_when=FIRST_COMPLETED)
            _collect(spans, divide)
    finally:
        for span in spans:
            if span.request:
                span.request.cancel()


def list_level(fs: Any, prefix: str, uri: str) -> Iterator[tuple[list[Object], list[str]]]:
    """Yield the objects and the folders of one folder, page by page: `prefix` is its path with a slash at the end."""
    bucket, key = _bucket_and_key(prefix, uri)
    page = _Page([], [], "")
    while page.token is not None:
        token = {"ContinuationToken": page.token} if page.token else {}
        page = _fetch(fs, {"Bucket": bucket, "Prefix": key, "Delimiter": "/", **token}, uri)
        yield page.objects, page.folders


def further(keys: Sequence[str], step: tuple[str, str], times: int) -> str | None:
    """Guess a key that is `times` as far behind the last of these as the second key of `step` is behind the first one.

    Keys are counted like numbers: each place has its own digits, which are the characters seen there, with all others
    of their kind. None: there is no guess, or none behind the last key. keys: in order.
    """
    last, seen = keys[-1], sorted({*keys, *step})
    pairs = enumerate(zip(seen[0], seen[-1], strict=False))
    same = next((place for place, (one, other) in pairs if one != other), len(seen[0]))
    columns = [set(column) for column in zip_longest(*(key[same : same + DIGITS] for key in seen), fillvalue="")]
    varied = set().union(*(column for column in columns if len(column) > 1)) - {""}
    places = [*({char} for char in last[:same]), *columns]
    digits = [_digits(chars | varied if len(chars) == 1 and min(chars).isalnum() else chars) for chars in places]

    def number(key: str) -> int:
        value = 0
        for place, choice in enumerate(digits):
            value = value * len(choice) + choice.index(key[place : place + 1])
        return value

    value = number(last) + times * (number(step[1]) - number(step[0]))
    guess = ""
    for choice in reversed(digits):
        value, digit = divmod(value, len(choice))
        guess = choice[digit] + guess
    return guess if value == 0 and guess > last else None


def _digits(chars: set[str]) -> list[str]:
    """These characters with all others of their kind, in order. Letters of hexadecimal numbers end with f."""
    full = set(chars)
    for kind in _LETTERS:
        own = chars & set(kind)
        is_hexadecimal = own <= set("abcdefABCDEF") and bool(chars & set(string.digits))
        full |= (
            set(kind[:6] if is_hexadecimal else kind) if own and kind != string.digits else set(kind) if own else own
        )
    return sorted(full)


def _divide(spans: deque[_Span], index: int, objects: list[Object], *, start: int, most: int) -> None:
    """Divide a span where about SPAN_PAGES pages more may end, if that is guessed to lie in it.

    objects: of its last page. start: how many characters all keys have in common. most: so many spans at most.
    """
    span = spans[index]
    if len(spans) >= most or span.step is None or not objects:
        return
    beginning = objects[0][0][:start]
    behind = further([key[start:] for key, _, _ in objects], (span.step[0][start:], span.step[1][start:]), SPAN_PAGES)
    if behind is not None and (span.end is None or beginning + behind < span.end):
        spans.insert(index + 1, _Span(after=beginning + behind, end=span.end, step=span.step))
        span.end = beginning + behind


def _can_divide(page: _Page, fetch: Any) -> bool:
    """Whether the store lists in the order of the keys, and from any key on: not every one that speaks S3 does."""
    keys = [key for key, _, _ in page.objects]
    if len(keys) < 2 or keys != sorted(keys):
        return False
    probe = fetch(StartAfter=keys[-2], MaxKeys=1)
    return all(name > keys[-2] for name in (*(key for key, _, _ in probe.objects), *probe.folders))


def _ask(spans: deque[_Span], fetch: Any) -> None:
    """Ask for the next page of each span that may have more to wait."""
    for index, span in enumerate(spans):
        if span.request is None and not span.is_over and (index == 0 or len(span.pages) < WAITING_PAGES):
            place = {"ContinuationToken": span.token} if span.token else {"StartAfter": span.after}
            span.request = workers(REQUESTS).submit(partial(fetch, **place))


def _collect(spans: deque[_Span], divide: Callable[..., None]) -> None:
    """Take the answers that are there. An error is raised when it is the turn of its span."""
    for index, span in enumerate(list(spans)):
        request = span.request
        if request is None or not request.done() or (index and request.exception()):
            continue
        page, span.request = request.result(), None
        end = span.end
        objects = page.objects if end is None else [one for one in page.objects if one[0] <= end]
        span.token, span.is_over = page.token, page.token is None or len(objects) < len(page.objects)
        if objects:
            span.pages.append(objects)
            span.step = (span.last, objects[-1][0]) if span.last else span.step
            span.last = objects[-1][0]
        if not span.is_over:
            divide(spans, spans.index(span), objects)


def _bucket_and_key(prefix: str, uri: str) -> tuple[str, str]:
    bucket, _, key = prefix.partition("/")
    if not bucket or names.has_magic(bucket):
        raise ConfigError(f"source.uri: {uri}: it names no bucket")
    return bucket, key


def _fetch(fs: Any, options: dict[str, Any], uri: str, **more: Any) -> _Page:
    def page() -> dict[str, Any]:
        fs.connect()
        fs.s3.meta.events.register("before-parse.s3.ListObjectsV2", _parse, unique_id="fullcanvas-list")
        answer: dict[str, Any] = fs.call_s3("list_objects_v2", **options, **more)
        return answer

    answer = remote.ask(page, uri)
    objects = [
        (entry["Key"], entry["Size"], remote.version_of(entry | {"size": entry["Size"]}))
        for entry in answer.get("Contents", ())
        if not entry["Key"].endswith("/")
    ]
    folders = [entry["Prefix"].rstrip("/") for entry in answer.get("CommonPrefixes", ())]
    return _Page(objects, folders, answer["NextContinuationToken"] if answer.get("IsTruncated") else None)


def _parse(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: Any) -> None:
    """Parse a page as botocore does, in a tenth of the time. What is not a page is left to botocore."""
    if response_dict["status_code"] != 200:
        return
    try:
        root = ElementTree.fromstring(response_dict["body"])
    except ElementTree.ParseError:
        return
    page: dict[str, Any] = {}
    for child in root:
        name = child.tag.rpartition("}")[2]
        if name in ("Contents", "CommonPrefixes"):
            parts = {part.tag.rpartition("}")[2]: part.text or "" for part in child}
            page.setdefault(name, []).append({key: _TYPES[key](text) for key, text in parts.items() if key in _TYPES})
        else:
            page[name] = _TYPES.get(name, str)(child.text or "")
    customized_response_dict.update(page)
    response_dict["body"] = b"<ListBucketResult/>"
