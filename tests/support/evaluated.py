"""A made-up evaluation: rows of schemas.EVALUATED with plausible errors, and the results for them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from itertools import combinations
from typing import Any

import jiwer
import pyarrow as pa

from pipeline import schemas
from pipeline.evaluation.result import (
    Comparison,
    Counts,
    Difference,
    Evaluation,
    Point,
    Rates,
    SideBySide,
    Speed,
    SweepPoint,
    Verdict,
    WordConfidence,
    headline,
)

NIGHT = datetime(2026, 11, 25, 3, 0, tzinfo=UTC)
VOCABULARY = {
    language: list(words) if language == "zh" else words.split()
    for language, words in (
        ("en", "the cat sat on a mat and nobody knew where it had come from when morning broke over hills"),
        ("de", "die brücke über den fluss war gestern gesperrt weil der regen nicht aufhören wollte"),
        ("hi", "मुझे रोटी और नमक चाहिए क्योंकि आज घर में कुछ नहीं है"),
        ("zh", "我要茶和鱼今天天气很好我们去公园散步吧"),
    )
}
SETS = {"en": "test-clean", "de": "fleurs", "hi": "fleurs", "zh": "fleurs"}


def row(language: str, reference: str | None, hypothesis: str, **changed: Any) -> dict[str, Any]:
    """One row; its counts are those of jiwer. `changed` replaces columns."""
    words = counted(jiwer.process_words, reference or "", hypothesis)
    chars = counted(jiwer.process_characters, reference or "", hypothesis)
    names = ("hits", "substitutions", "deletions", "insertions")
    figures = {f"{kind}_{name}": getattr(words, name) for kind in ("word", "merged") for name in names}
    figures |= {f"char_{name}": getattr(chars, name) for name in names}
    known = {
        "date": "2026-11-25",
        "set": SETS.get(language, "fleurs"),
        "language": language,
        "evaluation": "nightly-2026-11-25",
        "evaluated_at": NIGHT,
        "model": "tiny@0f3a",
        "revision": "main",
        "fingerprint": "f1",
        "config_hash": "c0ffee",
        "code_version": "533bd2e",
        "hardware": "2 x CPU",
        "normaliser": "english/1" if language == "en" else "multilingual/1",
        "recording_id": f"{language}-1",
        "speaker": None,
        "seconds": 4.0,
        "snr_db": None,
        "slices": None,
        "status": "transcribed",
        "reason": None,
        "confidence": 0.9,
        "steps": 6.0,
        "reference": reference,
        "hypothesis": hypothesis,
        "reference_normal": reference,
        "hypothesis_normal": hypothesis,
        "audio": None,
    }
    return known | figures | changed


def counted(process: Callable[[str, str], Any], reference: str, hypothesis: str) -> Counts:
    """Jiwer refuses an empty reference: every recognised word is an insertion."""
    if not reference:
        return Counts(insertions=len(hypothesis.split()))
    found = process(reference, hypothesis)
    return Counts(found.hits, found.substitutions, found.deletions, found.insertions)


def made_up_rows(per_language: int = 60, seed: int = 7) -> list[dict[str, Any]]:
    """Recordings of four languages, with more wrong words where confidence is low; some dead, some missing."""
    rng = random.Random(seed)
    rows = []
    for language, vocabulary in VOCABULARY.items():
        between = "" if language == "zh" else " "
        for number in range(per_language):
            confidence = rng.uniform(0.5, 1.0)
            reference = [rng.choice(vocabulary) for _ in range(rng.randint(4, 60))]
            hypothesis: list[str] = []
            for word in reference:
                luck = rng.random()
                wrong = 0.6 * (1 - confidence)
                hypothesis += [word] if luck > wrong else rng.choice([[], [rng.choice(vocabulary)], [word, word]])
            status = "dead_letter" if number % 29 == 28 else "missing" if number % 41 == 40 else "transcribed"
            changed: dict[str, Any] = {
                "recording_id": f"{language}/speaker-{number % 7}/{number:04d}",
                "speaker": f"{language}-{number % 7}",
                "seconds": 0.4 * len(reference),
                "snr_db": rng.uniform(0, 30),
                "confidence": confidence,
                "audio": f"audio/{language}/{number:04d}.wav",
                "status": status,
            }
            if status != "transcribed":
                reason = "truncated_audio" if status == "dead_letter" else None
                hypothesis, changed = [], changed | {"confidence": None, "steps": None, "reason": reason}
            rows.append(row(language, between.join(reference), between.join(hypothesis), **changed))
    return rows


def evaluated_table(rows: Iterable[dict[str, Any]]) -> pa.Table:
    return schemas.to_table(rows, schemas.EVALUATED)


def rates_of(group: Any, key: str, rows: list[dict[str, Any]], *, wide: float = 0.015) -> Rates:
    """The sums of these rows; the interval is made up."""
    metric = headline(rows[0]["language"]) if len({one["language"] for one in rows}) == 1 else "WER"

    def total(kind: str) -> Counts:
        names = ("hits", "substitutions", "deletions", "insertions")
        return sum((Counts(*(one[f"{kind}_{name}"] for name in names)) for one in rows), Counts())

    status = [one["status"] for one in rows]
    words, chars = total("word"), total("char")
    rate = (chars if metric == "CER" else words).rate or 0.0
    return Rates(
        group=group,
        key=key,
        metric=metric,
        words=words,
        chars=chars,
        merged=total("merged"),
        recordings=len(rows),
        transcribed=status.count("transcribed"),
        dead=status.count("dead_letter"),
        missing=status.count("missing"),
        empty_references=2 if group == "all" else 0,
        phantom_words=5 if group == "all" else 0,
        seconds=sum(one["seconds"] for one in rows),
        low=None if group == "speaker" else max(0.0, rate - wide),
        high=None if group == "speaker" else rate + wide,
    )


def _duration(one: dict[str, Any]) -> str:
    seconds = one["seconds"]
    return "below 5 s" if seconds < 5 else "5-10 s" if seconds < 10 else "10-20 s" if seconds < 20 else "20 s and more"


def made_up_rates(rows: list[dict[str, Any]]) -> list[Rates]:
    """All groups an evaluation has."""
    found = [rates_of("all", "all", rows)]
    keys: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
        ("set", lambda one: f"{one['set']} {one['language']}"),
        ("language", lambda one: one["language"]),
        ("speaker", lambda one: f"{one['language']} {one['speaker']}"),
        ("duration", lambda one: f"{one['language']} {_duration(one)}"),
        ("snr", lambda one: f"{one['language']} {'below 10 dB' if one['snr_db'] < 10 else '10 dB and more'}"),
    ]
    for group, key_of in keys:
        by_key: dict[str, list[dict[str, Any]]] = {}
        for one in sorted(rows, key=lambda one: (list(VOCABULARY).index(one["language"]), one["seconds"])):
            by_key.setdefault(key_of(one), []).append(one)
        found += [rates_of(group, key, chosen) for key, chosen in by_key.items()]
    return found


def comparison(language: str, difference: float = 0.01, *, regressed: bool = False) -> Comparison:
    return Comparison(
        language=language,
        metric=headline(language),
        recordings=58,
        blocks=7,
        rate=0.14 + difference,
        baseline_rate=0.14,
        difference=difference,
        low=difference - 0.008,
        high=difference + 0.008,
        p=0.004 if regressed else 0.2,
        p_holm=0.016 if regressed else 0.6,
        p_mapsswe=0.011 if regressed else None,
        detectable=0.0115,
        regressed=regressed,
    )


def made_up_history(nights: int = 20, seed: int = 3) -> list[Point]:
    rng = random.Random(seed)
    points = []
    for night in range(nights):
        for language in VOCABULARY:
            rate = 0.12 + rng.uniform(-0.006, 0.006) + (0.02 if night == nights - 1 and language == "de" else 0)
            model = "tiny@0f3a" if night > 12 else "tiny@99aa"
            moment = NIGHT - timedelta(days=nights - 1 - night)
            name = f"nightly-{moment:%Y-%m-%d}"
            metric = headline(language)
            points.append(Point(moment, name, model, language, metric, rate, rate - 0.011, rate + 0.012))
    return points


def made_up_sweep(rows: list[dict[str, Any]]) -> list[SweepPoint]:
    """Six combinations of two settings: more steps are slower and a little better."""
    points = []
    for steps in (4, 8, 16):
        for canvas in (64, 128):
            chosen = [one for number, one in enumerate(rows) if number % (20 // steps + 1) or canvas == 64]
            by_language = {
                name: rates_of("language", name, [one for one in chosen if one["language"] == name])
                for name in VOCABULARY
            }
            settings = {"denoise.max_steps": steps, "denoise.canvas_length": canvas, "denoise.seed": 0}
            overall = rates_of("all", "all", chosen)
            points.append(SweepPoint(settings, by_language, overall, 900 / steps + canvas / 4, steps * 0.7))
    return points


def made_up_evaluation(rows: list[dict[str, Any]], **changed: Any) -> Evaluation:
    """A night on which German became worse. What is in `changed` replaces what would stand there."""
    failures = ["de: WER 16.00 %, +2.00 points [+1.20, +2.80] over nightly-2026-11-24, Holm p 0.016"]
    known: dict[str, Any] = {
        "evaluation": "nightly-2026-11-25",
        "evaluated_at": NIGHT,
        "about": {
            "model": "tiny@0f3a",
            "revision": "main",
            "config_hash": "c0ffee",
            "normaliser": "english/1 whisper-normalization 1.0.0, multilingual/1",
            "code_version": "533bd2e",
            "hardware": "2 x CPU",
        },
        "rates": made_up_rates(rows),
        "comparisons": [
            comparison("en", 0.002),
            comparison("de", 0.02, regressed=True),
            comparison("hi", -0.012),
            comparison("zh", 0.0),
        ],
        "baseline": "nightly-2026-11-24",
        "verdict": Verdict(failures, ["en: the upper bound of +1.00 points is above the margin of 0.30"]),
        "history": made_up_history(),
        "sweep": made_up_sweep(rows),
    }
    return Evaluation(**known | changed)


def made_up_side_by_side(*names: str) -> SideBySide:
    """Models of these names; the first one failed, and every further one is better than those before."""
    evaluations = {
        name: made_up_evaluation(
            made_up_rows(seed=7 + number),
            verdict=Verdict() if number else Verdict(["de: no rate to compare with its ceiling of 9.00 %"]),
            speed=Speed(900.0, 60.0 * (1 + number), 45.0),
            words=[
                WordConfidence(key, 400, 0.8 + number / 20, 0.9, 0.1 / (1 + number), None if key == "hi" else 0.8)
                for key in ("all", *VOCABULARY)
            ],
        )
        for number, name in enumerate(names)
    }
    differences = [
        Difference(model, other, name, headline(name), 58, 0, 7, 0.1, 0.14, -0.04, -0.05, -0.03, 0.002, 0.01)
        for other, model in combinations(names, 2)
        for name in ("all", *VOCABULARY)
    ]
    return SideBySide("nightly", "2026-11-25", evaluations, differences)
