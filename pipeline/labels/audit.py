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
from pipeline.evaluation.worst import playable
from pipeline.labels.settings import AuditConfig
from pipeline.labels.splits import fraction
from pipeline.output.page import render_page
from pipeline.storage.base import Storage

COLUMNS = (
    *("label_id", "stratum", "weight", "words", "language", "confidence", "recording_id", "start_ms", "end_ms"),
    *("audio", "text", "errors"),
)
BANDS = (0.8, 0.9, 0.95, 0.98)  # of the confidence: a language has a stratum for each, and one below and above
Key = tuple[float, str]  # by chance, and the label's id


class Sample:
    """Draws labels: of each stratum those with the lowest hash. Memory: `config.sample` labels of each stratum."""

    def __init__(self, config: AuditConfig) -> None:
        self._config = config
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
        entry = (-fraction(self._config.seed, label["label_id"]), label["label_id"], _shown(label, stratum))
        (heapq.heappush if len(drawn) < self._config.sample else heapq.heappushpop)(drawn, entry)

    def rows(self) -> list[dict[str, Any]]:
        """The drawn labels, COLUMNS. As many of each stratum, as far as it has them.

        weight: so many kept words stand behind one audited word.
        """
        left = {stratum: sorted(drawn, reverse=True) for stratum, drawn in sorted(self._drawn.items())}
        chosen: list[dict[str, Any]] = []
        while len(chosen) < self._config.sample and any(left.values()):
            for drawn in filter(None, left.values()):
                if len(chosen) < self._config.sample:
                    chosen.append(drawn.pop(0)[-1])
        words: Counter[str] = Counter()
        for row in chosen:
            words[row["stratum"]] += row["words"]
        return [
            row | {"weight": round(self._words[row["stratum"]] / max(1, words[row["stratum"]]), 6)}
            for row in sorted(chosen, key=lambda row: row["stratum"])
        ]


def write_audit(target: Storage, sample: Sample, policy: str) -> None:
    """Put audit.csv and audit.html."""
    rows = sample.rows()
    target.put("audit.csv", as_csv(rows).encode())
    shown = [row | {"address": _address(row)} for row in rows]
    target.put("audit.html", render_page("audit.html.j2", rows=shown, columns=COLUMNS, policy=policy).encode())


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


def _address(row: Mapping[str, Any]) -> str | None:
    """The part of the file that a browser plays; None where it cannot, as inside an archive."""
    address = playable(row["audio"])
    return address and f"{address}#t={row['start_ms'] / 1000:.3f},{row['end_ms'] / 1000:.3f}"
