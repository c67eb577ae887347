"""The service does what its description says, whatever is sent."""

from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
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


@pytest.mark.parametrize("guarded", [False, True])
def test_no_request_finds_a_contradiction(lab: Path, tmp_path: Path, guarded: bool) -> None:
    write(tmp_path / "tokens.json", alice=TOKEN)
    app = create_app(serving(lab, tokens=str(tmp_path / "tokens.json") if guarded else None))
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    operations = [found.ok() for found in schema.get_all_operations()]  # type: ignore[union-attr] # none is invalid.
    assert {operation.path for operation in operations} == set(app.openapi()["paths"])
    for operation in operations:
        send(operation, {"host": "127.0.0.1"} | ({"authorization": f"Bearer {TOKEN}"} if guarded else {}))


def send(operation: Any, headers: dict[str, str]) -> None:  # noqa: ANN401 -- schemathesis is not typed here.
    @given(case=operation.as_strategy())
    @settings(max_examples=60, deadline=None, suppress_health_check=[*HealthCheck], phases=[Phase.generate])
    def without_contradiction(case: Any) -> None:  # noqa: ANN401
        case.call_and_validate(headers=headers, excluded_checks=BEYOND)

    without_contradiction()
