"""Makes fullcanvas_grafana_dashboard.json beside this file: python -m infra.monitoring.dashboard .

Name, data source, cluster filter and tags follow Ray's own dashboards. Ray's Grafana shows every file of
/tmp/ray/session_latest/metrics/grafana/dashboards, so a copy there appears beside them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "fullcanvas_grafana_dashboard.json"
WINDOW = "5m"
CLUSTER = 'ray_io_cluster=~"$Cluster"'
ALL = {"text": "All", "value": "$__all"}
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def metric(name: str) -> str:
    """A gauge of ours, of the clusters that are chosen."""
    return f"ray_fullcanvas_{name}{{{CLUSTER}}}"


def rate(name: str, by: str = "") -> str:
    """The speed of a counter, added up, per second."""
    group = f" by ({by})" if by else ""
    return f"sum{group} (rate(ray_fullcanvas_{name}{{{CLUSTER}}}[{WINDOW}]))"


def quantile(share: float, name: str, by: str = "le") -> str:
    """A quantile of a histogram."""
    return f"histogram_quantile({share}, {rate(f'{name}_bucket', by)})"


BUSY, IDLE = rate("replica_busy_seconds_total"), rate("replica_waiting_seconds_total")
# Row by row: title, unit, what it shows, then queries with their legends.
PANELS: list[tuple[str, str, str, dict[str, str]]] = [
    (
        "RTFx",
        "none",
        "Seconds of audio per second: of the whole run, of one decoder at work, of one replica at work",
        {
            "committed, whole run": rate("committed_audio_seconds_total"),
            "one decoder": f"{rate('decoded_audio_seconds_total')} / {rate('decode_busy_seconds_total')}",
            "one replica": f"{rate('recognised_audio_seconds_total')} / {rate('replica_busy_seconds_total')}",
        },
    ),
    ("Units left", "short", "Units that the run still has to do", {"left": f"sum({metric('units_left')})"}),
    (
        "Audio in and out",
        "none",
        "Seconds of audio per second: decoded, and committed by what became of it",
        {"decoded": rate("decoded_audio_seconds_total"), "{{state}}": rate("committed_audio_seconds_total", "state")},
    ),
    ("Units", "ops", "Units per second by what became of them", {"{{state}}": rate("units_total", "state")}),
    (
        "Dead letters and damaged recordings",
        "short",
        "Recordings of the last hour, by reason",
        {
            "{{state}} {{reason}}": "sum by (state, reason) (increase("
            f'ray_fullcanvas_recordings_total{{state!="transcribed",{CLUSTER}}}[1h]))'
        },
    ),
    (
        "Share of time that replicas wait",
        "percentunit",
        "Replicas that have nothing to do",
        {"waiting": f"{IDLE} / ({IDLE} + {BUSY})"},
    ),
    (
        "Canvas slots",
        "short",
        "Slots of all engines, and those that have a segment",
        {"slots": f"sum({metric('slots')})", "busy": f"sum({metric('slots_busy')})"},
    ),
    (
        "Row-steps",
        "ops",
        "Denoising steps of rows per second: needed by a segment, and computed",
        {"{{kind}}": rate("row_steps_total", "kind")},
    ),
    (
        "Denoising steps of a segment",
        "none",
        "Of Whisper: tokens",
        {"median": quantile(0.5, "steps"), "95 %": quantile(0.95, "steps")},
    ),
    ("Overflows", "ops", "Segments per second that fill the longest canvas", {"overflows": rate("overflows_total")}),
    (
        "Queues",
        "short",
        "Pieces in front of engines, segments in engines, blocks between the stages (by Ray)",
        {
            "pieces": f"sum({metric('replica_queue')})",
            "segments": f"sum({metric('segments_in_engine')})",
            "{{operator}}": f"sum by (operator) (ray_data_operator_queued_blocks{{{CLUSTER}}})",
        },
    ),
    (
        "GPU memory",
        "bytes",
        "Reserved by torch, by stage",
        {"{{stage}}": f"sum by (stage) ({metric('gpu_memory_bytes')})"},
    ),
    (
        "Store: requests and repetitions",
        "ops",
        "Per second, by stage",
        {
            "{{stage}}": rate("store_requests_total", "stage"),
            "{{stage}} repeated, {{error}}": rate("store_retries_total", "stage, error"),
        },
    ),
    (
        "Store: latency, 95 %",
        "s",
        "From a request to its answer, repetitions included",
        {"{{stage}}": quantile(0.95, "store_seconds", "le, stage")},
    ),
    (
        "Commit: latency",
        "s",
        "Data files, then the conditional put",
        {"median": quantile(0.5, "commit_seconds"), "95 %": quantile(0.95, "commit_seconds")},
    ),
]


def panel(number: int, title: str, unit: str, about: str, queries: dict[str, str]) -> dict[str, Any]:
    """A time series, two in a row of the dashboard."""
    targets = [
        {"datasource": SOURCE, "expr": expression, "legendFormat": legend, "refId": chr(ord("A") + index)}
        for index, (legend, expression) in enumerate(queries.items())
    ]
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": title,
        "description": about,
        "datasource": SOURCE,
        "gridPos": {"h": 8, "w": 12, "x": 12 * (number % 2), "y": 8 * (number // 2)},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": targets,
    }


def dashboard() -> dict[str, Any]:
    """The whole dashboard, in Grafana's JSON model."""
    known = "label_values(ray_fullcanvas_units_left, ray_io_cluster)"
    cluster = {"name": "Cluster", "type": "query", "datasource": SOURCE, "query": known, "allValue": ".*"}
    return {
        "uid": "rayFullcanvasDashboard",
        "title": "fullcanvas",
        "tags": ["ray", "fullcanvas"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus", "hide": 2},
                cluster
                | {"includeAll": True, "multi": True, "refresh": 2, "current": {"text": "All", "value": "$__all"}},
            ]
        },
        "panels": [panel(number, *about) for number, about in enumerate(PANELS)],
    }


def text() -> str:
    """The content of the file."""
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
