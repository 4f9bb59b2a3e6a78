"""Mandarin as characters: NFKC, simplified, no spaces, no punctuation, every numeral in digits.

Digits instead of characters, because a number is said in several ways and written in one: 二零二四 and 二千零二十四
become 2024, 三十五 and 35 become 35. Idioms change too (一起 becomes 1起, 十分 10分), in both texts alike.

- 零 〇 一 ... 九 become 0 to 9, one by one. 两 becomes 2, unless it is a weight after a number (三两 becomes 3两).
- 十 百 千 万 亿 multiply: 三百零五 becomes 305, 三百五 350, 十 alone 10, 3万 30000, 一亿零三百万 103000000.
  百 千 万 亿 without a number before them are words and stay: 百货, 千万, 万一.
- A point between digits becomes 点, as in 三点五 and in times: 3.5 becomes 3点5. 1.5亿 and 一点五亿 become 150000000.
- 35% becomes 百分之35, as it is said.
- Punctuation is dropped first, so that a transcript without punctuation compares equal: 三，五 becomes 35.
- Unchanged: the accountants' 壹贰叁 (陆 and 拾 are words), fractions, 半, signs and units.

The library cn2an follows the same idea. It is not used, because it keeps 1.5亿 and 一点五亿 apart, and 三点五十分 and
3点50分 too, and warns about idioms.
"""

from __future__ import annotations

import re
import unicodedata

import opencc

UNITS = {"亿": 10**8, "万": 10**4, "千": 1000, "百": 100, "十": 10}
_DIGITS = str.maketrans("〇零一二三四五六七八九", "00123456789")
_TWO = re.compile(r"两(?=[百千万亿])|(?<![\d〇零一二三四五六七八九十百千万亿])两", re.ASCII)
_POINT = re.compile(r"(?<=\d)\.(?=\d)", re.ASCII)
_PERCENT = re.compile(r"(?<![\d点])(\d+(?:点\d+)?)\s*%", re.ASCII)

# Numbers, after the digits have become 0-9. Nobody writes more than 8 digits before 万 or 亿.
_PLAIN = r"(?<![\d点])\d{1,8}"
_HUNDRED = "百(?!分之)"  # 百分之 always means "per cent"
_LAST = rf"(?:0\d(?![十千]|{_HUNDRED})|\d(?![\d十千]|{_HUNDRED}))"
_SECTION = (  # below 10,000
    rf"(?:(?=[1-9]?十|[1-9]千|[1-9]{_HUNDRED})(?:\d千)?(?:0?\d{_HUNDRED})?(?:0?\d?十)?{_LAST}?)"
)
_REST = rf"(?:0?{_SECTION}|0{{1,2}}\d|\d(?![\d十百千万亿]))"  # what may follow 万
_BELOW_YI = rf"(?:(?:{_PLAIN}|{_SECTION})万{_REST}?|{_SECTION})"
_NUMBER = re.compile(rf"(?:{_BELOW_YI}|{_PLAIN})亿(?:0?{_BELOW_YI}|{_REST})?|{_BELOW_YI}", re.ASCII)
_DECIMAL = re.compile(r"(?<![\d点])(\d{1,8})点(\d{1,8})([万亿])", re.ASCII)

_SIMPLIFIED = opencc.OpenCC("t2s")


def mandarin(text: str) -> str:
    """Only lower-case letters, marks and digits, without spaces."""
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).lower())
    text = _PERCENT.sub(r"百分之\1", _POINT.sub("点", text))
    text = "".join(character for character in text if unicodedata.category(character)[0] in "LMN")
    text = _TWO.sub("2", _SIMPLIFIED.convert(text)).translate(_DIGITS)
    return _DECIMAL.sub(_decimal, _NUMBER.sub(lambda match: str(_value(match[0])), text))


def _value(number: str) -> int:
    """The value of a match of _NUMBER or of a part of it. A digit behind a unit counts its tenths: 三百五 is 350."""
    for unit, size in UNITS.items():
        high, separator, low = number.partition(unit)
        if separator:
            rest = int(low) * size // 10 if len(low) == 1 and low.isdigit() else _value(low)
            return (_value(high) if high.strip("0") else 1) * size + rest
    return int(number or "0")


def _decimal(match: re.Match[str]) -> str:
    """1点5亿 in digits; unchanged where that is no whole number."""
    value, remainder = divmod(int(match[1] + match[2]) * UNITS[match[3]], 10 ** len(match[2]))
    return match[0] if remainder else str(value)
