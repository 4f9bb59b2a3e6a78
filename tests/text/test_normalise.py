"""What pipeline.text.normalise promises."""

from __future__ import annotations

import unicodedata
from importlib.metadata import version

import pytest
import whisper_normalization
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.config import LANGUAGES, ConfigError
from pipeline.text import normalise_multilingual
from pipeline.text.normalise import NAMES, normaliser

ENGLISH = [
    ("Hello, World!", "hello world"),
    ("[noise] so (laughs) it <unk> goes", "so it goes"),
    ("Um, uh, hmm: mm, yes", "yes"),
    ("It's late; we can't go, won't you?", "it is late we can not go will not you"),
    ("It’s late; we can’t go", "it is late we can not go"),  # typographic apostrophes
    ("I'm gonna say they've done it", "i am going to say they have done it"),
    ("Dr. Smith met Mrs. Jones", "doctor smith met missus jones"),
    ("twenty-one years, three hundred and five days", "21 years 305 days"),
    ("1,234,567 people", "1234567 people"),
    ("one million two hundred thousand", "1200000"),
    ("nineteen eighty four, the 1960s, the twenty first", "1984 the 1960s the 21st"),
    ("three point one four", "3.14"),
    ("three point one", "3.1"),  # published: 3 one
    ("one dollar", "$1"),  # published: one
    ("two dollars and seven cents", "$2.07"),
    ("five percent of it, 5% of it", "5% of it 5% of it"),
    ("minus five, -5 and 5", "-5 -5 and 5"),
    ("oh oh seven", "7"),
    ("007", "7"),
    ("No one has one. 20 1", "no one has one 20 1"),
    ("The colour of the centre was analysed", "the color of the center was analyzed"),
    ("naïve café", "naive cafe"),
]
GERMAN = [
    ("Guten Morgen!", "guten morgen"),
    ("Größe", "größe"),
    ("STRAẞE, Straße", "straße straße"),
    ("STRASSE", "strasse"),  # ss and ß are two spellings
    ("Fu\u0308ßga\u0308nger", "füßgänger"),  # typed as letter and diaeresis
    ("Wie geht's? Wie geht’s?", "wie geht's wie geht's"),
    ("„Ja“, sagte Hans' Bruder – ‚nein‘.", "ja sagte hans bruder nein"),
    ("E-Mail an die Nord-Süd-Linie", "e mail an die nord süd linie"),
    ("Donaudampf\u00adschiff", "donaudampfschiff"),  # soft hyphen
    ("3,5 % von 1.000 €", "3 5 von 1 000"),
    ("ÄÖÜ äöü", "äöü äöü"),
    ("z.B. (siehe oben)", "z b siehe oben"),
]
FRENCH = [
    ("Bonjour !", "bonjour"),
    ("L'homme, l’été, l\u02bceau", "l'homme l'été l'eau"),
    ("Aujourd'hui", "aujourd'hui"),
    ("« Oui », dit-elle.", "oui dit elle"),
    ("ÇA, où, déjà, ÉTÉ", "ça où déjà été"),
    ("e\u0301te\u0301", "été"),
    ("un œuf, un cœur, L'ŒUVRE", "un œuf un cœur l'œuvre"),
    ("Noël, naïf, maïs", "noël naïf maïs"),
    ("l'arc-en-ciel", "l'arc en ciel"),
    ("c'est-à-dire", "c'est à dire"),
    ("'mot' ''mot''", "mot mot"),
    ("25 °C, 3+4", "25 c 3 4"),
]
SPANISH = [
    ("¿Dónde está la casa?", "dónde está la casa"),
    ("¡Hola!", "hola"),
    ("AÑO, año, an\u0303o", "año año año"),
    ("mañana", "mañana"),
    ("pingüino, PINGÜINO", "pingüino pingüino"),
    ("sí, si", "sí si"),
    ("él dijo: «no»", "él dijo no"),
    ("Buenos-Aires", "buenos aires"),
    ("uno…dos—tres", "uno dos tres"),
    ("a las 3:30", "a las 3 30"),
    ("¡¿Qué?!", "qué"),
    ("CORAZÓN  \n de\tmelón", "corazón de melón"),
]
HINDI = [
    ("नमस्ते!", "नमस्ते"),
    ("आप कैसे हैं?", "आप कैसे हैं"),
    ("मैं ठीक हूँ।", "मैं ठीक हूँ"),
    ("वह गया॥ फिर आया।", "वह गया फिर आया"),
    ("मुझे रोटी और नमक चाहिए", "मुझे रोटी और नमक चाहिए"),
    ("धीरे-धीरे", "धीरे धीरे"),
    ("“हिन्दी” (भाषा)", "हिन्दी भाषा"),
    ("क\u093cलम \u0958लम", "क\u093cलम क\u093cलम"),  # nukta: NFC spells the one-character qa with it
    ("क्\u200dया \ufeffक्\u200cया", "क्या क्या"),  # joiners change the shape of a letter, not the word
    ("५० लोग, 50 लोग", "५० लोग 50 लोग"),
    ("ॐ, अँगूठा, दुःख", "ॐ अँगूठा दुःख"),
    ("डॉ॰ राम", "डॉ राम"),  # abbreviation sign
]
MANDARIN = [
    ("你好，世界！", "你好世界"),
    ("今天 天气 很好。", "今天天气很好"),
    ("漢語、臺灣、頭髮、發財", "汉语台湾头发发财"),
    ("乾隆皇后後來乾燥", "乾隆皇后后来干燥"),  # by word: 乾隆 keeps his, 后 and 後 are both 后
    ("Ｈｅｌｌｏ iPhone１５", "helloiphone15"),
    ("《红楼梦》（上）", "红楼梦上"),
    ("三十五", "35"),
    ("35", "35"),
    ("二〇二四年", "2024年"),
    ("二千零二十四年，兩千零二十四年", "2024年2024年"),
    ("三百零五，三百五或三百五十", "305350或350"),
    ("一千零五十、十、一百一十", "105010110"),
    ("3万，三万，30,000", "300003000030000"),
    ("一亿零三百万", "103000000"),
    ("一百二十三亿四千五百六十七万八千九百零一", "12345678901"),
    ("两个，二个，2个", "2个2个2个"),
    ("一萬兩千", "12000"),
    ("三两", "3两"),
    ("三点五，3.5", "3点53点5"),
    ("一点五亿，1.5亿", "150000000150000000"),
    ("三点五十分，十五点半", "3点50分15点半"),
    ("百分之三十五，百分之五，35%", "百分之35百分之5百分之35"),
    ("千万别去百货，万一呢", "千万别去百货万1呢"),
    ("一起", "1起"),
]
TABLES = {"en": ENGLISH, "de": GERMAN, "fr": FRENCH, "es": SPANISH, "hi": HINDI, "zh": MANDARIN}


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [pytest.param(language, *row, id=f"{language}-{row[0]}") for language, rows in TABLES.items() for row in rows],
)
def test_each_language_is_written_one_way(language: str, text: str, expected: str) -> None:
    assert normaliser("auto", language)(text) == expected


