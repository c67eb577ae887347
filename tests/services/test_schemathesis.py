"""The service does what its description says, whatever is sent."""

from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance

from services._app import create_app
from tests.services.serving import serving
from tests.services.test_access import write

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


BEYOND = [
    # That bytes are an image is nothing that a schema can say.
    positive_data_acceptance,
    # It would leave the token out, but not out of our headers; tests/services/test_access.py does.
    ignored_auth,
]
TOKEN = "fcn_" + "t" * 40
HOST = {"host": "127.0.0.1"}


@pytest.fixture(params=[False, True], ids=["open", "guarded"])
def guarded(request: pytest.FixtureRequest, lab: Path, tmp_path: Path) -> tuple[Any, dict[str, str]]:
    """The description of the service, without and with tokens, and the headers that it wants."""
    write(tmp_path / "tokens.json", alice=TOKEN)
    app = create_app(serving(lab, tokens=str(tmp_path / "tokens.json") if request.param else None))
    headers = HOST | ({"authorization": f"Bearer {TOKEN}"} if request.param else {})
    return schemathesis.openapi.from_asgi("/openapi.json", app), headers


@pytest.mark.parametrize("mode", GenerationMode)
def test_no_request_finds_a_contradiction(guarded: tuple[Any, dict[str, str]], mode: GenerationMode) -> None:
    schema, headers = guarded
    operations = [found.ok() for found in schema.get_all_operations()]
    assert {operation.path for operation in operations} == set(schema.raw_schema["paths"])
    # Any text may be the name in a path: what can be wrong is in a query or a body.
    chosen = [one for one in operations if mode is GenerationMode.POSITIVE or one.query or one.body]
    assert {one.path for one in chosen} >= {"/v1/segment", "/v1/segment:batch", "/v1/models/{name}/example"}
    for operation in chosen:
        send(operation, headers, mode)


def send(operation: Any, headers: dict[str, str], mode: GenerationMode) -> None:  # noqa: ANN401 -- it is not typed here.
    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=40, deadline=None, suppress_health_check=[*HealthCheck], phases=[Phase.generate])
    def without_contradiction(case: Any) -> None:  # noqa: ANN401
        # What was left out on purpose stays out.
        sent = headers if "Authorization" in (case.headers or {}) else HOST
        case.call_and_validate(headers=sent, excluded_checks=BEYOND)

    without_contradiction()
