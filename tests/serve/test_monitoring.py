"""Dashboard and alert rules: they parse, and ask for what the server tells."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

import serve
from tests.serve.servers import ScriptedTranslator, running, settings_for_tests
from tests.serve.test_metrics import CONTRACT

FOLDER: Final = Path(serve.__file__).parent / "monitoring"
DASHBOARD: Final = json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))
RULES: Final = yaml.safe_load((FOLDER / "alerts.yaml").read_text(encoding="utf-8"))["groups"][0]["rules"]
FROM_PROMETHEUS: Final = {"instance", "job", "le"}  # labels that no application sets itself


def queries() -> Iterator[tuple[str, str]]:
    """Where it stands, and what is asked."""
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"].replace("$__rate_interval", "5m").replace("$instance", ".*")
    for rule in RULES:
        yield rule["alert"], rule["expr"]


@pytest.fixture(scope="module")
def told() -> set[str]:
    """Every name of a series that a server exposes, of families without a series yet too."""
    with running(settings_for_tests(), ScriptedTranslator("Hallo")) as server:
        text = httpx.get(f"{server.url}/metrics").text
    suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "gauge": [""]}
    families = list(text_string_to_metric_families(text))
    return {family.name + suffix for family in families for suffix in suffixes[family.type]}


def parts(query: str) -> list[promql_parser.Expr]:
    """All expressions within an expression."""
    found: list[promql_parser.Expr] = []
    promql_parser.walk(promql_parser.parse(query), found.append)
    return found


def asked(query: str) -> Iterator[tuple[str, set[str]]]:
    """The series that a query selects, with the labels by which it does."""
    for part in parts(query):
        if isinstance(part, promql_parser.MatrixSelector):
            part = part.vector_selector
        if isinstance(part, promql_parser.VectorSelector):
            yield part.name or "", {matcher.name for matcher in part.matchers.matchers}


@pytest.mark.parametrize(("place", "query"), list(queries()))
def test_every_query_asks_for_what_the_server_tells(place: str, query: str, told: set[str]) -> None:
    selected = list(asked(query))
    assert selected, place
    for name, labels in selected:
        assert name in told, f"{place}: {name}"
        known = CONTRACT.get(re.sub(r"_(total|bucket|sum|count)$", "", name), ("", set()))[1]
        assert labels <= known | FROM_PROMETHEUS, f"{place}: {labels}"
    for part in parts(query):
        if isinstance(part, promql_parser.AggregateExpr) and part.modifier:
            everywhere = set().union(*(labels for _, labels in CONTRACT.values()))
            assert set(part.modifier.labels) <= everywhere | FROM_PROMETHEUS, place


def test_every_metric_of_the_contract_is_on_the_dashboard_or_in_a_rule() -> None:
    names = {name for _, query in queries() for name, _ in asked(query)}
    unseen = [name for name in CONTRACT if not any(shown.startswith(name) for shown in names)]
    assert not unseen


def test_rules_say_what_to_do() -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"\d+m", rule["for"])
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert set(rule["annotations"]) == {"summary", "description"}
        by = {label for part in parts(rule["expr"]) for label in _grouped_by(part)}
        named = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        assert named <= (by or FROM_PROMETHEUS)


def test_quantiles_keep_the_buckets_bounds() -> None:
    for place, query in queries():
        if "histogram_quantile" in query:
            assert any("le" in _grouped_by(part) for part in parts(query)), place


def test_the_dashboard_can_be_imported() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert set(re.findall(r"\$\{?([a-z]+)", json.dumps(DASHBOARD))) <= variables | {"labels"}
    cells: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["title"]
        assert panel["description"]
        place: dict[str, int] = panel["gridPos"]
        taken = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not taken & cells, panel["title"]
        assert max(x for x, _ in taken) < 24
        cells |= taken


def _grouped_by(part: Any) -> list[str]:
    return part.modifier.labels if isinstance(part, promql_parser.AggregateExpr) and part.modifier else []