# Text from all of Unicode, halves of surrogates too, and text dense in what the rules are about.
ANY = st.text(st.characters() | st.characters(categories=["Cs", "M", "P"]), max_size=40)
NUMBERS = sorted(whisper_normalization.EnglishTextNormalizer().standardize_numbers.words)
SPOKEN = st.lists(
    st.sampled_from(
        [*NUMBERS, *"0123456789", "1", "20", "0.05", "$1", "-1", "and a half", "mr", "it's", "'d been", "½"]
    )
    | st.sampled_from([*"$¢£€%.,'’-+()[]<>", "colour", "um", "a"]),
    max_size=10,
).flatmap(lambda words: st.sampled_from([" ".join(words), "".join(words)]))
COUNTED = st.text("〇零一二三四五六七八九十百千万亿两点0159.%，a半萬點後乾", max_size=16)
MARKED = st.text("abcé'’-।ाि्ँं़कनदहöß \u0301\u0308\u200d\u00ad", max_size=20)


@pytest.mark.parametrize("words", ["किताब", "स्कूल", "ज्ञान", "श्रीमान", "हूँ", "विद्यार्थी", "दुःख", "अँगूठा", "ट्रेन", "कृपया"])
def test_hindi_words_survive_byte_for_byte(words: str) -> None:
    for text in (f"{words}।", f"({words})", f'"{words}"', f"{words}, {words}?"):
        found = normaliser("multilingual", "hi")(text).split()
        assert {word.encode() for word in found} == {words.encode()}


