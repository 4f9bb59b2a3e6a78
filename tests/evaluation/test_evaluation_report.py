"""report.html of an evaluation: complete, in order, and nothing from outside is trusted."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from pipeline.evaluation.report import SPEAKERS, WORST, render
from pipeline.evaluation.result import Evaluation, Verdict
from tests.support.evaluated import comparison, evaluated_table, made_up_evaluation, made_up_rows, rates_of, row

ROWS = made_up_rows()
NIGHT = made_up_evaluation(ROWS)
PAGE = render(NIGHT, evaluated_table(ROWS))
NASTY = '"><script>alert("1")</script><img src=x onerror=alert(2)>'
VOID = {"meta", "link"}


class Page(HTMLParser):
    """Collects tags, attributes and ids, and complains of tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loaded: list[tuple[str, str]] = []
        self.handlers: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset", "xlink:href", "action", "poster", "data"):
                self.loaded.append((tag, value or ""))
            if name.startswith("on"):
                self.handlers.append(name)
            if name == "id":
                self.ids.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def hostile() -> str:
    """A page where every text that comes from outside is an attack."""
    unsafe = row(
        *("en", NASTY, NASTY + " more"),
        **dict.fromkeys(("set", "recording_id", "speaker", "audio", "reason", "model"), NASTY),
    )
    failed = unsafe | {"status": "dead_letter"}
    languages = [unsafe | {"language": NASTY}]
    rates = [replace(rates_of(group, NASTY, [unsafe]), key=NASTY) for group in ("all", "set", "language", "speaker")]
    evaluation = made_up_evaluation(
        ROWS,
        evaluation=NASTY,
        about={NASTY: NASTY},
        rates=rates,
        comparisons=[replace(comparison("de"), language=NASTY)],
        baseline=NASTY,
        verdict=Verdict([NASTY] * 5, [NASTY]),
        history=[replace(one, language=NASTY, model=NASTY) for one in NIGHT.history],
        sweep=[replace(one, settings={NASTY: NASTY}, rates={NASTY: rates[0]}) for one in NIGHT.sweep],
    )
    return render(evaluation, evaluated_table([unsafe, failed, *languages]))


def test_text_from_outside_is_escaped_everywhere() -> None:
    text = hostile()
    page = Page(text)
    assert not {"script", "img"} & set(page.tags)
    assert page.handlers == []
    assert text.count("&lt;script&gt;") > 30


@pytest.mark.parametrize("text", [PAGE, hostile()], ids=["a night", "hostile"])
def test_the_page_is_whole_and_loads_nothing_but_what_is_played(text: str) -> None:
    page = Page(text)
    assert not {"script", "iframe", "img", "object", "embed", "form"} & set(page.tags)
    inside = [value for tag, value in page.loaded if tag != "audio"]
    assert all(value.startswith("#") or value == "data:," for value in inside), inside
    assert {value[1:] for value in inside if value.startswith("#")} <= set(page.ids)
    assert "default-src 'none'" in text
    assert len(page.ids) == len(set(page.ids))


def test_the_verdict_stands_first_and_the_parts_in_order() -> None:
    marks = ['class="verdict failed"', "de: WER 16.00", 'class="verdict warned"', 'id="about"', 'id="rates"']
    marks += ['id="comparison"', 'class="over-time"', 'class="by-language"', 'class="by-duration"', 'id="breakdown"']
    marks += ['id="sweep"', 'class="sweep"', 'id="failed"', 'id="worst"', 'id="confidence"', 'class="calibration"']
    places = [PAGE.index(mark) for mark in marks]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("verdict", "lines", "folded"),
    [(Verdict(tuple("abc")), ["a", "b", "c"], False), (Verdict(tuple("abcde")), ["a", "b", "and 3 more"], True)],
)
def test_at_most_three_reasons_first_the_rest_folded(verdict: Verdict, lines: list[str], folded: bool) -> None:
    text = render(replace(NIGHT, verdict=verdict), evaluated_table(ROWS))
    first = text[text.index('class="verdict failed"') : text.index("<nav")]
    listed = re.findall("<li>(.*?)</li>", first)
    assert listed[: len(lines)] == lines
    assert listed[len(lines) :] == (list(verdict.failures) if folded else [])
    assert ("<details>" in first) == folded


