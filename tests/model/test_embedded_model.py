"""The embedded model is small enough, and as good as its card says."""

from __future__ import annotations

import re

from pipeline.model.files.layout import ASSETS

ROW = re.compile(r"^\| (.+?) \| (?:WER|CER|WER and CER) \| ([\d.]+) % \| (\d+) / (\d+) \| (\d+) \|$", re.M)
CARD = (ASSETS / "tiny/MODEL_CARD.md").read_text(encoding="utf-8")
RATES = {name: (float(percent), int(errors), int(units)) for name, percent, errors, units, _ in ROW.findall(CARD)}


def test_the_card_has_a_rate_that_follows_from_its_counts_for_every_language() -> None:
    languages = ["English", "German", "French", "Spanish", "Hindi", "Mandarin"]
    assert list(RATES) == [*languages, "all", "all, audio shuffled"]
    for percent, errors, units in RATES.values():
        assert abs(percent - 100 * errors / units) <= 0.051
    assert RATES["all"][1:] == tuple(sum(RATES[name][i] for name in languages) for i in (1, 2))


def test_the_error_rates_on_new_voices_and_phrases_are_within_their_bounds() -> None:
    assert RATES["all"][0] <= 20
    assert all(RATES[name][0] <= 35 for name in RATES if not name.startswith("all"))


def test_without_its_audio_the_model_is_wrong() -> None:
    assert RATES["all, audio shuffled"][0] > 80


def test_the_weights_are_at_most_70_megabytes() -> None:
    assert sum(path.stat().st_size for path in (ASSETS / "tiny").rglob("*") if path.is_file()) <= 70_000_000
