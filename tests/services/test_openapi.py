import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from services._app import create_app
from services._problems import MEDIA_TYPE
from services._service import Service
from tests.services.serving import client_of, encoded, opened, problem, scene, serving

IMAGE = encoded(scene())


@pytest.fixture(scope="module")
def description(client: TestClient) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/openapi.json").json()
    return found


def test_every_reference_leads_somewhere(description: dict[str, Any]) -> None:
    names = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(description)))
    assert {"ProblemDetails", "Segmentation", "Segmentations"} <= names
    assert names <= set(description["components"]["schemas"])


def test_every_route_and_format_is_in_the_guide(description: dict[str, Any]) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
    for path, methods in description["paths"].items():
        assert f"{re.sub('{(.+?)}', lambda found: found[1].upper(), path)}`" in guide
        for media_type in methods.get("post", {}).get("responses", {}).get("200", {}).get("content", {}):
            assert f"| `{media_type}`" in guide


def test_every_error_is_a_problem(description: dict[str, Any]) -> None:
    for path, methods in description["paths"].items():
        for operation in methods.values():
            assert operation["summary"]
            assert operation["description"]
            errors = {status: one for status, one in operation["responses"].items() if status != "200"}
            assert errors, path
            for error in errors.values():
                assert set(error["content"]) == {MEDIA_TYPE}


def test_routes_that_want_a_token_say_so(description: dict[str, Any]) -> None:
    closed = {path for path, methods in description["paths"].items() for one in methods.values() if "security" in one}
    assert closed == {
        *("/v1/segment", "/v1/segment:batch", "/v1/models", "/v1/models/{name}", "/metrics"),
        *("/v2/models/{name}", "/v2/models/{name}/ready", "/v1/models/{name}/example"),
        *("/v1/receptive-fields", "/v1/receptive-fields/{id}", "/v1/receptive-fields/{id}/{file}"),
    }


def test_examples_fit_their_schemas(description: dict[str, Any]) -> None:
    import jsonschema

    schemas = description["components"]["schemas"]
    with_example = [name for name, schema in schemas.items() if "example" in schema]
    assert {"ProblemDetails", "Segmentation"} <= set(with_example)
    for name in with_example:
        schema = {"$ref": f"#/components/schemas/{name}"} | description
        jsonschema.validate(schemas[name]["example"], schema)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    ("method", "path", "options", "status"),
    [
        ("POST", "/v1/segment", {"content": b"text"}, 415),
        ("POST", "/v1/segment", {"content": b""}, 422),
        ("POST", "/v1/segment", {"content": IMAGE, "headers": {"accept": "text/html"}}, 406),
        ("POST", "/v1/segment", {"content": IMAGE, "headers": {"host": "example.org"}}, 421),
        ("POST", "/v1/segment", {"content": IMAGE, "headers": {"prefer": "wait=0"}}, 504),
        ("POST", "/v1/segment", {"content": IMAGE, "headers": {"content-type": "multipart/form-data"}}, 400),
        ("POST", "/v1/segment", {"content": IMAGE, "params": {"version": 9}}, 404),
        ("POST", "/v1/segment", {"content": IMAGE, "params": {"version": 0}}, 422),
        ("POST", "/v1/segment", {"content": bytes(17 * 2**20)}, 413),
        ("POST", "/v1/segment:batch", {"files": {"no": "file"}, "headers": {"accept": "image/png"}}, 406),
        ("GET", "/v1/models/{name}", {}, 404),
        ("GET", "/v1/models/{name}/example", {}, 404),
        ("GET", "/v1/receptive-fields/{id}", {}, 404),
        ("GET", "/v1/receptive-fields/{id}/{file}", {}, 404),
        ("GET", "/v1/receptive-fields", {"headers": {"host": "example.org"}}, 421),
        ("GET", "/v2/models/{name}", {}, 404),
        ("GET", "/v2/models/{name}/ready", {}, 404),
        ("GET", "/v1/models", {"headers": {"host": "example.org"}}, 421),
        ("GET", "/metrics", {"headers": {"host": "example.org"}}, 421),
    ],
)
def test_what_comes_back_is_declared(
    client: TestClient, description: dict[str, Any], method: str, path: str, options: dict[str, Any], status: int
) -> None:
    answer = client.request(method, path.format(name="nobody", id="nobody", file="nothing.png"), **options)
    assert answer.status_code == status
    declared = description["paths"][path][method.lower()]["responses"]
    assert answer.headers["content-type"] in declared[str(status)]["content"]


