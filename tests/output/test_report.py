"""report.html: the figures are there, nothing from outside is trusted, nothing is loaded."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml

from pipeline.config import RunConfig
from pipeline.config_file import load
from pipeline.output.accounting import Tally, close_books
from pipeline.output.parts import PUBLISHED, SUMMARY, read_ledger
from pipeline.output.publish import publish_tables
from pipeline.output.report import SAMPLE, write_report
from pipeline.output.run_facts import CONFIG, FORECAST
from pipeline.storage.base import OutputError, Storage, open_storage, read_json
from tests.support.outputs import plan, ref, run

NASTY = '<script>alert("1")</script>'
NOTES = {"pipeline_rtfx": 25.0, "pipeline_seconds": 720.0, "pipeline_audio_seconds": 18_000.0, "pipeline_units": 3}
WORK = {"units": 4, "recordings": 12, "coverage": 0.9, "notes": []}
FIGURES = {
    "audio_hours": {"value": 5.5, "low": 5.0, "high": 6.0},
    "wall_hours": {"value": 0.25, "low": 0.125, "high": 0.5},
    "gpu_hours": None,
    "usd": None,
}


class Tags(HTMLParser):
    """Collects the tags and attributes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [attribute for attribute in attrs if attribute[0] in ("src", "href")]


def page(folder: Path, text: str = NASTY, *settings: str) -> str:
    """The report of an output in `folder`: recordings beside it, and `text` wherever somebody may write one.

    r1 is a dead letter and r4 is damaged. The first recording is a file; the others are members of an archive.
    """
    soundfile.write(folder / "a b.wav", np.zeros(24_000, np.int16), 16_000)
    storage = open_storage(str(folder / "out"))
    refs = [ref(0, source_uri=str(folder / "a b.wav"), source_member=None, language="en")]
    refs += [ref(number, language=[text, "de", None][number % 3], source_member=text) for number in range(1, 12)]
    run(storage, plan(storage, refs), dead=["r1"], damaged={"r4": 2}, text=text)
    config = load(RunConfig, None, [f"source.uri={text}", f"output.uri={storage.uri}", f"model.name={text}", *settings])
    storage.put(CONFIG, yaml.safe_dump(config.model_dump(mode="json")).encode())
    storage.put(FORECAST, json.dumps(WORK | FIGURES).encode())
    return written(storage, NOTES)


def written(storage: Storage, notes: dict[str, Any]) -> str:
    """The report after publication."""
    write_report(storage, publish_tables(storage, notes=notes), close_books(storage))
    return storage.get("report.html").decode()


def test_text_from_outside_is_escaped(tmp_path: Path) -> None:
    text = page(tmp_path)
    assert "<script" not in text
    for place in ("<dd", '<th scope="row" class="name"', '<p class="text"', '<div class="place"', '<td class="prose"'):
        assert any("&lt;script&gt;" in line for line in text.split(place)[1:]), place


def test_the_page_loads_nothing_but_audio_that_somebody_plays(tmp_path: Path) -> None:
    tags = Tags()
    tags.feed(text := page(tmp_path))
    assert not tags.tags & {"script", "img", "iframe"}
    inner = [link for link in tags.links if not str(link[1]).startswith("#")]
    assert inner == [("href", "data:,"), ("src", f"{tmp_path}/a%20b.wav#t=0,1.9")]  # no icon; members have no player
    assert text.count('preload="none"') == 1
    assert "default-src 'none'" in text


def test_the_figures_are_there(tmp_path: Path) -> None:
    text = page(tmp_path, "fine")
    for figure in (
        *('<dd dir="auto">fine (', "4 of 4", "11, 1 of them damaged", "48.000"),  # model, units, seconds in
        *("3 units, 5.000 h of audio in 12:00, RTFx 25.0", "no GPU"),
        *("model_error", "truncated_audio", "no answer"),
        *('<td class="figure">5.50</td><td class="figure">5.00 to 6.00</td><td class="figure">5.00</td>',),
        *("The forecast is of 4 units, and the last run did 3.", "11 of 11 recordings"),
        "The accounting is closed",
    ):
        assert figure in text, figure
    assert text.count('class="lengths"') == text.count('class="steps"') == text.count('class="confidence"') == 1


@pytest.mark.parametrize(
    ("notes", "remark"),
    [({}, "it was stopped"), (NOTES, "the last run did 3."), (NOTES | {"pipeline_units": 4}, None)],
)
def test_a_forecast_of_other_work_is_said_to_be_one(tmp_path: Path, notes: dict[str, Any], remark: str | None) -> None:
    page(tmp_path)
    storage = open_storage(str(tmp_path / "out"))
    text = written(storage, notes)
    (paragraph,) = (part.partition("</p>")[0] for part in text.split("nine times in ten. ")[1:])
    assert paragraph.strip() == "" if remark is None else remark in paragraph


