"""What votes and a second model are worth on speech that tiny never saw: the figures of docs/engines.md.

    python -m infra.tiny.opinions votes SPEECH [count]
    python -m infra.tiny.opinions second FIRST SECOND

votes: SPEECH is a speech.parquet of calibrate.py. tiny gives four texts of `count` (200) of its synthetic utterances,
drawn with seed 0, each as a whole. It prints the error rate of the first text, of the elected one and of the most
confident one, with the paired 95 % interval over 2,000 resamples of the speakers. second: two outputs of
jobs.transcribe on the same recordings, with references.

Both print how well each signal ranks right words above wrong ones (AUROC), and a logistic regression of the signals,
without and with the agreement, on speakers that it was not fitted on (five folds).
"""

from __future__ import annotations

import io
import random
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow.parquet as pq
import soundfile
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline.audio.pcm import to_pcm
from pipeline.config import DenoiseConfig, RunConfig
from pipeline.config_file import load
from pipeline.evaluation.bootstrap import paired
from pipeline.evaluation.confidence import auroc
from pipeline.evaluation.result import headline
from pipeline.evaluation.rows import speaker_of
from pipeline.evaluation.words import Labels, label
from pipeline.model.denoise import votes
from pipeline.model.files import layout
from pipeline.model.second import agreement
from pipeline.model.stage import start_engine
from pipeline.output.tables import published_rows
from pipeline.schemas import Segment, SegmentResult
from pipeline.storage.base import open_storage
from pipeline.text.normalise import normaliser

VOTES = 4  # texts of an utterance
SYNTHETIC = "calibration "  # how the names of synthetic utterances begin
OWN = ("token_probability_min", "ctc_agreement", "ctc_score", "entropy_max")
COLUMNS = ["recording_id", "segment_index", "start_ms", "end_ms", "language", "text", "words", "reference", "metadata"]
SMALL, NO_SCORE = 1e-9, -5.0

Judged = tuple[str, bool, Mapping[str, Any]]  # speaker, whether the word is right, its signals


def labelled(words: list[list[str]], reference: str, language: str) -> Labels:
    """Which words of a recording's segments are right, as evaluation judges them."""
    normal = normaliser("auto", language)
    return label(words, normal(reference), normal, chars=headline(language) == "CER")


def texts_of(speech: Path, count: int) -> Iterator[tuple[dict[str, Any], list[SegmentResult]]]:
    """Utterances with their texts, in the order of the votes."""
    rows = [row for row in pq.read_table(speech).to_pylist() if row["id"].startswith(SYNTHETIC)]
    random.Random(0).shuffle(rows)
    words = ["source.uri=in", "output.uri=out", f"denoise.votes={VOTES}", "denoise.votes_below=1"]
    engine = start_engine(layout.resolve(load(RunConfig, None, words))[0])
    elected = votes.elected
    with mock.patch.object(votes, "elected", side_effect=elected) as watched:
        for row in rows[:count]:
            samples, _ = soundfile.read(io.BytesIO(row["audio"]), dtype="float32")
            result = engine.submit(Segment(row["id"], row["language"], to_pcm(samples))).result()
            given = watched.call_args.args[0] if watched.called else [result]
            watched.reset_mock()
            yield row, given
    engine.close()


def of_votes(speech: Path, count: int) -> None:
    """Print what votes are worth where only texts below the default get them, and where all do."""
    threshold = DenoiseConfig().votes_below
    ways = ("first text", f"votes below {threshold}", "votes for all", "most confident text")
    counted: dict[str, list[int]] = {name: [] for name in ways}
    units: list[int] = []
    speakers: list[str] = []
    judged: list[Judged] = []
    for row, texts in texts_of(speech, count):
        result, surest = votes.elected(texts), max(texts, key=sure)
        below = result if sure(texts[0]) < threshold else texts[0]
        for name, text in zip(ways, (texts[0], below, result, surest), strict=True):
            labels = labelled([[word["text"] for word in text.words]], row["text"], row["language"])
            counted[name].append(sum(labels.errors))
            if name == ways[2]:
                units.append(sum(labels.units))
                speakers.append(row["speaker"])
                pairs = zip(result.words, labels.right, strict=True)
                judged += [(row["speaker"], right, word["signals"] or {}) for word, right in pairs if right is not None]
    print(f"{len(units)} utterances, {sum(units)} words, {len(set(speakers))} speakers")
    for name, errors in counted.items():
        print(f"{name}: {sum(errors) / sum(units):.2%} errors, {change(errors, counted[ways[0]], units, speakers)}")
    ranked(judged, "vote_agreement")


