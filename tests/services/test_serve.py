"""The service as people start it."""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import numpy as np
import pytest

from fcn_core.predict import Predictor
from fcn_core.registry.store import MODELS, Registry
from services.client import Client
from tests.registry.made import NAME, Made, made_champion
from tests.services.server import running, with_haproxy, without_haproxy
from tests.services.serving import Pixels, scene

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """Sockets have paths of at most 107 bytes, too few for pytest's own folders."""
    with tempfile.TemporaryDirectory(prefix="fcn") as name:
        yield Path(name)


@pytest.mark.parametrize("proxy", [without_haproxy, with_haproxy], ids=lambda proxy: proxy.__name__)
def test_a_champion_is_served_and_a_new_one_taken_up_without_a_failed_request(
    ray_folder: Path, tmp_path: Path, made: Made, other: Made, proxy: Callable[[Path], dict[str, str]]
) -> None:
    registry, image = Registry(str(tmp_path / MODELS)), scene(33, 47)
    made_champion(registry, made.candidate())

    def expected(number: int) -> Pixels:
        return np.asarray(Predictor.load(registry.place(NAME, number)).labels(image))

    with running(ray_folder, tmp_path, proxy(ray_folder)) as server, Client(server.url, retries=0) as client:
        assert np.array_equal(client.mask(image), expected(1))
        version = registry.pack(NAME, other.candidate())
        registry.crown(version, registry.champion(NAME), "a test")
        masks = {number: expected(number) for number in (1, 2)}
        seen: list[int] = []
        deadline = time.monotonic() + 60
        while (not seen or seen[-1] == 1) and time.monotonic() < deadline:
            found = client.segment(image)
            seen.append(found.model.version)
            assert np.array_equal(found.labels, masks[found.model.version])
        assert seen[-1] == 2
        assert seen == sorted(seen)
        answer = httpx2.post(f"{server.url}/v1/segment", content=b"no image", headers={"x-request-id": "mine"})
        assert answer.status_code == 415
        assert answer.json()["request_id"] == "mine"
        assert answer.headers.get_list("x-request-id") == ["mine"]
        page = httpx2.get(f"{server.url}/")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert page.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
        assert httpx2.get(f"{server.url}/static/segmentation/page.js").status_code == 200
        assert httpx2.get(f"{server.url}/v1/receptive-fields").json() == {"receptive_fields": []}