def test_a_passed_night_says_so() -> None:
    text = render(replace(NIGHT, verdict=Verdict()), evaluated_table(ROWS))
    assert "<strong>Passed</strong>" in text
    assert "<title>passed: nightly-2026-11-25</title>" in text
    assert "verdict failed" not in text.partition("<body>")[2]


def cells(text: str, section: str, row_start: str) -> list[str]:
    """The plain texts of the first row of that part which begins with these cells."""
    part = text[text.index(f'<section id="{section}"') :]
    for found in re.findall("<tr>(.*?)</tr>", part, re.DOTALL):
        row_cells = [re.sub("<.*?>", "", cell) for cell in re.findall("<t[hd].*?>(.*?)</t[hd]>", found)]
        if row_cells[: len(row_start.split("|"))] == row_start.split("|"):
            return row_cells
    raise AssertionError(f"no row {row_start} in {section}")


def test_a_row_of_rates_has_all_figures() -> None:
    rates = next(one for one in NIGHT.rates if one.group == "all")
    words = rates.words
    assert rates.low is not None
    assert rates.high is not None
    assert cells(PAGE, "rates", "all|all") == [
        *("all", "all", "WER", f"{100 * (words.rate or 0):.2f} %"),
        *(f"[{100 * rates.low:.2f}, {100 * rates.high:.2f}]", "95.0 %"),
        *(str(one) for one in (words.substitutions, words.deletions, words.insertions, words.hits)),
        *(f"{100 * (one.rate or 0):.2f} %" for one in (rates.words, rates.chars, rates.merged)),
        *("240", "0", "8", "4", "2 (5)", f"{rates.seconds / 3600:.2f}"),
    ]
    assert cells(PAGE, "rates", "set|fleurs zh|CER")[6] == str(
        next(one for one in NIGHT.rates if one.key == "zh").chars.substitutions
    )


def test_a_row_of_the_comparison_has_all_figures() -> None:
    assert cells(PAGE, "comparison", "de") == [
        *("de", "regressed", "WER", "+2.00", "[+1.20, +2.80]", "0.016", "0.004", "0.011", "1.15"),
        *("16.00 %", "14.00 %", "58", "0", "7"),
    ]


def test_recordings_without_a_transcript_are_counted_by_reason() -> None:
    assert cells(PAGE, "failed", "fleurs|de|dead_letter") == ["fleurs", "de", "dead_letter", "truncated_audio", "2"]


def test_about_has_everything_in_utc() -> None:
    facts = re.findall("<dt>(.*?)</dt><dd.*?>(.*?)</dd>", PAGE)
    assert facts[:2] == [("model", "tiny@0f3a"), ("revision", "main")]
    assert facts[-2:] == [("evaluated", "2026-11-25 03:00 UTC"), ("baseline", "nightly-2026-11-24")]
    assert len(facts) == len(NIGHT.about) + 2


def test_a_large_evaluation_makes_a_page_of_bounded_size() -> None:
    speakers = [rates_of("speaker", f"en {number}", ROWS[:3]) for number in range(1000)]
    text = render(replace(NIGHT, rates=[*NIGHT.rates, *speakers]), evaluated_table(ROWS * 20))
    assert text.count("<audio") == WORST
    assert f"the {SPEAKERS} with most errors of {1000 + 28}" in text
    assert len(text) < 500_000


def test_a_first_evaluation_has_no_empty_parts() -> None:
    one = row("en", "a b", "a c")
    first = Evaluation("first", NIGHT.evaluated_at, {}, [rates_of("all", "all", [one])])
    text = render(first, evaluated_table([one]))
    shown = re.findall('<section id="(.*?)"', text)
    assert shown == ["about", "rates", "worst", "confused", "confidence"]
    assert render(replace(first, rates=[]), evaluated_table([])).count("<section") == 1


def test_the_same_evaluation_makes_the_same_page() -> None:
    assert render(NIGHT, evaluated_table(ROWS)) == PAGE
