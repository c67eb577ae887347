"""The description of the service: complete, in the guide, and true whatever is sent."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance
from starlette.testclient import TestClient

from services._problems import MEDIA_TYPE
from services.lab.app import create_app
from tests.services.lab.conftest import Place
from tests.services.lab.made import FakeCluster, lab_of

GUIDE = (Path(__file__).parents[3] / "docs" / "experiments.md").read_text()
OPEN = {"/healthz", "/readyz"}


@pytest.fixture
def description(client: TestClient) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/openapi.json").json()
    return found


def test_every_route_is_described_and_in_the_guide(description: dict[str, Any]) -> None:
    names = set(re.findall(r"#/components/schemas/([\w-]+)", json.dumps(description)))
    assert names <= set(description["components"]["schemas"])
    for path, methods in description["paths"].items():
        assert f"{path}`" in GUIDE, path
        for operation in methods.values():
            assert operation["summary"]
            assert operation["description"]
            errors = {status: one for status, one in operation["responses"].items() if not status.startswith("2")}
            assert all(set(error["content"]) == {MEDIA_TYPE} for error in errors.values())
            assert ("security" in operation) == (path not in OPEN)


def test_every_setting_is_in_the_guide() -> None:
    from services.lab.settings import Experiments

    named = {"storage": "FCN_STORAGE", "tokens": "FCN_SERVE_TOKENS"}
    for name in Experiments.model_fields:
        assert f"`{named.get(name, f'FCN_EXPERIMENTS_{name.upper()}')}`" in GUIDE


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_no_request_finds_a_contradiction(place: Place, cluster: FakeCluster) -> None:
    app = create_app(lab_of(place.folder, cluster))
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    operations = [found.ok() for found in schema.get_all_operations()]  # type: ignore[union-attr] # none is invalid.
    assert {operation.path for operation in operations} == set(app.openapi()["paths"])
    for operation in operations:
        send(operation)


def send(operation: Any) -> None:  # noqa: ANN401 -- schemathesis is not typed here.
    @given(case=operation.as_strategy())
    @settings(max_examples=25, deadline=None, suppress_health_check=[*HealthCheck], phases=[Phase.generate])
    def without_contradiction(case: Any) -> None:  # noqa: ANN401
        # What a schema allows need not be there; tokens are for test_acting.py.
        beyond = [positive_data_acceptance, ignored_auth]
        case.call_and_validate(headers={"host": "127.0.0.1"}, excluded_checks=beyond)

    without_contradiction()
