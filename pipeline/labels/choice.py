"""Keeps or drops each segment of an archive, with one reason, recording by recording."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pipeline.calibration.samples import value_of
from pipeline.evaluation.rows import speaker_of
from pipeline.evaluation.settings import UNKNOWN
from pipeline.labels.curve import Threshold
from pipeline.labels.duplicates import TextDuplicates, signature
from pipeline.labels.filters import Filters, plain_words
from pipeline.labels.merging import joined_row, merged
from pipeline.labels.settings import DEFAULT, CapsConfig, LabelsConfig
from pipeline.labels.splits import label_id, split_of, stable_hash
from pipeline.output.calibrator import RAW
from pipeline.schemas import LABELS

Row = dict[str, Any]
MS_PER_HOUR = 3_600_000


class Chooser:
    """Decides for one segment after the other. What it remembers: small keys of texts, audio, speakers and sources.

    audio: as `shared_audio` returns it.
    """

    def __init__(
        self,
        config: LabelsConfig,
        thresholds: Mapping[str, Threshold],
        audio: Mapping[bytes, bytes],
        *,
        policy: str,
    ) -> None:
        self._config, self._thresholds, self._policy = config, thresholds, policy
        self._audio, self._heard = audio, set[bytes]()
        self._filters = Filters(config.filters)
        similarity = config.filters.text_similarity
        self._texts = None if similarity is None else TextDuplicates(similarity)
        self._caps = Caps(config.caps)
        columns = {"speaker_column": config.speaker_column, "source_column": config.source_column}
        self.missing = {key: name for key, name in columns.items() if name}  # settings whose column no recording had

    def labels(self, recording: Iterable[Row]) -> Iterator[tuple[Row, list[Row]]]:
        """The rows of schemas.LABELS of one recording, each with the segments that it is made of.

        recording: its rows of schemas.TRANSCRIPT. The segments are these rows, with `reason` and `expected_wer`.
        """
        rows = sorted(recording, key=lambda row: (row["channel"] or 0, row["start_ms"], row["segment_index"]))
        speaker = self.speaker(rows[0])
        source = value_of(rows[0]["metadata"], self._config.source_column)
        self.missing = {key: name for key, name in self.missing.items() if value_of(rows[0]["metadata"], name) is None}
        split = split_of(self._config.split, speaker, rows[0]["recording_id"])
        audio = self._audio.get(stable_hash(rows[0]["recording_id"]))
        is_duplicate = audio in self._heard
        if audio is not None:
            self._heard.add(audio)
        decided = (self._decided(row, is_duplicate, speaker, source) for row in rows)
        for group in merged(decided, self._config.merge):
            kept = group[0]["reason"] is None
            indices = sorted(row["segment_index"] for row in group)
            made = joined_row(group) | {
                "label_id": label_id(rows[0]["model"], rows[0]["recording_id"], group[0]["channel"], indices),
                "segment_indices": indices,
                "speaker": speaker,
                "kept": kept,
                "split": split if kept else None,
                "policy": self._policy,
            }
            yield {name: made[name] for name in LABELS.names}, group

    def speaker(self, row: Row) -> str | None:
        """The speaker of a recording, as its metadata names it."""
        column = self._config.speaker_column
        return value_of(row["metadata"], column) if column else speaker_of(row["metadata"])

    def _decided(self, row: Row, is_duplicate: bool, speaker: str | None, source: str | None) -> Row:
        has_wer = row["confidence"] is not None and row["confidence_source"] != RAW
        words = plain_words(row)
        reason = self._filters.reason(row, words)
        if reason is None and is_duplicate:
            reason = "duplicate_audio"
        reason = reason or self._unsure(row)
        text = signature(words) if reason is None and self._texts is not None else None
        if self._texts is not None and self._texts.is_known(text):
            reason = "duplicate_text"
        reason = reason or self._caps.reason(row, speaker, source)
        if self._texts is not None and reason is None:
            self._texts.add(text)
        return row | {"reason": reason, "expected_wer": 1 - row["confidence"] if has_wer else None}

    def _unsure(self, row: Row) -> str | None:
        threshold = self._thresholds.get(row["language"] or UNKNOWN, self._thresholds.get(DEFAULT))
        if threshold is None:
            return "no_threshold"
        if threshold.target is not None and row["confidence_source"] == RAW:
            return "uncalibrated"
        if threshold.confidence is None or row["confidence"] is None or not row["confidence"] >= threshold.confidence:
            return "low_confidence"  # so is what is not a number
        return None


class Caps:
    """How much of each speaker and source is kept already."""

    def __init__(self, config: CapsConfig) -> None:
        self._limits = (
            ("speaker_cap", config.speaker_hours and config.speaker_hours * MS_PER_HOUR),
            ("source_cap", config.source_hours and config.source_hours * MS_PER_HOUR),
        )
        self._kept: Counter[tuple[str, str]] = Counter()

    def reason(self, row: Row, speaker: str | None, source: str | None) -> str | None:
        """Why a segment is too much; None: it counts as kept from now on."""
        length = row["end_ms"] - row["start_ms"]
        counted = [
            ((reason, who), limit)
            for (reason, limit), who in zip(self._limits, (speaker, source), strict=True)
            if limit and who is not None
        ]
        for key, limit in counted:
            if self._kept[key] + length > limit:
                return key[0]
        for key, _ in counted:
            self._kept[key] += length
        return None
