"""New evaluation against the baseline: pairs recordings, tests the difference by language, decides the gate."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import ConfigError
from pipeline.evaluation.bootstrap import blocks_of, language_seed, paired
from pipeline.evaluation.result import CHARACTER_LANGUAGES, Check, Comparison, Rates, Verdict, headline
from pipeline.evaluation.settings import UNKNOWN, GateConfig
from pipeline.evaluation.significance import detectable, holm, mapsswe
from pipeline.evaluation.wording import percent, points, probability

KEY = ["set", "recording_id"]
_COUNTS = [f"{prefix}_{name}" for prefix in ("word", "char") for name in ("substitutions", "deletions", "insertions")]
_HITS = ["word_hits", "char_hits"]
ALL = "all"  # all languages together: shows a small loss in every language first
_COLUMNS = [*KEY, "language", "speaker", "normaliser", "reference", "reference_normal", *_HITS, *_COUNTS]


class NotComparableError(ConfigError):
    """Two evaluations have nothing that can be compared."""


def compare_rows(
    new: pa.Table,
    old: pa.Table,
    *,
    resamples: int = 1_000,
    alpha: float = 0.05,
    seed: int = 0,
    against: str = "baseline",
) -> list[Comparison]:
    """One comparison per language, sorted by name, on the recordings that both evaluations have.

    With more than one language, the first comparison is of all recordings together, each in the units (words or
    characters) that its language is judged by.

    new, old: schemas.EVALUATED, one evaluation each, rows in any order. A pair has the same set and recording_id, and
    the same normalised reference, which is not empty. Where nobody says the language of a recording and it was detected
    differently, it counts in the old one, and its reference as it was written is the same. `left_out` counts recordings
    that have a reference in either evaluation but no partner. Blocks: see `blocks_of`. A language with one pair only
    has no comparison. `low` and `high` each hold with probability 1 - alpha. p_holm is corrected for the number of
    comparisons. `detectable` is for the strictest step of this correction, so it does not depend on the other
    languages. against: what `old` is, for messages.

    Raises NotComparableError where an evaluation has a recording twice, where the normalisers differ or where nothing
    pairs; ConfigError where `resamples` are too few for any p below alpha.
    """
    joined = _side(new, "new").join(_side(old, "old"), KEY, join_type="full outer")
    joined = joined.append_column("language", _language(joined))
    pairs = _pairs(joined, against)
    counts = pairs["language"].value_counts().to_pylist()
    languages = sorted(count["values"] for count in counts if count["counts"] > 1)
    languages = [ALL, *languages] if len(languages) > 1 else languages
    if len(languages) / (resamples + 1) >= alpha:  # the smallest possible p_holm: the gate could never close
        raise ConfigError(
            f"gate.resamples: {resamples:,} are too few for {len(languages)} comparisons at gate.alpha={alpha:g}: "
            f"{math.ceil(len(languages) / alpha):,} or more"
        )
    comparisons = []
    for language in languages:
        chosen = pairs if language == ALL else pairs.filter(pc.field("language") == language)
        wanted = joined.num_rows if language == ALL else pc.sum(pc.equal(joined["language"], language)).as_py()
        left_out = wanted - chosen.num_rows
        share = alpha / len(languages)
        comparisons.append(
            _compared(chosen, language, left_out, resamples=resamples, alpha=alpha, share=share, seed=seed)
        )
    return [
        replace(one, p_holm=p_holm, regressed=p_holm < alpha and one.low > 0)
        for one, p_holm in zip(comparisons, holm([one.p for one in comparisons]), strict=True)
    ]


def unpaired(new: pa.Table, old: pa.Table) -> dict[str, int]:
    """Languages of the baseline without any pair in `new`, with the number of their recordings in the baseline.

    Only sets that `new` has too are considered, so that another choice of sets is no loss. Only recordings with a
    reference count. A language with one recording is never compared, so it is not missed either.
    """
    sets = pc.unique(new["set"])
    there = _side(old, "old").filter(pc.is_in(pc.field("set"), sets))
    joined = there.join(_side(new, "new"), KEY, join_type="left outer")
    same = pc.equal(joined["reference_normal_new"], joined["reference_normal_old"]).fill_null(False)
    paired_languages = set(joined["language_old"].filter(same).to_pylist())
    counts = {count["values"]: count["counts"] for count in joined["language_old"].value_counts().to_pylist()}
    return {
        language: counts[language]
        for language in sorted(counts)
        if language not in paired_languages and counts[language] > 1
    }


def verdict(
    comparisons: Sequence[Comparison],
    rates: Sequence[Rates],
    gate: GateConfig,
    *,
    lost: Mapping[str, int] | None = None,
) -> Verdict:
    """Whether the gate is open: no language regressed, no rate is above its ceiling, every set is covered.

    comparisons: from `compare`; empty without a baseline. rates: only the groups language and set are used. lost: from
    `unpaired`. What cannot be judged closes the gate: a ceiling without a rate, a set without references, a language
    of the baseline that is missing.
    """
    languages = {one.key: one for one in rates if one.group == "language"}
    sets = [one for one in rates if one.group == "set"]
    checks = [Check("regression", one.language, _regression(one) if one.regressed else None) for one in comparisons]
    checks += [
        Check("ceiling", language, _above(language, languages.get(language), ceiling))
        for language, ceiling in gate.ceilings.items()
    ]
    checks += [Check("regression", language, _gone(language, count)) for language, count in (lost or {}).items()]
    checks += [
        Check("coverage", one.key, _uncovered(one, gate.min_coverage)) for one in sets if one.recordings > one.unread
    ]  # where no recording of a language could be read, its set shows that
    checks += _covered(sets, gate.min_coverage)
    failures = tuple(check.failure for check in checks if check.failure is not None)
    return Verdict(failures, tuple(_warnings(comparisons, languages, gate)), tuple(checks))


def _side(table: pa.Table, name: str) -> pa.Table:
    """The rows that have a reference, columns renamed to *_new or *_old, except the keys."""
    rows = table.select(_COLUMNS).filter(pc.field("reference_normal") != "")
    if twice := rows.num_rows - rows.group_by(KEY).aggregate([]).num_rows:
        side = "this evaluation" if name == "new" else "baseline"
        raise NotComparableError(
            f"{side}: {twice:,} rows repeat a set and recording_id: one evaluation is compared at a time"
        )
    return rows.rename_columns([column if column in KEY else f"{column}_{name}" for column in _COLUMNS])


def _language(joined: pa.Table) -> pa.ChunkedArray:
    """The language that each recording counts in: the old one, or the new one where that is not known."""
    new, old = joined["language_new"], joined["language_old"]
    return pc.if_else(pc.equal(old, UNKNOWN).fill_null(True), pc.coalesce(new, old), old)


def _pairs(joined: pa.Table, against: str) -> pa.Table:
    """The rows of both evaluations with the same reference. Raises NotComparableError."""
    both = joined.filter(pc.and_(joined["language_new"].is_valid(), joined["language_old"].is_valid()))
    moved = pc.field("language_new") != pc.field("language_old")
    changed = both.filter(~moved & (pc.field("normaliser_new") != pc.field("normaliser_old")))
    if changed.num_rows:
        old_name, new_name = (changed[f"normaliser_{name}"][0].as_py() for name in ("old", "new"))
        raise NotComparableError(
            f"{against}: {changed.num_rows:,} of {both.num_rows:,} recordings have another normaliser there "
            f"({old_name}, here {new_name}): the rates cannot be compared; evaluate both with the same normaliser"
        )
    same = pc.field("reference_normal_new") == pc.field("reference_normal_old")
    pairs = both.filter(same | (moved & (pc.field("reference_new") == pc.field("reference_old"))))
    if not pairs.num_rows:
        sizes = [joined[f"language_{name}"].length() - joined[f"language_{name}"].null_count for name in ("new", "old")]
        raise NotComparableError(
            f"{against}: nothing to compare: {sizes[0]:,} recordings with a reference here, {sizes[1]:,} there, "
            f"{both.num_rows:,} of them with the same set and recording_id, none with the same reference"
        )
    return pairs


def _compared(
    pairs: pa.Table, language: str, left_out: int, *, resamples: int, alpha: float, share: float, seed: int
) -> Comparison:
    """One comparison of at least two pairs, p not corrected yet. share: of alpha, for `detectable`."""
    new, old = (_counted(pairs, name) for name in ("new", "old"))
    units = _counted(pairs, "new", ("hits", "substitutions", "deletions"))
    speakers = pc.coalesce(pairs["speaker_new"], pairs["speaker_old"])
    blocks = blocks_of(
        zip(*(column.to_pylist() for column in (pairs["set"], pairs["recording_id"], speakers)), strict=True)
    )
    tested = paired(new, old, units, blocks, resamples=resamples, seed=language_seed(seed, language), level=1 - alpha)
    return Comparison(
        language=language,
        metric=headline(language),
        recordings=pairs.num_rows,
        left_out=left_out,
        blocks=len(set(blocks)),
        rate=float(new.sum() / units.sum()),
        baseline_rate=float(old.sum() / units.sum()),
        difference=tested.difference,
        low=tested.low,
        high=tested.high,
        p=tested.p,
        p_holm=tested.p,
        p_mapsswe=mapsswe(new, old),
        detectable=detectable(new, old, units, blocks, alpha=share),
        regressed=False,
        p_better=tested.p_better,
    )


def _counted(
    pairs: pa.Table, name: str, kinds: Sequence[str] = ("substitutions", "deletions", "insertions")
) -> np.ndarray:
    """[recordings]: sum of these kinds of counts, in characters or words as the language of each is judged by."""
    words, chars = (
        np.stack([pairs[f"{prefix}_{kind}_{name}"].to_numpy() for kind in kinds]).sum(axis=0, dtype=np.int64)
        for prefix in ("word", "char")
    )
    by_characters = pc.is_in(pairs["language"], pa.array(CHARACTER_LANGUAGES)).to_numpy()
    return np.where(by_characters, chars, words)


def _regression(one: Comparison) -> str:
    return (
        f"{one.language}: {one.metric} rose from {percent(one.baseline_rate)} to {percent(one.rate)} on "
        f"{one.recordings:,} recordings, by {points(one.difference)} points "
        f"[{points(one.low)}, {points(one.high)}], p {probability(one.p_holm)} after Holm"
    )


def _above(language: str, rates: Rates | None, ceiling: float) -> str | None:
    rate = rates.counts.rate if rates else None
    if rates is None or rate is None:
        return f"{language}: no rate to compare with its ceiling of {percent(ceiling)}"
    if rate <= ceiling:
        return None
    return f"{language}: {rates.metric} {percent(rate)} is above the ceiling of {percent(ceiling)}"


def _uncovered(one: Rates, least: float) -> str | None:
    if one.coverage is None or one.coverage >= least:
        return None
    return (
        f"{one.key}: {one.covered[0]:,} of {one.covered[1]:,} recordings transcribed "
        f"({percent(one.coverage)}: {one.dead:,} dead letters, {one.missing:,} missing), less than {percent(least)}"
    )


def _covered(sets: Sequence[Rates], least: float) -> Iterator[Check]:
    """Checks of whole sets, where their languages do not show it: recordings that could not be read or have no text."""
    nothing = "no recording with a reference: nothing was evaluated"
    if not any(one.recordings > one.unread for one in sets):
        yield Check("coverage", ALL, nothing)
        return
    by_name: dict[str, list[Rates]] = {}
    for one in sets:
        by_name.setdefault(one.key.split(" ")[0], []).append(one)
    for name, group in by_name.items():
        fields = ("recordings", "transcribed", "dead", "missing", "unread", "bare", "empty_references")
        whole = replace(group[0], key=name, **{key: sum(getattr(one, key) for one in group) for key in fields})
        if whole.recordings == whole.unread and not whole.empty_references:
            yield Check("coverage", name, f"{name}: {nothing}")
        elif any(one.unread == one.recordings > 0 for one in group):
            yield Check("coverage", name, _uncovered(whole, least))


def _gone(language: str, count: int) -> str:
    return f"{language}: the baseline has {count:,} recordings, this evaluation has none with the same reference"


def _warnings(comparisons: Sequence[Comparison], languages: dict[str, Rates], gate: GateConfig) -> Iterator[str]:
    if losses := [one for one in comparisons if one.high > gate.margin and not one.regressed]:
        sizes = ", ".join(f"{one.language} {100 * one.high:.2f} ({one.blocks:,} blocks)" for one in losses)
        yield f"cannot exclude a loss above the margin of {100 * gate.margin:.2f} points; it may be up to: {sizes}"
    if apart := [one for one in comparisons if one.left_out and one.language != ALL]:  # the languages say it already
        counts = ", ".join(f"{one.language} {one.left_out:,} of {one.left_out + one.recordings:,}" for one in apart)
        yield f"left out of the comparison, for only one evaluation has them or their references differ: {counts}"
    compared = {one.language for one in comparisons}
    alone = [language for language in languages if language not in compared and languages[language].recordings]
    if comparisons and alone:
        yield f"not compared, for fewer than two recordings have the same reference in the baseline: {', '.join(alone)}"