def test_a_failure_is_a_problem_without_details(lab: Path) -> None:
    service = serving(lab)
    network = service.models.champion.predictor.network
    network.register_forward_pre_hook(lambda *_: 1 / 0)
    with client_of(service, raises=False) as client:
        answer = client.post("/v1/segment", content=IMAGE)
        assert answer.status_code == 500
        assert answer.json()["detail"] == "the service failed; its log says why, under this request_id"
        assert "division" not in answer.text
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.json()["request_id"] == answer.headers["x-request-id"]
        assert client.get("/readyz").status_code == 200


def test_a_failed_device_makes_the_service_unready(lab: Path) -> None:
    import torch

    service = serving(lab)

    def fail(*_: object) -> None:
        raise torch.AcceleratorError("an illegal memory access was encountered")

    service.models.champion.predictor.network.register_forward_pre_hook(fail)
    with client_of(service, raises=False) as client:
        assert client.post("/v1/segment", content=IMAGE).status_code == 500
        assert client.get("/readyz").status_code == 503
        assert client.get("/v2/health/ready").status_code == 503
        assert client.get("/healthz").status_code == 200


def test_too_little_memory_is_no_failure(lab: Path) -> None:
    import torch

    service = serving(lab)

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("tried to allocate")

    service.models.champion.predictor.network.register_forward_pre_hook(fail)
    with client_of(service, raises=False) as client:
        answer = client.post("/v1/segment", content=IMAGE)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


def test_every_response_has_an_id_and_security_headers(client: TestClient) -> None:
    for path in ("/healthz", "/v1/models", "/nothing", "/metrics", "/openapi.json"):
        headers = client.get(path).headers
        assert re.fullmatch(r"[0-9a-f-]{36}", headers["x-request-id"])
        assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers
    assert client.get("/healthz", headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
    assert client.get("/healthz", headers={"x-request-id": "a b" * 99}).headers["x-request-id"] != "a b" * 99


def test_web_sockets_are_refused(client: TestClient) -> None:
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/v1/segment"):
        pass


def test_behind_serve_problems_name_the_id_that_serve_sends_back(service: Service) -> None:
    client = TestClient(create_app(service, echo_request_id=False), base_url="http://127.0.0.1")
    answer = client.get("/nothing", headers={"x-request-id": "a b"})
    assert answer.json()["request_id"] == "a b"
    assert "x-request-id" not in answer.headers


def test_other_sites_may_not_ask(client: TestClient) -> None:
    preflight = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    answer = client.options("/v1/segment", headers=preflight)
    assert answer.status_code == 405
    assert "access-control-allow-origin" not in answer.headers


def test_models_are_described(client: TestClient, service: Service) -> None:
    version = service.models.champion.version
    listed = client.get("/v1/models").json()["models"]
    assert [(one["version"], one["champion"]) for one in listed] == [(2, True), (1, False)]
    assert listed[0] == client.get("/v1/models/streets").json()
    assert listed[0]["weights"] == version.weights
    assert listed[0]["classes"] == [*version.card.classes.names]
    assert listed[0]["rule"] == version.report.rule
    assert listed[0]["mean_iou"] == version.report.mean_iou_over_images.value
    assert listed[0]["preprocessing"] == "torchvision"


def test_versions_have_an_example(client: TestClient, service: Service) -> None:
    for served in service.models.all():
        answer = client.get("/v1/models/streets/example", params={"version": served.version.facts.version})
        assert answer.headers["content-type"] == "image/png"
        assert answer.headers["weights-sha256"] == served.version.weights
        assert np.array_equal(np.asarray(opened(answer.content)), served.version.example().image)
    assert client.get("/v1/models/streets/example").headers["model-version"] == "2"
    problem(client.get("/v1/models/streets/example", params={"version": 9}), 404)


def test_the_open_inference_protocol_can_probe(client: TestClient) -> None:
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get("/v2").json()["name"] == "fcn-lab"
    model = client.get("/v2/models/streets").json()
    assert (model["name"], model["versions"]) == ("streets", ["2", "1"])
    assert client.get("/v2/models/streets/ready").json() == {"ready": True}


def test_metrics_tell_of_requests_and_classes(client: TestClient, service: Service) -> None:
    client.post("/v1/segment", content=IMAGE)
    page = client.get("/metrics")
    assert page.headers["content-type"].startswith("text/plain")
    for name in (
        "fcn_requests_total",
        "fcn_request_seconds_bucket",
        "fcn_stage_seconds_bucket",
        "fcn_class_pixels_total",
    ):
        assert name in page.text
    weights = service.models.champion.version.weights
    assert f'fcn_model{{name="streets",version="2",weights="{weights}"}} 1.0' in page.text
    assert 'fcn_requests_total{method="POST",route="/v1/segment",status="200"}' in page.text
