"""What is documented works: the commands of the guides, the examples of the description, and clients made from it."""

import importlib
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from starlette.testclient import TestClient

from services._app import create_app
from services._schemas import RunLengths, Segmentation
from services._segment import BATCH, SEGMENT
from services._service import Service
from tests.jobs.commands import ROOT
from tests.services.serving import encoded, listening, opened, scene

IMAGE = scene()
CONTENTS = {f"image/{kind.lower()}": encoded(IMAGE, kind) for kind in ("JPEG", "PNG", "WEBP")}
PNG = CONTENTS["image/png"]
GUIDES = {"README.md": 2, "docs/serving.md": 1}
"""And how many of their lines are requests with curl."""


@pytest.fixture(scope="module")
def url(service: Service) -> Iterator[str]:
    with listening(create_app(service)) as url:
        yield url


@pytest.mark.parametrize(("guide", "number"), GUIDES.items())
def test_commands_of_the_guides_work(url: str, service: Service, tmp_path: Path, guide: str, number: int) -> None:
    (tmp_path / "street.png").write_bytes(encoded(IMAGE))
    commands = re.findall(r"^curl .*/v1/segment.*$", (ROOT / guide).read_text(), re.MULTILINE)
    assert len(commands) == number
    for command in commands:
        arguments = shlex.split(command.replace("127.0.0.1:8000", url.removeprefix("http://")), comments=True)
        told = [*arguments, "-s", "-w", "%{http_code} %{content_type}"]
        done = subprocess.run(told, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60)
        assert done.stdout == "200 image/png"
        mask = np.asarray(opened((tmp_path / "mask.png").read_bytes()))
        assert np.array_equal(mask, service.models.champion.predictor.labels(IMAGE).numpy())


@pytest.mark.parametrize("path", [SEGMENT, BATCH])
def test_bodies_of_each_declared_kind_are_answered_in_each_declared_kind(client: TestClient, path: str) -> None:
    operation = client.get("/openapi.json").json()["paths"][path]["post"]
    (prefer,) = [one for one in operation["parameters"] if one["name"] == "prefer"]
    answers = operation["responses"]["200"]["content"]
    for kind, content in operation["requestBody"]["content"].items():
        for wanted in answers:
            headers = {"accept": wanted, "prefer": prefer["schema"]["examples"][0]}
            body = form(content["schema"]) if kind == "multipart/form-data" else {"content": CONTENTS.get(kind, PNG)}
            headers |= {} if "files" in body else {"content-type": kind}
            answer = client.post(path, headers=headers, **body)
            assert answer.status_code == 200, answer.text
            assert answer.headers["content-type"] == wanted.partition(";")[0]


def form(schema: dict[str, Any]) -> dict[str, Any]:
    ((name, _),) = schema["properties"].items()
    return {"files": {name: ("street.png", PNG)}}


@pytest.mark.parametrize(
    ("method", "path", "options"),
    [
        ("POST", SEGMENT, {"content": PNG}),
        ("POST", BATCH, {"files": {"images": ("street.png", PNG)}}),
        ("GET", "/v1/models/{name}", {}),
        ("GET", "/v1/models", {}),
        ("GET", "/v2/models/{name}", {}),
        ("GET", "/v2/models/{name}/ready", {}),
    ],
)
def test_answers_are_of_the_described_shape(
    client: TestClient, method: str, path: str, options: dict[str, Any]
) -> None:
    description = client.get("/openapi.json").json()
    responses = description["paths"][path][method.lower()]["responses"]
    headers = {"accept": "application/json"}
    answer = client.request(method, path.format(name="streets"), headers=headers, **options)
    assert answer.status_code == 200
    schema = responses["200"]["content"]["application/json"]["schema"] | {"components": description["components"]}
    validator = jsonschema.Draft202012Validator(schema)
    assert [error.message for error in validator.iter_errors(answer.json())] == []
    assert not validator.is_valid({})


def test_the_example_of_an_answer_is_one(client: TestClient) -> None:
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    found = Segmentation.model_validate(schemas["Segmentation"]["example"])
    assert re.fullmatch("[0-9a-f]{64}", found.model.weights)
    for one in found.classes:
        assert one.rle is not None
        assert one.rle.mask().shape == (found.height, found.width)
        assert one.rle.mask().mean() == one.share


def test_a_client_made_from_the_description_works(
    url: str, client: TestClient, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "openapi.json").write_text(json.dumps(client.get("/openapi.json").json()))
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--path", "openapi.json", "--meta", "none"]
    subprocess.run(
        [*command, "--output-path", "made_client"], cwd=tmp_path, capture_output=True, check=True, timeout=100
    )
    monkeypatch.syspath_prepend(tmp_path)
    made, types = importlib.import_module("made_client"), importlib.import_module("made_client.types")
    segment = importlib.import_module("made_client.api.segmentation.segment_v1_segment_post")
    several = importlib.import_module("made_client.api.segmentation.segment_batch_v1_segment_batch_post")
    form = importlib.import_module("made_client.models").SegmentBatchV1SegmentBatchPostBody
    listed = importlib.import_module("made_client.api.models.list_models_v1_models_get")
    expected = service.models.champion.predictor.labels(IMAGE).numpy()

    def file() -> Any:  # noqa: ANN401 -- of a module that is made here.
        return types.File(PNG, "street.png", "image/png")

    with made.Client(url, headers={"Accept": "application/json"}) as ours:
        assert [one.version for one in listed.sync(client=ours).models] == [2, 1]
        found = [segment.sync(client=ours, body=file())]
        found += several.sync(client=ours, body=form(images=[file(), file()])).images
        refused = segment.sync(client=ours, body=types.File(b"no image"))
    assert (refused.status, refused.title) == (415, "Unsupported Media Type")
    assert len(found) == 3
    for answer in found:
        assert answer.model.weights == service.models.champion.version.weights
        labels = np.full(expected.shape, 255)
        for one in answer.classes:
            if one.rle is not None:
                labels[RunLengths.model_validate(one.rle.to_dict()).mask()] = one.label
        assert np.array_equal(labels, expected)