def test_the_published_normaliser_breaks_hindi() -> None:
    assert normaliser("whisper-compatible", "hi")("हिन्दी") == "ह न द"


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("en", "It's three point one (laughs) or one dollar", "it is 3 one or one"),  # as published, flaws included
        ("en", "oh oh seven colours", "007 colors"),
        ("de", "Größe, wie geht's? (lacht)", "größe wie geht s"),
        ("zh", "你好， 世界！", "你好世界"),
    ],
)
def test_whisper_compatible_is_what_was_published(language: str, text: str, expected: str) -> None:
    assert normaliser("whisper-compatible", language)(text) == expected


def test_whisper_compatible_agrees_with_the_copy_in_transformers() -> None:
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

    rules = whisper_normalization.EnglishTextNormalizer()
    theirs = EnglishTextNormalizer(rules.standardize_spellings.mapping)
    ours = normaliser("whisper-compatible", "en")
    contractions = [pattern.replace(r"\b", "") for pattern in rules.replacers]
    everything = [*(f"{word} x{word} x" for word in contractions), " x ".join(sorted(rules.standardize_numbers.words))]
    for text in [*(row[0] for row in ENGLISH), *everything, " ".join(rules.standardize_spellings.mapping)]:
        assert ours(text) == " ".join(theirs(text).split())
    for text in [row[0] for rows in (GERMAN, FRENCH, SPANISH, HINDI) for row in rows]:
        assert normaliser("whisper-compatible", "de")(text) == " ".join(BasicTextNormalizer()(text).split())


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("en", "Room 21, 305!", "room twenty one three hundred five"),
        ("en", "0, 007, 2024", "zero zero zero seven two thousand twenty four"),
        (
            "en",
            "1234567890",
            "one two three four five six seven eight nine zero",
        ),  # longer than any number that is said
        ("de", "Kreis 1, 21.", "kreis eins einundzwanzig"),
        ("fr", "90 ou 71", "quatre vingt dix ou soixante et onze"),
        ("es", "26 y 21", "veintiséis y veintiuno"),
        ("hi", "५० लोग, 50 लोग", "पचास लोग पचास लोग"),
        ("zh", "35个, 305", "三十五个 三百零五"),
        ("xx", "35 a", "35 a"),  # no language that CLDR spells
    ],
)
def test_spoken_writes_whole_numbers_in_words(language: str, text: str, expected: str) -> None:
    assert normaliser("spoken", language)(text) == expected


@pytest.mark.parametrize("language", LANGUAGES)
@settings(max_examples=100)
@given(ANY | MARKED | st.text("0123456789. a一", max_size=20))
def test_a_spoken_text_is_spoken_and_has_no_digit(language: str, text: str) -> None:
    once = normaliser("spoken", language)(text)
    assert normaliser("spoken", language)(once) == once == " ".join(once.split())
    assert not any(character.isdecimal() for character in once)


@pytest.mark.parametrize(
    ("language", "name"), [("en", "english"), ("zh", "mandarin"), ("hi", "multilingual"), ("xx", "multilingual")]
)
def test_auto_picks_by_language(language: str, name: str) -> None:
    assert normaliser("auto", language) == normaliser(name, language)
    assert normaliser("auto", language).name == name


def test_an_unknown_name_is_one_line_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"^normaliser: 'klingon' is none of auto, english, .*whisper-compatible$"):
        normaliser("klingon", "en")