def test_cost_is_the_price_of_all_gpus_for_all_the_time(tmp_path: Path) -> None:
    settings = ["compute.gpus_per_replica=0.5", "compute.replicas_max=4"]
    assert "at most 0.40 GPU hours (all replicas, all the time): no price" in page(tmp_path, "x", *settings)
    (tmp_path / "b").mkdir()
    assert "0.80 US dollars" in page(tmp_path / "b", "x", *settings, "plan.usd_per_gpu_hour=2")
    (tmp_path / "second").mkdir()  # a second model has as many replicas of its own
    assert "at most 0.80 GPU hours" in page(tmp_path / "second", "x", *settings, "model.second=tiny")


@pytest.mark.parametrize("content", [b"", b"[1]", b": : :", b"\xff"])
def test_settings_that_cannot_be_read_are_named_in_one_line(tmp_path: Path, content: bytes) -> None:
    page(tmp_path)
    storage = open_storage(str(tmp_path / "out"))
    storage.put(CONFIG, content)
    with pytest.raises(OutputError, match=rf"^{storage.uri}/_run/config\.yaml: not the settings of a run$"):
        written(storage, NOTES)


def test_settings_that_differ_from_the_default_are_named_with_it(tmp_path: Path) -> None:
    text = page(tmp_path, "x", "denoise.max_steps=9", "compute.units_in_flight=4")
    assert '>denoise.max_steps</th><td class="prose" dir="auto">9</td><td class="prose" dir="auto">16</td>' in text
    assert ">compute.units_in_flight</th>" not in text
    assert "<dt>compute.units_in_flight</dt>" in text


def test_an_output_of_which_nothing_else_is_known_has_a_report(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "out"))
    run(storage, plan(storage, [ref(number) for number in range(4)]), dead=["r2"])
    text = written(storage, {})
    assert "hallo hallo" in text
    assert "The accounting is closed" in text
    assert 'id="forecast"' not in text


def test_throughput_is_that_of_all_parts(tmp_path: Path) -> None:
    page(tmp_path)
    storage = open_storage(str(tmp_path / "out"))
    ledger = read_json(storage, PUBLISHED)
    assert len(ledger["parts"]) > 2
    for number, entry in enumerate(ledger["parts"].values()):
        entry["tally"]["minutes"] = {f"2026-01-31T23:{number * 10:02d}": 16_000 * 60}
    storage.put(PUBLISHED, json.dumps(ledger).encode())
    write_report(storage, read_json(storage, SUMMARY), close_books(storage))
    text = storage.get("report.html").decode()
    assert 'class="throughput"' in text
    assert f"2026-01-31 23:00 to 2026-01-31 23:{10 * (len(ledger['parts']) - 1)} UTC" in text


def test_the_sample_is_the_same_when_nothing_has_changed(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "out"))
    run(storage, plan(storage, [ref(number) for number in range(60)]))
    pages = [written(storage, {}) for _ in range(2)]
    shown = [sorted(text.split('<b dir="auto">')[1:]) for text in pages]
    assert shown[0] == shown[1]
    assert len(shown[0]) == SAMPLE


def test_lengths_and_times_are_known_of_every_part(tmp_path: Path) -> None:
    """Also of parts that a second publication keeps as they are."""
    storage = open_storage(str(tmp_path / "out"))
    fingerprint = plan(storage, [ref(number) for number in range(24)])
    run(storage, fingerprint, only=lambda number: number < 4)
    publish_tables(storage)
    run(storage, fingerprint, dead=["r20"])
    publish_tables(storage)
    tally = Tally()
    for entry in read_ledger(storage).values():
        tally.merge(Tally.from_json(entry["tally"]))
    assert tally.lengths == {"2": 24}  # of 4 s each
    assert sum(tally.minutes.values()) == 24 * 4 * 16_000


def test_a_published_part_of_an_earlier_version_has_no_lengths(tmp_path: Path) -> None:
    counts = Tally(3, 9).to_json()
    assert Tally.from_json({name: counts[name] for name in counts if name not in ("lengths", "minutes")}) == Tally(3, 9)


@pytest.mark.parametrize("samples", [0, 1, 15_999, 16_000, 16_000 * 3600, 10**12])
def test_a_length_is_in_one_class(samples: int) -> None:
    tally = Tally()
    tally.add(
        {"time": "2026-01-31T23:59:07.000+00:00", "transcribed": 1, "rows": 1, "archives_unread": 0}
        | {name: {} for name in ("dead", "damaged", "left_out", "bytes")}
        | {"samples": {"in": samples}, "by_recording": {"in": [samples]}}
    )
    expected = {0: {}, 16_000: {"1": 1}, 16_000 * 3600: {"3600": 1}, 10**12: {"3600": 1}}
    assert tally.lengths == expected.get(samples, {"0": 1})
    assert tally.minutes == {"2026-01-31T23:59": samples}
