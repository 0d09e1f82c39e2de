"""Alerts and dashboard speak of metrics that exist, with labels that they have."""

import json
import re
import shutil
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.fixtures.api import Api
from tests.fixtures.compose import ROOT
from tests.fixtures.queue import insert_job

ALERTS = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())["groups"][0]["rules"]
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "dianda.json").read_text())
EXPRESSIONS = [
    *((rule["alert"], rule["expr"]) for rule in ALERTS),
    *((panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel["targets"]),
]
# Prometheus's own, and the labels that it adds.
_ITS_OWN, _ITS_LABELS = {"up"}, {"job", "instance", "le"}
_SELECTOR = re.compile(r"\b((?:dianda|process)_[a-z_]+|up)\b(?:\{([^}]*)\})?")


@pytest.fixture
def exposed(api: Api) -> dict[str, set[str]]:
    """Every sample name that the api exposes, with its labels; a request and a job have come before."""
    insert_job(api.engine)
    api.client.get("/v1/files")
    families = list(text_string_to_metric_families(api.client.get("/metrics").text))
    found = {sample.name: set(sample.labels) for family in families for sample in family.samples}
    # A labelled metric that has counted nothing yet has a type and no sample.
    for family in families:
        for suffix in {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""]):
            found.setdefault(family.name + suffix, set())
    return found


@pytest.mark.parametrize(("name", "expression"), EXPRESSIONS)
def test_every_metric_of_an_expression_exists(exposed: dict[str, set[str]], name: str, expression: str) -> None:
    used = {match[0] for match in _SELECTOR.findall(expression)} - _ITS_OWN
    assert used or "up" in expression
    assert used <= set(exposed), f"{name}: {sorted(used - set(exposed))}"


@pytest.mark.parametrize(("name", "expression"), EXPRESSIONS)
def test_every_label_of_a_selector_exists(exposed: dict[str, set[str]], name: str, expression: str) -> None:
    for metric, selector in _SELECTOR.findall(expression):
        labels = set(re.findall(r"(\w+)\s*[=!]~?\s*\"", selector)) - _ITS_LABELS
        if exposed.get(metric):
            assert labels <= exposed[metric], f"{name}: {metric} has {sorted(exposed[metric])}"


@pytest.mark.parametrize(("name", "expression"), EXPRESSIONS)
def test_brackets_are_closed(name: str, expression: str) -> None:
    for opening, closing in ("()", "[]", "{}"):
        assert expression.count(opening) == expression.count(closing)


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_is_wrong_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["annotations"]["summary"].endswith(".")
    assert rule["annotations"]["action"]
    assert rule["labels"]["severity"] in ("page", "ticket")


def test_panels_have_numbers_of_their_own_and_do_not_overlap() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == len(panels)


def test_every_metric_is_told_of_in_the_docs(exposed: dict[str, set[str]]) -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    ours = {re.sub(r"_(bucket|sum|count|created)$", "", name) for name in exposed if name.startswith("dianda_")}
    assert {name for name in ours if name not in page} == set()


def test_the_gauges_count_jobs_waits_and_free_bytes(api: Api) -> None:
    insert_job(api.engine)
    text = api.client.get("/metrics").text
    assert 'dianda_jobs{status="queued"} 1.0' in text
    assert "dianda_workers 0.0" in text
    (waited,) = re.findall(r"^dianda_oldest_due_job_seconds (\S+)$", text, re.MULTILINE)
    assert 0 <= float(waited) < 60
    (free,) = re.findall(r"^dianda_data_free_bytes (\S+)$", text, re.MULTILINE)
    assert 0 < float(free) <= shutil.disk_usage(api.settings.data_dir).total
