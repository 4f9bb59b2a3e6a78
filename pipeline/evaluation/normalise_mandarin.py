"""Mandarin as characters: NFKC, simplified, no spaces, no punctuation, every numeral in digits.

Digits and not characters, since several ways to say a number have one way to write it: 二零二四 and 二千零二十四
are both 2024, 三十五 and 35 both 35. Idioms change with them (一起 is 1起, 十分 is 10分), in both texts alike.

- 零 〇 一 ... 九 are 0 to 9, one for one; 两 is 2 unless it is a weight after a number (三两 is 3两).
- 十 百 千 万 亿 multiply: 三百零五 is 305, 三百五 350, 十 alone 10, 3万 30000, 一亿零三百万 103000000.
  百 千 万 亿 after no number are words and stay: 百货, 千万, 万一.
- A point between digits is 点, as in 三点五 and at o'clock: 3.5 is 3点5. 1.5亿 and 一点五亿 are 150000000.
- 35% is 百分之35, as it is said.
- Punctuation goes first, so that a transcript without any compares equal: 三，五 is 35.
- Left alone: the accountants' 壹贰叁 (陆 and 拾 are words), fractions, 半, signs and units.

cn2an makes the same choice; it is not used because it leaves 1.5亿 beside 一点五亿, 三点五十分 beside 3点50分, and
warns on idioms.
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

# Numbers once the digits are 0-9. More than 8 digits before 万 or 亿 are no number that anybody writes.
_PLAIN = r"(?<![\d点])\d{1,8}"
_HUNDRED = "百(?!分之)"  # 百分之 is "per cent", whatever stands before it
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
    """Letters (lower case), marks and digits, nothing between them."""
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).lower())
    text = _PERCENT.sub(r"百分之\1", _POINT.sub("点", text))
    text = "".join(character for character in text if unicodedata.category(character)[0] in "LMN")
    text = _TWO.sub("2", _SIMPLIFIED.convert(text)).translate(_DIGITS)
    return _DECIMAL.sub(_decimal, _NUMBER.sub(lambda found: str(_value(found[0])), text))


def _value(number: str) -> int:
    """Of a match of _NUMBER, or of a part of one. A digit right after a unit counts tenths of it: 三百五 is 350."""
    for unit, size in UNITS.items():
        high, found, low = number.partition(unit)
        if found:
            rest = int(low) * size // 10 if len(low) == 1 and low.isdigit() else _value(low)
            return (_value(high) if high.strip("0") else 1) * size + rest
    return int(number or "0")


def _decimal(found: re.Match[str]) -> str:
    """1点5亿 in digits; as it is where that is no whole number."""
    value, remainder = divmod(int(found[1] + found[2]) * UNITS[found[3]], 10 ** len(found[2]))
    return found[0] if remainder else str(value)
