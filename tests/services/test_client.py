from collections.abc import Callable
from pathlib import Path

import httpx2
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from services._service import Service
from services.client import Client, ServiceError
from tests.services.serving import encoded, scene


class ToApp(httpx2.BaseTransport):
    """Carries requests into the application."""

    def __init__(self, client: TestClient) -> None:
        self._client = client

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        answer = self._client.request(
            request.method, str(request.url), content=request.read(), headers=dict(request.headers)
        )
        return httpx2.Response(answer.status_code, headers=answer.headers, content=answer.content)


@pytest.fixture
def ours(client: TestClient) -> Client:
    return Client(transport=ToApp(client))


def test_masks_and_confidence_are_arrays(ours: Client, service: Service) -> None:
    image = scene(33, 47)
    found = ours.segment(image)
    expected = service.models.champion.predictor.labels(image).numpy()
    assert np.array_equal(found.labels, expected)
    assert np.array_equal(ours.mask(image), expected)
    assert found.confidence.shape == (33, 47)
    assert (found.model.name, found.model.version) == ("streets", 2)
    assert found.model.weights == service.models.champion.version.weights
    assert ours.segment(image, version=1).model.version == 1


def test_pictures_are_arrays_files_or_their_contents(ours: Client, tmp_path: Path) -> None:
    image = scene()
    Image.fromarray(image).save(tmp_path / "street.png")
    expected = ours.mask(image)
    for picture in (tmp_path / "street.png", str(tmp_path / "street.png"), encoded(image)):
        assert np.array_equal(ours.mask(picture), expected)


def test_several_pictures_are_answered_in_order(ours: Client) -> None:
    pictures = [scene(32 + number, 40, number) for number in range(3)]
    for found, picture in zip(ours.segment_batch(pictures), pictures, strict=True):
        alone = ours.segment(picture)
        assert np.array_equal(found.labels, alone.labels)
        assert np.array_equal(found.confidence, alone.confidence)
        assert found.model == alone.model


def test_descriptions_are_typed(ours: Client) -> None:
    found, mask = ours.describe(scene()), ours.mask(scene())
    for one in found.classes:
        if one.rle is not None:
            assert np.array_equal(one.rle.mask(), mask == one.label)
    assert [model.version for model in ours.models()] == [2, 1]


def test_errors_say_what_the_service_said(ours: Client) -> None:
    with pytest.raises(ServiceError, match="415: the image is not JPEG") as caught:
        ours.mask(b"no image")
    assert caught.value.status == 415
    assert caught.value.request_id


def answering(*answers: httpx2.Response | Exception) -> tuple[Client, list[httpx2.Request]]:
    seen: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        found = answers[len(seen) - 1]
        if isinstance(found, Exception):
            raise found
        return found

    return Client(token="secret", transport=httpx2.MockTransport(answer)), seen  # noqa: S106 -- of nobody.


def models() -> httpx2.Response:
    return httpx2.Response(200, json={"models": [], "refused": []})


BUSY: list[Callable[[], httpx2.Response | Exception]] = [
    lambda: httpx2.Response(503, headers={"Retry-After": "0"}),
    lambda: httpx2.Response(429, headers={"Retry-After": "0"}),
    lambda: httpx2.Response(500, text="Internal Server Error", headers={"Retry-After": "0"}),
    lambda: httpx2.ConnectError("refused"),
    lambda: httpx2.RemoteProtocolError("closed"),
]


@pytest.mark.parametrize("busy", BUSY)
def test_a_busy_service_is_asked_twice_more(busy: Callable[[], httpx2.Response | Exception]) -> None:
    client, seen = answering(busy(), busy(), models())
    assert client.models() == []
    assert len(seen) == 3
    assert seen[0].headers["authorization"] == "Bearer secret"
    client, seen = answering(*[busy()] * 3)
    with client, pytest.raises((ServiceError, httpx2.TransportError)):
        client.models()
    assert len(seen) == 3


def test_mistakes_are_not_repeated() -> None:
    client, seen = answering(httpx2.Response(500, json={}, headers={"content-type": "application/problem+json"}))
    with pytest.raises(ServiceError, match="500"):
        client.models()
    assert len(seen) == 1
    client, seen = answering(httpx2.Response(404, text="a proxy's own page", headers={"X-Request-ID": "7"}))
    with pytest.raises(ServiceError, match=r"404: a proxy's own page \(request 7\)"):
        client.models()
    assert len(seen) == 1
