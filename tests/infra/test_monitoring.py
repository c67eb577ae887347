"""infra/monitoring: rules and dashboards ask for nothing that is not told."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import ray.dashboard
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from prometheus_client import Counter, Gauge, Histogram

from jobs._metrics import RUN, SWEEP
from services._metrics import Metrics
from tests.infra.conftest import ROOT, Program

FOLDER = ROOT / "infra" / "monitoring"
DASHBOARDS = sorted(FOLDER.glob("dashboards/*.json"))
EVERYWHERE = {"job", "instance"}
"""Labels that Prometheus adds."""


def known_metrics() -> dict[str, set[str]]:
    """Return the labels of each metric, by the name that Prometheus knows it by."""
    known = {f"ray_{name}": {"run"} for name in RUN} | {f"ray_{name}": {"sweep"} for name in SWEEP}
    known["ray_fcn_sweep_runs"] |= {"state"}
    for metric in {*Metrics()._registry._names_to_collectors.values()}:
        assert isinstance(metric, Counter | Gauge | Histogram)
        labels = set(metric._labelnames)
        match metric:
            case Counter():
                known[f"{metric._name}_total"] = labels
            case Gauge():
                known[metric._name] = labels
            case Histogram():
                known |= {f"{metric._name}_{part}": labels for part in ("sum", "count")}
                known[f"{metric._name}_bucket"] = labels | {"le"}
    # Ray's own: those that its own dashboards ask for.
    panels = (Path(ray.dashboard.__file__).parent / "modules/metrics/dashboards").glob("*_panels.py")
    rays = {name for panel in panels for name in re.findall(r"\bray_node_[a-z_]+\b", panel.read_text())}
    return known | {key: set[str]() for key in rays} | {"up": set[str](), "ALERTS": {"alertname"}}


KNOWN = known_metrics()


def selectors(expression: str) -> Iterator[promql_parser.VectorSelector]:
    """Yield everything in an expression that names a metric; raises if it is no PromQL."""
    found: list[promql_parser.VectorSelector] = []

    def visit(node: object) -> bool:
        if isinstance(node, promql_parser.MatrixSelector):
            found.append(node.vector_selector)
        elif isinstance(node, promql_parser.VectorSelector):
            found.append(node)
        return True

    promql_parser.walk(promql_parser.parse(expression), visit)
    yield from found


def check(expression: str) -> None:
    found = list(selectors(expression))
    assert found, expression
    for selector in found:
        assert selector.name in KNOWN, f"nobody tells {selector.name}"
        labels = {matcher.name for matcher in selector.matchers.matchers}
        assert labels <= KNOWN[selector.name] | EVERYWHERE, f"{selector.name} has no {labels}"


def expressions(dashboard: dict[str, Any]) -> Iterator[str]:
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield target["expr"].replace("$__rate_interval", "5m")
    for variable in dashboard["templating"]["list"][1:]:
        asked = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"])
        assert asked is not None
        assert asked[2] in KNOWN[asked[1]]
        yield asked[1]


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_dashboards_ask_for_what_is_told(path: Path) -> None:
    asked = list(expressions(json.loads(path.read_text())))
    assert len(asked) > 5
    for expression in asked:
        check(expression)


def test_whatever_is_told_is_shown() -> None:
    shown = {
        selector.name
        for path in DASHBOARDS
        for expression in expressions(json.loads(path.read_text()))
        for selector in selectors(expression)
        if selector.name is not None
    }
    ours = {
        name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") for name in KNOWN if "fcn_" in name
    }
    assert {name for name in ours if not any(one.startswith(name) for one in shown)} == set()


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_grafana_knows_each_field(path: Path) -> None:
    """What its model does not know does not come back."""
    register_default_plugins()
    ours = json.loads(path.read_text())
    theirs = json.loads(JSONEncoder().encode(Dashboard.from_json(ours)))
    assert list(lost(ours, theirs)) == []
    ours["panels"][0]["fieldConfigs"] = {}
    assert list(lost(ours, theirs)) == ["/panels/0/fieldConfigs"]
    places = [panel["gridPos"] for panel in ours["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    assert len({(place["x"], place["y"]) for place in places}) == len(places)
    assert len({panel["id"] for panel in ours["panels"]}) == len(places)


def lost(ours: object, theirs: object, place: str = "") -> Iterator[str]:
    if isinstance(ours, dict):
        for name, part in ours.items():
            if isinstance(theirs, dict) and name in theirs:
                yield from lost(part, theirs[name], f"{place}/{name}")
            else:
                yield f"{place}/{name}"
    elif isinstance(ours, list):
        assert isinstance(theirs, list)
        for number, (part, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from lost(part, other, f"{place}/{number}")
    elif ours != theirs:
        yield place


def test_alerts_ask_for_what_is_told_and_say_what_to_do() -> None:
    for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]:
        for rule in group["rules"]:
            check(rule["expr"])
            assert set(rule["annotations"]) == {"summary", "next"}


def test_a_name_that_nobody_tells_is_found() -> None:
    with pytest.raises(AssertionError, match="nobody tells ray_fcn_train_los"):
        check("sum(rate(ray_fcn_train_los[5m]))")
    with pytest.raises(AssertionError, match="has no"):
        check('fcn_requests_total{code="500"}')


@pytest.mark.parametrize(
    "command",
    [
        ["check", "config", "--syntax-only", "prometheus.yml"],
        ["check", "config", "--syntax-only", "kubernetes.yml"],
        ["check", "rules", "alerts.yml"],
        ["test", "rules", "alerts.test.yml"],
    ],
    ids=" ".join,
)
def test_promtool_agrees(program: Program, command: list[str]) -> None:
    promtool = program("promtool")
    done = subprocess.run([promtool, *command], cwd=FOLDER, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested() -> None:
    alerts = re.findall(r"alert: (\w+)", (FOLDER / "alerts.yml").read_text())
    tested = (FOLDER / "alerts.test.yml").read_text()
    assert [alert for alert in alerts if alert not in tested] == []
