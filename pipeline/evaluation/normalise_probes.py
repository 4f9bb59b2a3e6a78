"""Fixed texts that touch every rule of every normaliser. What becomes of them is a normaliser's hash."""

from __future__ import annotations


def _characters(first: int, last: int) -> str:
    """Each character of a range of code points, alone and inside a word."""
    return " ".join(f"{chr(code)} a{chr(code)}b" for code in range(first, last + 1))


PROBES = (
    # English: brackets, fillers, apostrophes, titles, numbers, money
    "Hello, World! [noise] (laughs) <unk> It's a test -- isn't it?",
    "hmm mm mhm mmm uh um er erm ah oh",
    "It’s y’all’s; 'quoted' ‘quoted’ rock 'n' roll o'clock ma'am",
    "Mr. Smith, Mrs. Jones and Dr. Who met St. John's Rev. Jr.",
    "I'd been, he's gone, she'd done, it's got, won't, can't, let's, gonna, wanna",
    "twenty one, two hundred and five, one thousand nine hundred eighty four, 1,234,567",
    "oh oh seven, double five, triple nine, one oh one, nineteen eighty four, 007",
    "three point one four, one point five, two and a half million, minus five, plus 7, -5, +7, −3",
    "one dollar, two dollars and seven cents, $0.07, £3.50, €20 million, 5 percent, ten per cent",
    "the first, 2nd, third, twenty first, 1960s, the sixties, one, ones, 20 1, 1 1 2, chapter 1",
    "colour centre theatre organise analysed aluminium grey travelling défense",
    # German, French, Spanish
    "Größe, STRASSE, Fußgänger-Übergang; wie geht's? „Ja“, E-Mail 3,5 % — 1.000 €",
    "L'homme, l’été, aujourd'hui, ÇA, arc-en-ciel, où, œuvre, naïf, c'est-à-dire « oui » !",
    "¿Dónde está el niño? ¡Mañana, pingüino! 25ª 3º ÑANDÚ",
    # Hindi: vowel signs, nukta composed and not, joiners, danda, digits
    "नमस्ते, आप कैसे हैं? मैं ठीक हूँ। धीरे-धीरे॥ क़लम क़लम ज़रूर क्‍या क्‌या ५ १२३",
    # Mandarin: width, traditional, numerals
    "Ｈｅｌｌｏ，你好！「漢語」，臺灣 頭髮 發財 乾隆 乾燥 皇后 後來 iPhone",
    "三十五 35 二零二四年 二〇二四 二千零二十四 两个 三两 十 百货 千万 万一 三百五 一百零五 三百零五万",
    "一亿零三百万 1.5亿 一点五亿 3万 一万亿 35% 百分之三十五 三点五十分 3.14 1,234 壹贰叁 两点半 十两 一万两千",
    # Anything
    "e\u0301 \u00ad so\u00adft a\u200bb \ufeff x\u0302'y ``quoted'' a''b \U0001f600 ½ ² ① ﬁ Ⅳ İ ẞ ΑΣ ǅ",
    "\t\n\r \u00a0\u2003\u3000 \x00 \x7f",
    _characters(0x21, 0x24F),
    _characters(0x900, 0x97F),
    _characters(0x2000, 0x20CF),
    _characters(0x3000, 0x303F),
    _characters(0xFF01, 0xFF5E),
)
