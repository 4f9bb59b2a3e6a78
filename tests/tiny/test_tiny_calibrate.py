"""infra.tiny.calibrate: the calibrator lands beside the weights, and the card has one section about it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from infra.tiny import calibrate

ABOUT = {
    "fitted": {"segments": 3, "words": 9, "speakers": 2, "date": "2026-01-01"},
    "languages": ["de"],
    "confidence_source": {"calibrated:language": 2, "raw": 1},
}


def test_a_second_fit_replaces_calibrator_and_section_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, model = tmp_path / "work", tmp_path / "assets" / "tiny"
    for path in (folder / "fit", model):
        path.mkdir(parents=True)
    card = model / "MODEL_CARD.md"
    card.write_text("# tiny\n\n## Confidence\n\nof old weights\n\n## Licence\n\nMIT\n")
    monkeypatch.setattr(calibrate, "ASSETS", tmp_path / "assets")
    monkeypatch.setattr(calibrate, "calibrate", lambda *_: SimpleNamespace(about=ABOUT, figures=[]))
    for body in ("{}", '{"new": 1}'):
        (folder / "fit" / calibrate.FILE).write_text(body)
        calibrate.main("tiny", folder)
    text = card.read_text()
    assert (model / calibrate.FILE).read_text() == body
    assert (text.count(calibrate.HEADING), text.count("## Licence\n\nMIT\n"), text.count("of old weights")) == (1, 1, 0)
    assert "9 words, 2 speakers, on 2026-01-01" in text
    assert "2 calibrated:language, 1 raw" in text
