"""Recorded speech and its section in the model card: true texts, checked licences, known words counted apart."""

from __future__ import annotations

import gzip
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from infra.tiny import human_speech, human_speech_card
from infra.tiny.human_speech import in_vocabulary, normal_form
from infra.tiny.phrases import vocabulary
from pipeline.config import LANGUAGES, ConfigError, SourceConfig
from pipeline.config_file import load
from pipeline.evaluation.corrupt import CorruptConfig
from pipeline.evaluation.rows import Outcome, speaker_of
from pipeline.evaluation.score import scored
from pipeline.evaluation.settings import EvaluateConfig
from pipeline.schemas import EVALUATED
from pipeline.sources.parquet import list_recordings, read_recording

RATE = 8000
LIST = """; a comment
one: One
hello: Hello.
lost: There is no file for this.
tone: [a simple beep tone]
half: the first part of...
press: Press 2, then wait for 23 cars.
dash: Re-enter it.
other: Nothing of this.
"""
WORDS: dict[str, Any] = {
    "name": "anna-en",
    "about": "words, Anna",
    "language": "en",
    "package": "words",
    "licence": "CC0-1.0",
    "copyright": "doc/copyright",
    "says": ["Recorded by Anna\nLicense: CC0"],
    "speaker": "Anna",
    "audio": ["sounds", "wav"],
    "list": {
        "package": "words",
        "path": "doc/list.txt.gz",
        "form": "asterisk",
        "all": ["one", "hel*"],
        "none": ["other"],
        "sample": 9,
        "spelling": {"cars": "carts"},
    },
    "texts": {"plain": "The DOG, and 7"},
}
DEP5 = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
Copyright: 2001 Berta
License: GPL-2+