def sure(text: SegmentResult) -> float:
    """Its confidence."""
    return text.confidence or 0.0


def change(new: list[int], old: list[int], units: list[int], speakers: list[str]) -> str:
    """A difference of error rates in points, with its 95 % interval. All: one entry per utterance."""
    found = paired(new, old, units, speakers, resamples=2_000, seed=0, level=0.975)  # of each bound
    return f"{100 * found.difference:+.2f} points ({100 * found.low:+.2f} to {100 * found.high:+.2f})"


def of_second(first: Path, second: Path) -> None:
    """Print how well the agreement with another output ranks the words of an output. Only equal segments count."""
    one, other = by_recording(first), by_recording(second)
    judged: list[Judged] = []
    for name in sorted(one.keys() & other.keys()):
        there = {(row["segment_index"], row["start_ms"], row["end_ms"]): row["text"] for row in other[name]}
        rows = sorted(one[name], key=lambda row: row["segment_index"])
        seconds = [there.get((row["segment_index"], row["start_ms"], row["end_ms"])) for row in rows]
        if None in seconds or not rows[0]["reference"]:
            continue
        words = [[word["text"] for word in row["words"] or []] for row in rows]
        right = iter(labelled(words, rows[0]["reference"], rows[0]["language"]).right)
        for row, own, text in zip(rows, words, seconds, strict=True):
            shares = agreement(row["text"], own, text or "", row["language"]).words
            for word, share in zip(row["words"] or [], shares, strict=True):
                if (is_right := next(right)) is not None and share is not None:
                    signals = (word["signals"] or {}) | {"second_agreement": share}
                    judged.append((speaker_of(row["metadata"]) or name, is_right, signals))
    ranked(judged, "second_agreement")


def by_recording(output: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows of an output's transcripts."""
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in published_rows(open_storage(str(output), create=False), "transcripts", COLUMNS):
        rows[row["recording_id"]].append(row)
    return rows


def ranked(judged: list[Judged], added: str) -> None:
    """Print the AUROC of each signal, and of all of them on held-out speakers without and with the one `added`."""
    speakers, right = [speaker for speaker, _, _ in judged], np.array([is_right for _, is_right, _ in judged])
    columns = {name: numbers(name, [signals.get(name) for *_, signals in judged]) for name in (*OWN, added)}
    print(f"{len(right)} words, {right.mean():.1%} right, {len(set(speakers))} speakers")
    for name, values in columns.items():
        print(f"AUROC {name}: {auroc(values, right):.3f}")
    for title, names in (("without", OWN), ("with", (*OWN, added))):
        values = np.column_stack([columns[name] for name in names])
        print(f"AUROC of a regression {title} {added}: {auroc(held_out(values, right, speakers), right):.3f}")


def numbers(name: str, values: list[float | None]) -> np.ndarray:
    """A signal as numbers that rise with the rightness of a word; float64. What an engine has not is a constant."""
    if name == "token_probability_min":
        found = np.clip(np.array(values, float), SMALL, 1 - SMALL)
        return np.asarray(np.log(found / (1 - found)))
    if name == "entropy_max":
        return np.asarray(-np.log(np.maximum(np.array(values, float), SMALL)))
    return np.array([(NO_SCORE if name == "ctc_score" else 0.0) if value is None else value for value in values])


def held_out(values: np.ndarray, right: np.ndarray, speakers: list[str]) -> np.ndarray:
    """[words], float64: the probability by a logistic regression of `values` [words, signals] on other speakers."""
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1_000))
    folds = GroupKFold(min(5, len(set(speakers))))
    return np.asarray(cross_val_predict(model, values, right, groups=speakers, cv=folds, method="predict_proba")[:, 1])


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["votes", speech, *count]:
            of_votes(Path(speech), int(count[0]) if count else 200)
        case ["second", one, other]:
            of_second(Path(one), Path(other))
        case _:
            sys.exit(__doc__)
