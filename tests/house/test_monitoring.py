"""Dashboard, rules and docs know the metrics that there are, and the rules fire when they must."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from infra.monitoring import dashboard
from pipeline.flow.metrics import METRICS
from tests.support import debian

ROOT = Path(__file__).parents[2]
RULES = ROOT / "infra/monitoring/rules.yaml"
PAGE = (ROOT / "docs/monitoring.md").read_text(encoding="utf-8")
SUFFIXES = {"counter": {"_total"}, "gauge": {""}, "histogram": {"_bucket", "_sum", "_count"}}
NAMES = {f"ray_fullcanvas_{name}{suffix}" for name, metric in METRICS.items() for suffix in SUFFIXES[metric.kind]}
OF_RAY = {"ray_data_operator_queued_blocks", "ray_io_cluster"}  # a metric and a label


def rules() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
    ]
    return found


def expressions() -> list[str]:
    panels = dashboard.dashboard()["panels"]
    return [rule["expr"] for rule in rules()] + [target["expr"] for one in panels for target in one["targets"]]


def test_the_dashboard_is_the_one_that_the_script_makes() -> None:
    assert dashboard.FILE.read_text(encoding="utf-8") == dashboard.text(), "python -m infra.monitoring.dashboard"


def test_dashboard_and_rules_name_only_metrics_and_labels_that_exist() -> None:
    for expression in expressions():
        named = set(re.findall(r"ray_\w+", expression))
        assert named
        assert named <= NAMES | OF_RAY
    labels = {label for one in METRICS.values() for label in one.tags} | {"ray_io_cluster", "le", "operator"}
    for expression in expressions():
        by = {name.strip() for group in re.findall(r"(?:by|on) \(([^)]*)\)", expression) for name in group.split(",")}
        assert by | set(re.findall(r'(\w+)[!=]~?"', expression)) <= labels


def test_the_dashboard_shows_every_metric() -> None:
    shown = " ".join(target["expr"] for one in dashboard.dashboard()["panels"] for target in one["targets"])
    assert [name for name in METRICS if f"ray_fullcanvas_{name}" not in shown] == []


def unknown(made: Any, read: Any, name: str = "") -> list[str]:
    """What Grafana's types do not keep of a dashboard."""
    if isinstance(made, dict) and isinstance(read, dict):
        return [one for key in made for one in unknown(made[key], read.get(key), f"{name}.{key}")]
    if isinstance(made, list) and isinstance(read, list) and len(made) == len(read):
        return [one for at, pair in enumerate(zip(made, read, strict=True)) for one in unknown(*pair, f"{name}.{at}")]
    return [] if made == read else [name]


def test_grafana_keeps_all_that_the_dashboard_says() -> None:
    """Read and written by the types that Grafana publishes; a misspelt key or a value of another type is lost there."""
    register_default_plugins()
    made = json.loads(dashboard.text())
    encoded = JSONEncoder().encode(Dashboard.from_json(json.loads(dashboard.text())))
    assert unknown(made, json.loads(encoded)) == []
    misspelt = json.loads(dashboard.text())
    misspelt["panels"][0]["fieldConfig"]["default"] = misspelt["panels"][0]["fieldConfig"].pop("defaults")
    encoded = JSONEncoder().encode(Dashboard.from_json(json.loads(json.dumps(misspelt))))
    assert unknown(misspelt, json.loads(encoded)) == [".panels.0.fieldConfig.default"]


def test_the_dashboard_is_one_that_grafana_reads() -> None:
    made = json.loads(dashboard.text())
    assert {"uid", "title", "schemaVersion", "panels", "templating", "time"} <= made.keys()
    variables = {one["name"] for one in made["templating"]["list"]}
    used = set(re.findall(r"\$\{?([A-Za-z]\w*)", json.dumps(made["panels"])))
    assert used == variables
    places = set()
    for one in made["panels"]:
        at = one["gridPos"]
        assert at["x"] + at["w"] <= 24
        places.add((at["x"], at["y"]))
        references = [target["refId"] for target in one["targets"]]
        assert len(set(references)) == len(references)
        assert one["type"] == "timeseries"
    assert len(places) == len(made["panels"]) == len({one["id"] for one in made["panels"]})


@pytest.mark.parametrize("name", METRICS)
def test_the_page_explains_each_metric(name: str) -> None:
    assert re.search(rf"^\| `{name}` \| {METRICS[name].kind} \|", PAGE, re.MULTILINE)


@pytest.mark.parametrize("rule", [rule for rule in rules() if "alert" in rule], ids=lambda rule: str(rule["alert"]))
def test_the_page_says_what_to_do_at_each_alert(rule: dict[str, Any]) -> None:
    assert f"### {rule['alert']}\n" in PAGE
    assert rule["annotations"]["runbook"] == f"docs/monitoring.md#{rule['alert'].lower()}"


def test_the_alerts_fire_when_they_must_and_are_silent_for_a_good_run() -> None:
    debian.install(("prometheus",), ("promtool",))
    done = subprocess.run(
        ["promtool", "test", "rules", ROOT / "infra/monitoring/rules_test.yaml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
