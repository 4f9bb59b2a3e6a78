"""What people write for a language: its code, unknown, or a language that the model does not know."""

from __future__ import annotations

import pytest

from pipeline.config import ConfigError, SourceConfig
from pipeline.config_file import validate
from pipeline.schemas import BadRecording
from pipeline.sources.access.languages import fixed_language, known_language, language_of_path


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("en", ["en", " EN ", "en-US", "eng", "English", "<|en|>", "English (US)", "en_US.UTF-8", "eng_Latn", "en-IN"]),
        ("de", ["deu", "German", "de_DE", "Deutsch", "de-DE-x-private"]),
        ("fr", ["fra", "Français", "fr-CA"]),
        ("es", ["es_419", "Español", "Spanish"]),
        ("hi", ["Hindi ", "hin_Deva", "हिन्दी"]),
        (
            "zh",
            [
                "zh_CN",
                "cmn_hans_cn",
                "zh-TW",
                "zho_Hant",
                "Mandarin",
                "Chinese (Mandarin)",
                "zh-cmn",
                "普通话",
                "zh-CHS",
            ],
        ),
    ],
)
def test_the_usual_names_of_a_language_give_its_code(code: str, names: list[str]) -> None:
    assert {name: known_language(name) for name in names} == dict.fromkeys(names, code)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "  ",
        None,
        float("nan"),
        "und",
        "UND",
        "unknown",
        "auto",
        "N/A",
        "mul",
        "zxx",
        "mis",
        "nan",
        "none",
        "null",
        "?",
    ],
)
def test_a_code_that_means_unknown_is_null(value: object) -> None:
    assert known_language(value) is None


@pytest.mark.parametrize(
    "value",
    [
        "yue",
        "zh-HK",
        "zh_Hant_HK",
        "zh-yue",
        "zh-min-nan",
        "zh-MO",
        "yue_Hant",
        "Cantonese",
        "Chinese (Cantonese)",
        "wuu",
        "nan-tw",
        "Chinese (Hong Kong)",
        "粤语",
        "zh-wuu",
    ],
)
def test_other_chinese_languages_are_not_taken_for_mandarin(value: str) -> None:
    with pytest.raises(BadRecording, match="unsupported_language"):
        known_language(value)


@pytest.mark.parametrize("value", ["nl", "pt", "english-ish people", "english-german", "enx", 3, ["en"], True])
def test_any_other_language_is_a_problem_that_names_the_value(value: object) -> None:
    with pytest.raises(BadRecording) as caught:
        known_language(value)
    assert caught.value.reason == "unsupported_language"
    assert repr(value) in caught.value.detail


@pytest.mark.parametrize(
    ("regex", "path", "code"),
    [
        ("/(en|de|zh-HK)/", "/data/en/calls/de/1.wav", "de"),  # the last one: folders above the source have names too
        ("/(en|de)/", "/data/calls/1.wav", None),
        ("_([a-z]{2})\\.", "s3://b/1_fr.wav", "fr"),
        ("german|hindi", "x/hindi/1.wav", "hi"),
        ("/([a-z]+)/[^/]*$", "x/unknown/1.wav", None),
    ],
)
def test_the_path_can_say_the_language(regex: str, path: str, code: str | None) -> None:
    find = language_of_path(SourceConfig(uri="x", language=f"path:{regex}"))
    assert find is not None
    assert find(path) == code


def test_a_language_of_a_path_that_is_not_known_is_said() -> None:
    find = language_of_path(SourceConfig(uri="x", language="path:/([^/]+)/[^/]*$"))
    assert find is not None
    with pytest.raises(BadRecording, match="unsupported_language: 'zh-HK'"):
        find("x/zh-HK/1.wav")


def test_only_a_code_is_the_language_of_all_recordings() -> None:
    values = {"de": "de", "column:lang": None, "path:/(de)/": None, None: None}
    assert {value: fixed_language(SourceConfig(uri="x", language=value)) for value in values} == values
    assert language_of_path(SourceConfig(uri="x", language="de")) is None


def test_a_mistake_in_the_expression_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^language: not a regular expression: [^\n]+$"):
        validate(SourceConfig, {"uri": "x", "language": "path:("})
