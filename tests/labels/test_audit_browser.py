"""The page of an audit in a real browser: keys give verdicts, and what is saved comes back as an evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.labels.audit import Sample, write_audit
from pipeline.labels.settings import AuditConfig
from pipeline.labels.verdicts import audited_risk, read_verdicts
from pipeline.storage.base import open_storage
from tests.support.browser import DESKTOP, PHONE, Browser
from tests.support.labels import segment

NASTY = """<script>missing()</script> "quoted", 'it' </li> {{ 7 }}"""
SAVED = "URL.createObjectURL = blob => { window.saved = blob.text(); return '#'; }"


def page(folder: Path) -> str:
    """Three labels of a hostile text, and one without a language."""
    sample = Sample(AuditConfig(sample=10))
    for number in range(3):
        label: dict[str, Any] = segment(NASTY, f"r{number}", language=None if number == 2 else "en")
        sample.add(label | {"kept": True, "label_id": f"{number:016x}"})
    write_audit(open_storage(str(folder)), sample, "policy")
    return (folder / "audit.html").as_uri()


@pytest.mark.slow
def test_keys_count_errors_and_the_saved_file_is_an_evaluation(browser: Browser, tmp_path: Path) -> None:
    tab = browser.open(page(tmp_path), DESKTOP)
    tab.evaluate(SAVED)
    for key in ("2", "0", "ArrowUp", "Backspace", "1", "s"):
        event = f"new KeyboardEvent('keydown', {{key: {json.dumps(key)}, bubbles: true}})"
        tab.evaluate(f"document.activeElement.dispatchEvent({event})")
    assert tab.evaluate("document.getElementById('done').textContent") == "2 of 3"
    (tmp_path / "verdicts.csv").write_text(tab.evaluate("window.saved"), encoding="utf-8")
    rows = read_verdicts(tmp_path / "verdicts.csv").rows
    assert [row["errors"] for row in rows] == [2, 1]
    assert audited_risk(rows, 0.95).rate == 3 / sum(float(row["words"]) for row in rows)
    assert tab.evaluate("document.querySelector('.text').textContent") == NASTY
    assert [text for text in tab.complaints() if "flac" not in text] == []
    tab.close()


@pytest.mark.slow
def test_the_page_fits_a_phone(browser: Browser, tmp_path: Path) -> None:
    tab = browser.open(page(tmp_path), PHONE)
    assert tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    tab.close()
