"""What the tests of the service have in common."""

import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import uvicorn
from numpy.typing import NDArray
from PIL import Image
from starlette.testclient import TestClient
from starlette.types import ASGIApp

from fcn_core.data.streets import StreetScenes
from fcn_core.settings import Streets
from services._app import create_app
from services._problems import MEDIA_TYPE
from services._service import Service
from services._settings import Serving

Pixels = NDArray[np.uint8]


def serving(lab: Path, **changes: object) -> Service:
    return Service(Serving.model_validate({"storage": str(lab)} | changes), "cpu")


def client_of(service: Service, *, raises: bool = True) -> TestClient:
    return TestClient(create_app(service), base_url="http://127.0.0.1", raise_server_exceptions=raises)


def scene(height: int = 40, width: int = 48, number: int = 0) -> Pixels:
    return (
        StreetScenes(Streets(num_val=8, height=max(height, 32), width=max(width, 32)), "val")
        .read(number)
        .image[:height, :width]
    )


def encoded(image: Pixels, kind: str = "PNG", **options: Any) -> bytes:  # noqa: ANN401 -- as Pillow takes them.
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, **options)
    return file.getvalue()


def opened(contents: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(contents))
    image.load()
    return image


def arrays(contents: bytes) -> dict[str, NDArray[Any]]:
    with np.load(io.BytesIO(contents), allow_pickle=False) as found:
        return dict(found)


def problem(answer: httpx2.Response, status: int) -> str:
    """Check that an answer is a problem of this status, and return what is wrong."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == MEDIA_TYPE
    found = answer.json()
    assert set(found) == {"type", "title", "status", "detail", "request_id"}
    assert found["status"] == status
    assert found["request_id"] == answer.headers["x-request-id"]
    return str(found["detail"])


@contextmanager
def held_up(service: Service) -> Iterator[threading.Event]:
    """Keep the network of the champion waiting until the event that is given is set, at the latest at the end."""
    go = threading.Event()

    def wait(*_: object) -> None:
        assert go.wait(60)

    hook = service.models.champion.predictor.network.register_forward_pre_hook(wait)
    try:
        yield go
    finally:
        go.set()
        hook.remove()


@contextmanager
def listening(app: ASGIApp) -> Iterator[str]:
    """Serve an application on a free port of this machine, and give its URL."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started:
        assert thread.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(60)
