"""Dashboard and alerts use only metrics and labels that exist."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
METRICS: dict[str, list[str]] = json.loads(
    (Path(__file__).parent / "metric_names.json").read_text()
)
"""Metric → labels; histograms without their suffix.  The api's tests compare it with the page."""
EVERYWHERE = {"le", "job", "instance", "process"}


def dashboard_expressions() -> list[str]:
    panels = json.loads((DEPLOY / "grafana/dashboards/jeep.json").read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


def alert_expressions() -> list[str]:
    groups = yaml.safe_load((DEPLOY / "prometheus/alerts.yaml").read_text())["groups"]
    return [rule["expr"] for group in groups for rule in group["rules"]]


@pytest.mark.parametrize("expression", dashboard_expressions() + alert_expressions())
def test_every_expression_names_known_metrics_and_labels(expression: str) -> None:
    asked = re.findall(r"\b(?:jeep|process)_\w+", expression)
    metrics = [re.sub(r"_(sum|count|bucket)$", "", name) for name in asked]
    assert {*metrics} <= METRICS.keys()
    labels = {label for name in metrics for label in METRICS[name]} | EVERYWHERE
    grouped = re.findall(r"by \(([^)]*)\)", expression)
    selected = re.findall(r"\{(\w+)=", expression)
    assert {*", ".join([*grouped, *selected]).split(", ")} - {""} <= labels


def test_the_dashboard_shows_every_metric() -> None:
    shown = " ".join(dashboard_expressions())
    assert [name for name in METRICS if name not in shown] == []


def test_panels_do_not_overlap() -> None:
    panels = json.loads((DEPLOY / "grafana/dashboards/jeep.json").read_text())["panels"]
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len({*cells})
    assert max(x for x, _ in cells) < 24


def test_the_dashboard_is_provisioned_with_its_source() -> None:
    provisioning = DEPLOY / "grafana/provisioning"
    [source] = yaml.safe_load((provisioning / "datasources/prometheus.yaml").read_text())[
        "datasources"
    ]
    [provider] = yaml.safe_load((provisioning / "dashboards/jeep.yaml").read_text())["providers"]
    panels = json.loads((DEPLOY / "grafana/dashboards/jeep.json").read_text())["panels"]
    assert {panel["datasource"]["uid"] for panel in panels} == {source["uid"]}
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    mounts = compose["services"]["grafana"]["volumes"]
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in mounts
