"""A stratified sample of the kept labels for people who listen: audit.csv, and audit.html with players."""

from __future__ import annotations

import csv
import heapq
import io
from bisect import bisect
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.config import public
from pipeline.evaluation.settings import UNKNOWN
from pipeline.labels.settings import AuditConfig
from pipeline.labels.splits import fraction
from pipeline.output.page import render_page
from pipeline.storage.base import Storage

COLUMNS = (
    *("label_id", "stratum", "weight", "words", "language", "confidence", "recording_id", "start_ms", "end_ms"),
    *("audio", "text", "errors"),
)
BANDS = (0.8, 0.9, 0.95, 0.98)  # of the confidence: a language has a stratum for each, and one below and above
LEAST = 2  # labels of a stratum
CLIPS = "audit"  # the folder with their audio


def clip_key(label_id: str) -> str:
    """Where the audio of an audited label is."""
    return f"{CLIPS}/{label_id}.flac"


class Sample:
    """Draws labels: of each stratum those with the lowest hash. Memory: `config.sample` labels of each stratum.

    clip: the address of a label's audio for the page; None: there is none.
    """

    def __init__(self, config: AuditConfig) -> None:
        self._config = config
        self.clip = clip_key if config.audio else None
        self._drawn: dict[str, list[tuple[float, str, dict[str, Any]]]] = {}
        self._words: Counter[str] = Counter()

    def add(self, label: Mapping[str, Any]) -> None:
        """A row of schemas.LABELS; dropped ones are not for people."""
        if not label["kept"] or not self._config.sample:
            return
        band = bisect(BANDS, label["confidence"] or 0.0)
        stratum = f"{label['language'] or UNKNOWN} {(0, *BANDS)[band]:g}-{(*BANDS, 1)[band]:g}"
        self._words[stratum] += len(label["words"] or ())
        drawn = self._drawn.setdefault(stratum, [])
        entry = (-fraction(self._config.seed, label["label_id"]), label["label_id"], dict(label))
        (heapq.heappush if len(drawn) < max(LEAST, self._config.sample) else heapq.heappushpop)(drawn, entry)

    def labels(self) -> dict[str, list[dict[str, Any]]]:
        """The drawn rows of schemas.LABELS by stratum. As many of each, as far as it has them, and LEAST in any case.

        With fewer a stratum would be missing from the error rate, or its spread from the interval.
        """
        left = {stratum: sorted(drawn, reverse=True) for stratum, drawn in sorted(self._drawn.items())}
        chosen: dict[str, list[dict[str, Any]]] = {stratum: [] for stratum in left}
        for _ in range(min(max(self._config.sample, LEAST * len(left)), sum(map(len, left.values())))):
            stratum = min((name for name in left if left[name]), key=lambda name: len(chosen[name]))
            chosen[stratum].append(left[stratum].pop(0)[-1])
        return chosen

    def rows(self) -> list[dict[str, Any]]:
        """The drawn labels as COLUMNS. weight: so many kept words stand behind one audited word."""
        return [
            _shown(label, stratum) | {"weight": round(self._words[stratum] / words, 6)}
            for stratum, labels in self.labels().items()
            for words in [max(1, sum(len(label["words"] or ()) for label in labels))]
            for label in labels
        ]


def write_audit(target: Storage, sample: Sample, policy: str) -> None:
    """Put audit.csv and audit.html."""
    rows = sample.rows()
    target.put("audit.csv", as_csv(rows).encode())
    page = render_page("audit.html.j2", rows=rows, columns=COLUMNS, policy=policy, clip=sample.clip)
    target.put("audit.html", page.encode())


def as_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """COLUMNS as CSV with a header. `errors` is for the auditor."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _shown(label: Mapping[str, Any], stratum: str) -> dict[str, Any]:
    member = label["source_member"]
    own = {name: label[name] for name in ("label_id", "language", "recording_id", "start_ms", "end_ms", "text")}
    return own | {
        "stratum": stratum,
        "words": len(label["words"] or ()),
        "confidence": None if label["confidence"] is None else round(label["confidence"], 4),
        "audio": public(label["source_uri"]) + (f"!{member}" if member else ""),
        "errors": "",
    }
