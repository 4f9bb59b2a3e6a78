"""What sources write for a language, and the code that the model knows: "en" for "EN", "en-US", "eng" or "English"."""

from __future__ import annotations

import re
from collections.abc import Callable

from pipeline.config import LANGUAGES, PATH, SourceConfig
from pipeline.schemas import BadRecording

_NAMES = {
    "en": ("eng", "english", "american english", "british english"),
    "de": ("deu", "ger", "german", "deutsch"),
    "fr": ("fra", "fre", "french", "français", "francais"),
    "es": ("spa", "spanish", "español", "espanol", "castilian", "castellano"),
    "hi": ("hin", "hindi", "हिन्दी", "हिंदी"),
    "zh": (
        *("zho", "chi", "cmn", "chinese", "mandarin", "mandarin chinese", "chinese mandarin", "putonghua"),
        *("中文", "汉语", "漢語", "普通话", "普通話", "国语", "國語", "华语", "華語"),
    ),
}
_CODES = {name: code for code, names in _NAMES.items() for name in (code, *names)}
# und, mul, mis and zxx are codes of ISO 639: undetermined, several, uncoded, none. The rest is what programs write.
_UNKNOWN = frozenset(
    (
        *("und", "undetermined", "mul", "multiple", "multilingual", "mis", "zxx", "unknown", "unk", "<unk>", "[unk]"),
        *(
            "auto",
            "automatic",
            "any",
            "n/a",
            "n.a.",
            "na",
            "nan",
            "none",
            "null",
            "xx",
            "xxx",
            "zz",
            "?",
            "??",
            "-",
            "--",
        ),
    )
)
_FORM = re.compile(r"(?P<name>[^-(]+?) ?(?P<more>(?:-[a-z0-9]{1,8})+|\([^()]*\))?")  # en-us, english (us)
_CODE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_ENCODING = re.compile(r"\.(?:utf-?8|iso-?8859-?\d+|gb\d+|big5)$")  # of a POSIX locale: de_DE.UTF-8
# Chinese languages other than Mandarin: an extended subtag of three letters ("zh-yue"), a region where Cantonese is
# spoken ("zh-HK"), or a name
_OTHER_CHINESE = re.compile(
    r"^zh-(?!cmn|chs|cht)[a-z]{3}(?:-|$)|-(?:hk|mo)(?:-|$)|\b(?:yue|wu|min|gan|xiang|jin|hong kong|macau|macao)\b"
    r"|cantonese|shanghai|hokkien|hakka|teochew|taiwanese|粤|粵|广东|廣東|香港|澳門|澳门|闽|閩|客家|吴语|吳語"
)


def known_language(value: object) -> str | None:
    """Return the code of a language; None for null, NaN, empty text and what means unknown ("und", "auto", "N/A").

    Raises BadRecording("unsupported_language") for anything else, also for Chinese languages other than Mandarin.
    """
    if value is None or value != value:
        return None
    if isinstance(value, str):
        name = _ENCODING.sub("", " ".join(value.lower().replace("_", "-").split()))
        name = name.removeprefix("<|").removesuffix("|>")
        if not name or name in _UNKNOWN:
            return None
        if code := _code(name):
            return code
    raise BadRecording("unsupported_language", f"{value!r:.100} is not one of {', '.join(LANGUAGES)}")


def any_language(value: object) -> str | None:
    """Return the code as `known_language`; that of another language as it is written, in lower case and with hyphens.

    It can be part of a path. Raises BadRecording("unsupported_language") for what has not the form of a code.
    """
    try:
        return known_language(value)
    except BadRecording:
        code = str(value).strip().lower().replace("_", "-")
        if not _CODE.fullmatch(code):
            raise BadRecording("unsupported_language", f"{value!r:.100} is not the code of a language") from None
        return code


def is_language(value: object) -> bool:
    """Return whether `value` names a language that the model knows."""
    try:
        return known_language(value) is not None
    except BadRecording:
        return False


def fixed_language(source: SourceConfig) -> str | None:
    """Return the language that source.language gives to all recordings; None if it depends on the recording."""
    return source.language if source.language in LANGUAGES else None


def language_of_path(source: SourceConfig) -> Callable[[str], str | None] | None:
    """Return what finds the language in a path, by source.language=path:REGEX; None for any other setting.

    The last match in the path counts, and in it the first group; without a group all of it. A path without a match has
    no language (None). The function raises BadRecording("unsupported_language") as `known_language`.
    """
    if source.language is None or not source.language.startswith(PATH):
        return None
    pattern = re.compile(source.language.removeprefix(PATH))

    def find(path: str) -> str | None:
        match = None
        for match in pattern.finditer(path):  # noqa: B007 the last one is wanted
            pass
        return known_language(match[1 if pattern.groups else 0]) if match else None

    return find


def _code(name: str) -> str | None:
    """Return the code of a name in lower case, with - for _ and single spaces; None if it is not known."""
    form = _FORM.fullmatch(name)
    code = _CODES.get(name) or (_CODES.get(form["name"]) if form else None)
    if code == "zh" and _OTHER_CHINESE.search(name):
        return None
    more = (form["more"] or "").strip("-()") if form else ""
    names_another = len(more) > 3 and _CODES.get(more, code) != code  # "english-german"
    return None if names_another else code