Files: sounds/*
Copyright: 2003 Anna
           2004 Carl
License: CC0-1.0
\x20
License: GPL-2+
 This is free.
"""
SYLLABLES: dict[str, Any] = WORDS | {
    "name": "li-zh",
    "speaker": None,
    "about": "syllables, Li",
    "language": "zh",
    "list": None,
    "audio": ["syllables", "wav"],
    "member": "5",
    "syllables": {"一": "yi", "月": "yue", "龘": "da"},
    "missing": ["龘"],
    "texts": ["一月", "一", "龘月"],
}


def sound(seconds: float, seed: int) -> np.ndarray:
    """Quiet noise, float32 [samples]."""
    return (0.1 * np.random.default_rng(seed).standard_normal(int(seconds * RATE))).astype(np.float32)


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """An unpacked package of recordings."""
    root = tmp_path / "words"
    for folder in ("doc", "sounds", "syllables/yi", "syllables/yue"):
        (root / folder).mkdir(parents=True)
    (root / "doc/copyright").write_text("Recorded by Anna\nLicense: CC0\n")
    (root / "doc/list.txt.gz").write_bytes(gzip.compress(LIST.encode()))
    for seed, name in enumerate(["one", "hello", "tone", "half", "press", "dash", "other", "plain"]):
        soundfile.write(root / "sounds" / f"{name}.wav", sound(0.3, seed), RATE)
    for seed, name in enumerate(["yi", "yue"]):
        soundfile.write(root / "syllables" / name / "5.wav", sound(0.2 + 0.1 * seed, seed), RATE)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("Hello World!", "en", "hello world"),
        ("Press 1, or 22; not 101.", "en", "press one or twenty two not 101"),
        ("dix-sept", "fr", "dix sept"),
        ("Aujourd’hui, l'heure", "fr", "aujourd'hui l'heure"),
        ("¡Marque 5!", "es", "marque cinco"),
        ("Grün; STRASSE 31", "de", "grün strasse einunddreißig"),
        ("星期一。", "zh", "星期一"),
    ],
)
def test_a_text_is_written_as_the_vocabulary_writes_it(text: str, language: str, expected: str) -> None:
    assert normal_form(text, language) == expected


@pytest.mark.parametrize("language", LANGUAGES)
def test_only_texts_of_known_words_are_in_the_vocabulary(language: str) -> None:
    table = vocabulary(language)
    for item in (item for items in table.lists.values() for item in items):
        assert normal_form(item, language) == item
        assert in_vocabulary(item, language)
    assert not in_vocabulary(table.joiner.join([table.lists["numbers"][1], "xylofon龘"]), language)


def test_a_list_says_what_is_spoken_and_stage_directions_are_no_prompts(packages: Path) -> None:
    assert human_speech.texts(WORDS, packages) == {
        "plain": "the dog and seven",
        "one": "one",
        "hello": "hello",
        "press": "press two then wait for twenty three carts",
        "dash": "re enter it",
    }
    assert human_speech.listed("<s> ten of  clubs </s> (001)\n\n<s>two</s> (b-2)\n", "sphinx") == {
        "001": "ten of  clubs",
        "b-2": "two",
    }


def test_the_sample_of_a_list_is_the_same_every_time(packages: Path) -> None:
    few = WORDS | {"list": WORDS["list"] | {"sample": 1, "all": []}}
    assert list(human_speech.texts(few, packages)) == ["plain", "press"]


def test_speech_is_read_by_the_jobs_as_it_stands(packages: Path) -> None:
    made = list(human_speech.rows([WORDS, SYLLABLES], packages))
    pq.write_table(pa.Table.from_pylist(made, human_speech.SCHEMA), packages / "speech.parquet")
    tree = load(EvaluateConfig, human_speech_card.CONFIG, []).model_dump()["sets"]["human"]["source"]
    source = SourceConfig(**tree | {"uri": str(packages / "speech.parquet")})
    refs = list(list_recordings(source))
    assert [(ref.recording_id, ref.language, ref.reference) for ref in refs] == [
        ("anna-en/plain", "en", "the dog and seven"),
        ("anna-en/dash", "en", "re enter it"),
        ("anna-en/hello", "en", "hello"),
        ("anna-en/one", "en", "one"),
        ("anna-en/press", "en", "press two then wait for twenty three carts"),
        ("li-zh/一月", "zh", "一月"),
        ("li-zh/一", "zh", "一"),
    ]
    assert [row["in_vocabulary"] for row in made] == ["yes", "no", "yes", "yes", "no", "yes", "yes"]
    assert [speaker_of(ref.metadata) for ref in refs] == ["Anna"] * 5 + [None] * 2
    data = read_recording(refs[3]).audio
    assert isinstance(data, bytes)
    samples, rate = soundfile.read(io.BytesIO(data), dtype="float32")
    assert rate == RATE
    assert np.allclose(samples, sound(0.3, 0), atol=1e-4)


def test_joined_syllables_have_silence_between_and_around_them(packages: Path) -> None:
    row = next(human_speech.rows([SYLLABLES], packages))
    samples, rate = soundfile.read(io.BytesIO(row["audio"]))
    edge, gap = int(human_speech.EDGE_SECONDS * rate), int(human_speech.GAP_SECONDS * rate)
    loud = np.flatnonzero(samples)
    assert len(samples) == 2 * edge + gap + int(0.2 * rate) + int(0.3 * rate)
    assert abs(loud[0] - edge) < 5
    assert abs(loud[-1] - (len(samples) - edge - 1)) < 5


@pytest.mark.parametrize("subtype", ["ULAW", "GSM610", "PCM_16"])
def test_files_without_a_header_are_read(tmp_path: Path, subtype: str) -> None:
    path = tmp_path / "a.raw"
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    soundfile.write(path, tone, RATE, format="RAW", subtype=subtype)
    samples, rate = human_speech.read_audio(path, f"{subtype} {RATE}")
    assert rate == RATE
    assert abs(len(samples) - RATE) < 320
    assert np.corrcoef(samples[:7000], tone[:7000])[0, 1] > 0.9


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"says": ["Recorded by Anna", "GPL"]}, "anna-en: .*doc/copyright does not say 'GPL'"),
        ({"copyright": "doc/none", "says": ["Anna"]}, "anna-en: .*doc/none does not say 'Anna'"),
        ({"also": {"doc/copyright": ["by Anna", "by Berta"]}}, "anna-en: .*doc/copyright does not say 'by Berta'"),
        ({"also": {"doc/none": ["Anna"]}}, "anna-en: .*doc/none does not say 'Anna'"),
        ({"texts": {"absent": "dog"}}, "anna-en: absent: no file .*absent.wav"),
    ],
)
def test_what_a_package_lacks_is_one_line(packages: Path, changed: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        list(human_speech.rows([WORDS | changed], packages))


@pytest.mark.parametrize(
    ("says", "lacking"),
    [
        (["Files: sounds/*", "License: CC0-1.0"], None),
        (["Files: sounds/*\nCopyright: 2003 Anna\n           2004 Carl\nLicense: CC0-1.0"], None),
        (["Files: *\nCopyright: 2001 Berta", "License: GPL-2+"], None),
        (["Files: sounds/*", "License: GPL-2+"], "License: GPL-2+"),
        (["Files: *", "License: CC0-1.0"], "License: CC0-1.0"),
        (["Files: *", "License: GPL-2"], "License: GPL-2"),
        (["License: GPL-2+", " This is free."], " This is free."),
        (["Files: *\nCopyright: 2003 Anna"], "Files: *\nCopyright: 2003 Anna"),
    ],
)
def test_the_licence_of_other_files_is_not_that_of_the_recordings(
    packages: Path, says: list[str], lacking: str | None
) -> None:
    (packages / "words/doc/copyright").write_text(DEP5)
    if lacking is None:
        human_speech.check_licence(WORDS | {"says": says}, packages)
    else:
        with pytest.raises(ConfigError) as error:
            human_speech.check_licence(WORDS | {"says": says}, packages)
        assert str(error.value).endswith(f"doc/copyright does not say {lacking!r}")


def test_a_package_that_is_there_is_kept(packages: Path) -> None:
    (packages / "words.version").write_text("1.0-1")
    human_speech.fetch({"words": "1.0-1"}, packages)
    assert (packages / "words/doc/copyright").exists()


DOWNLOADS = "echo new > words_1.0-1_all.deb"
UNPACKS = '[ "$1" = -x ] && /bin/mkdir "$3" && /bin/cp "$2" "$3/file"'


def tools(folder: Path, monkeypatch: pytest.MonkeyPatch, scripts: dict[str, str]) -> None:
    """Put these commands, and no others, on the path."""
    folder.mkdir()
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_another_version_takes_the_place_of_what_is_there(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools(packages / "bin", monkeypatch, {"apt-get": DOWNLOADS, "dpkg-deb": UNPACKS})
    (packages / "words.version").write_text("0.9-1")
    (packages / "words_0.9-1_all.deb").write_text("left over")
    (packages / "words_1.0-1_all.deb").write_text("left over")
    human_speech.fetch({"words": "1.0-1"}, packages)
    assert [path.name for path in (packages / "words").iterdir()] == ["file"]
    assert (packages / "words/file").read_text() == "new\n"
    assert (packages / "words.version").read_text() == "1.0-1"
    assert not list(packages.glob("*.deb"))


@pytest.mark.parametrize(
    ("scripts", "expected"),
    [
        ({}, "apt-get: No such file or directory"),
        ({"apt-get": "echo W: old >&2; echo E: Version not found >&2; exit 100"}, "apt-get: E: Version not found"),
        ({"apt-get": "exit 100"}, "apt-get: exit status 100"),
        ({"apt-get": "exit 0"}, "apt-get download fetched 0 files words_*.deb, not 1"),
        ({"apt-get": DOWNLOADS}, "dpkg-deb: No such file or directory"),
        ({"apt-get": DOWNLOADS, "dpkg-deb": "echo no archive >&2; exit 2"}, "dpkg-deb: no archive"),
    ],
)
def test_what_cannot_be_fetched_is_one_line_and_not_taken_for_fetched(
    packages: Path, monkeypatch: pytest.MonkeyPatch, scripts: dict[str, str], expected: str
) -> None:
    tools(packages / "bin", monkeypatch, scripts)
    (packages / "words.version").write_text("0.9-1")
    with pytest.raises(ConfigError) as error:
        human_speech.fetch({"words": "1.0-1"}, packages)
    assert str(error.value) == f"words=1.0-1: {expected}"
    assert not (packages / "words.version").exists()


def test_every_corpus_names_a_pinned_package_its_licence_and_the_words_for_it() -> None:
    versions, corpora = human_speech.table()
    names = [corpus["name"] for corpus in corpora]
    assert len(set(names)) == len(names)
    for corpus in corpora:
        assert corpus["language"] in LANGUAGES
        assert corpus["licence"]
        assert "".join(corpus["says"]).strip()
        sources = {corpus["package"], *([corpus["list"]["package"]] if corpus.get("list") else [])}
        assert sources <= set(versions)
        own = corpus.get("texts", {})
        for text in own if isinstance(own, list) else own.values():
            assert normal_form(text, corpus["language"]) == text
        if corpus.get("syllables"):
            assert {character for text in own for character in text} == set(corpus["syllables"])


def evaluated(corpus: str, language: str, reference: str, hypothesis: str, known: str) -> dict[str, Any]:
    """A row of an evaluation."""
    outcome = Outcome(f"{corpus}/{reference}", language, "transcribed", reference=reference, hypothesis=hypothesis)
    row = scored(outcome, dict.fromkeys(EVALUATED.names), "multilingual", CorruptConfig())
    return row | {"corpus": corpus, "in_vocabulary": known}


ROWS = [
    evaluated("anna-en", "en", "one two", "one too", "yes"),
    evaluated("anna-en", "en", "re enter it", "", "no"),
    evaluated("li-zh", "zh", "一月", "一月月", "yes"),
]


def test_known_words_and_any_text_are_counted_apart() -> None:
    lines = human_speech_card.lines_of(ROWS, [WORDS, SYLLABLES])
    assert "| English | words, Anna | WER | 50.0 % – (1 / 2; 1) | 80.0 % [0.00, 290.70] (4 / 5; 2) |" in lines
    assert "| Mandarin | syllables, Li | CER | 50.0 % – (1 / 2; 1) | 50.0 % – (1 / 2; 1) |" in lines
    for language in ("German", "French", "Spanish", "Hindi"):
        assert f"| {language} | nothing recorded in these packages, not measured | WER | none | none |" in lines
    assert human_speech_card.cell([]) == "none"


def test_the_section_names_packages_licences_and_the_command() -> None:
    text = human_speech_card.section("tiny", ROWS, {"words": "1.0-1", "list": "2"}, [WORDS, SYLLABLES])
    assert text.startswith("## Real human speech\n\n3 recordings")
    assert "In 1 recordings" in " ".join(text.split())
    assert "words 1.0-1 (CC0-1.0)" in text
    assert "list 2." in " ".join(text.split())
    assert text.endswith("\n\n    python -m infra.tiny.human_speech_card tiny\n")
    assert all(len(line) <= 120 for line in text.splitlines() if not line.startswith("|"))


def test_the_card_says_how_often_the_model_is_sure_of_words_that_it_cannot_know() -> None:
    rows = [ROWS[0] | {"confidence": 1.0}] + [ROWS[1] | {"confidence": value} for value in (0.95, 0.2, None)]
    text = " ".join(human_speech_card.section("tiny", rows, {"words": "1.0-1"}, [WORDS]).split())
    assert "of the 3 recordings with other words, 1 have a confidence above 0.9." in text
    other = human_speech_card.section("whisper-base", rows, {"words": "1.0-1"}, [WORDS])
    assert "above 0.9" not in other  # its vocabulary is open


NEW = "## Real human speech\n\nnew | figures\n"


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("# tiny\n\n## Training\n\n    make\n", f"# tiny\n\n## Training\n\n    make\n\n{NEW}"),
        ("# tiny\n\n## Real human speech\n\nold\n\n### more\n", f"# tiny\n\n{NEW}"),
        ("# tiny\n\n## Real human speech\nold\n## Training\n\nlong\n", f"# tiny\n\n## Training\n\nlong\n\n{NEW}"),
        (
            "# tiny\n\nReal human speech\n\n### Real human speech\n",
            f"# tiny\n\nReal human speech\n\n### Real human speech\n\n{NEW}",
        ),
    ],
)
def test_the_section_stands_at_the_end_and_the_rest_stays(card: str, expected: str) -> None:
    assert human_speech_card.rewritten(card, NEW) == expected
    assert human_speech_card.rewritten(expected, NEW) == expected


def test_the_card_is_measured_and_all_before_the_section_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    def measured(model: str, folder: Path) -> list[dict[str, Any]]:
        given.append((model, folder))
        return [evaluated("dawson-en", "en", "the time is", "the times", "yes")]

    monkeypatch.setattr(human_speech_card, "measured", measured)
    card = tmp_path / "tiny/MODEL_CARD.md"
    card.parent.mkdir()
    before = b"# tiny\r\n\n## Training\n\n    make\n\n"
    card.write_bytes(before + b"## Real human speech\n\nold\n")
    human_speech_card.main("tiny", tmp_path / "speech", tmp_path)
    assert given == [("tiny", tmp_path / "speech")]
    assert card.read_bytes().startswith(before + b"## Real human speech\n\n1 recordings of people")
    new = card.read_text("utf-8")
    assert "old" not in new
    rate = "66.7 % – (2 / 3; 1)"
    assert f"| English | a speaking clock, David C Dawson | WER | {rate} | {rate} |" in new
    assert f"| English | **all** | WER | {rate} | {rate} |" in new
    with pytest.raises(ConfigError, match="other: no embedded model has this name"):
        human_speech_card.main("other", tmp_path / "speech", tmp_path)


@given(st.text(alphabet="#ab \n|é"))
def test_no_byte_of_another_section_is_lost(card: str) -> None:
    once = human_speech_card.rewritten(card, NEW)
    assert once.startswith(card)
    assert re.fullmatch(r"\n*", once[len(card) : -len(NEW)])
    assert human_speech_card.rewritten(once, NEW.replace("new", "newer")) == once.replace("new |", "newer |")