TEXTS = {
    "english": ANY | SPOKEN,
    "multilingual": ANY | MARKED,
    "mandarin": ANY | COUNTED,
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_normalised_text_is_normalised(name: str) -> None:
    compare = normaliser(name, "xx")

    @settings(max_examples=200)
    @given(TEXTS[name])
    def check(text: str) -> None:
        once = compare(text)
        assert compare(once) == once
        assert once == " ".join(once.split())
        once.encode()  # no half of a character is left

    check()


@pytest.mark.parametrize(("name", "language"), [("whisper-compatible", code) for code in ("en", "hi", "zh")])
def test_whisper_compatible_never_raises(name: str, language: str) -> None:
    compare = normaliser(name, language)

    @settings(max_examples=150)
    @given(ANY | SPOKEN)
    def check(text: str) -> None:
        assert compare(text) == compare(text)

    check()


@pytest.mark.parametrize("name", ["english", "multilingual", "mandarin", "spoken", "whisper-compatible"])
def test_numbers_beyond_what_python_converts_do_not_raise(name: str) -> None:
    compare = normaliser(name, "en")
    for text in ("9" * 5000, "9" * 4299 + " decillion", "nine " * 5000 + "million", "九" * 5000 + "亿"):
        assert compare(text)


@settings(max_examples=300)
@given(ANY | MARKED)
@example("हिन्दी")
@example("\u093e")
def test_multilingual_drops_no_mark_no_letter_and_no_digit(text: str) -> None:
    def kept(characters: str) -> str:
        lower = unicodedata.normalize("NFC", unicodedata.normalize("NFC", characters).lower())
        letters = (character for character in lower if unicodedata.category(character)[0] in "LMN")
        return unicodedata.normalize("NFC", "".join(c for c in letters if c not in normalise_multilingual.APOSTROPHES))

    found = normaliser("multilingual", "hi")(text)
    assert kept(found) == kept(text)
    assert all(unicodedata.category(character)[0] in "LMN" or character in " '" for character in found)


@settings(max_examples=200)
@given(COUNTED)
def test_mandarin_has_neither_spaces_nor_punctuation_and_punctuation_changes_nothing(text: str) -> None:
    compare = normaliser("mandarin", "zh")
    assert compare(text).isalnum() or not compare(text)
    plain = text.replace(".", "").replace("%", "")
    assert compare("。".join(plain)) == compare(plain) == compare(" ".join(plain))


@pytest.mark.parametrize("number", [*range(0, 130), 305, 350, 999, 1000, 1001, 1050, 2024, 9999])
def test_mandarin_reads_a_number_as_it_is_counted(number: int) -> None:
    assert normaliser("mandarin", "zh")(f"有{in_characters(number)}人") == f"有{number}人"


@settings(max_examples=200)
@given(st.integers(0, 10**12 - 1))
def test_mandarin_reads_every_number_below_a_million_millions(number: int) -> None:
    assert normaliser("mandarin", "zh")(in_characters(number)) == str(number)


def in_characters(number: int) -> str:
    """A number as it is counted, 零 for every gap."""
    if number < 10:
        return "零一二三四五六七八九"[number]
    for size, unit in ((10**8, "亿"), (10**4, "万"), (1000, "千"), (100, "百"), (10, "十")):
        if number >= size:
            high, low = divmod(number, size)
            gap = "零" if 0 < low < size // 10 else ""
            head = "" if (unit, high) == ("十", 1) and number < 20 else in_characters(high)
            return head + unit + gap + (in_characters(low) if low else "")
    raise AssertionError(number)


def test_a_normaliser_is_named_with_its_version_and_its_library() -> None:
    names = [normaliser(name, "xx").identity for name in NAMES[1:]]
    whisper = f"whisper-normalization {version('whisper-normalization')}"
    assert names == [
        f"english/1 {whisper}",
        "multilingual/1",
        f"mandarin/1 opencc {version('opencc')}",
        f"spoken/1 unicode-rbnf {version('unicode-rbnf')}",
        f"whisper-compatible/1 {whisper}",
    ]


@pytest.mark.parametrize("name", ["english", "mandarin", "spoken", "whisper-compatible"])
def test_another_version_of_the_library_makes_another_normaliser(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = normaliser(name, "xx").identity
    monkeypatch.setattr("pipeline.text.normalise.version", lambda library: "99.0")
    assert normaliser(name, "xx").identity != before
