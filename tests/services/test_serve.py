"""The service as people start it."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import numpy as np
import pytest
import yaml

from fcn_core.predict import Predictor
from fcn_core.registry.store import MODELS, Registry
from services.client import Client
from tests.jobs.commands import ROOT, free_port, processes_of
from tests.registry.made import NAME, Made, made_champion
from tests.services.serving import Pixels, scene

SERVE = str(Path(sys.executable).with_name("serve"))
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """Sockets have paths of at most 107 bytes, too few for pytest's own folders."""
    with tempfile.TemporaryDirectory(prefix="fcn") as name:
        yield Path(name)


def without_haproxy(_: Path) -> dict[str, str]:
    return {}


def with_haproxy(folder: Path) -> dict[str, str]:
    ports = {"STATS_PORT": free_port(), "METRICS_PORT": free_port()}
    places = {"CONFIG_FILE_LOC": "haproxy.cfg", "SOCKET_PATH": "admin.sock", "METRICS_SOCKET_PATH": "metrics.sock"}
    values = {name: str(port) for name, port in ports.items()}
    values |= {name: str(folder / "ha" / place) for name, place in places.items()}
    values |= {"SERVER_STATE_BASE": str(folder / "ha"), "SERVER_STATE_FILE": str(folder / "ha" / "state")}
    return {f"RAY_SERVE_HAPROXY_{name}": value for name, value in values.items()} | {"RAY_SERVE_ENABLE_HA_PROXY": "1"}


@contextmanager
def running(folder: Path, lab: Path, more: dict[str, str]) -> Iterator[str]:
    """Start the service as its configuration file says, but for the port, and give its URL."""
    configuration = yaml.safe_load((ROOT / "services" / "segmentation.yaml").read_text())
    port = configuration["http_options"]["port"] = free_port()
    (folder / "segmentation.yaml").write_text(yaml.safe_dump(configuration))
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(folder),
        "RAY_TMPDIR": str(folder),
        "RAY_USAGE_STATS_ENABLED": "0",
        "FCN_STORAGE": str(lab),
        "FCN_SERVE_REFRESH_S": "1",
    }
    command = [SERVE, "run", str(folder / "segmentation.yaml")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment | more, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(url, lambda: process.poll() is None, folder / "log")
        yield url
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
        left = processes_of(folder)
        for _ in range(100):
            if not (left := processes_of(folder)):
                break
            time.sleep(0.3)
        for number in left:
            os.kill(number, signal.SIGKILL)


def wait_for(url: str, alive: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and alive():
        try:
            if httpx2.get(f"{url}/readyz", timeout=5).status_code == 200:
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.5)
    raise AssertionError(log.read_text()[-3000:])


@pytest.mark.parametrize("proxy", [without_haproxy, with_haproxy], ids=lambda proxy: proxy.__name__)
def test_a_champion_is_served_and_a_new_one_taken_up_without_a_failed_request(
    ray_folder: Path, tmp_path: Path, made: Made, other: Made, proxy: Callable[[Path], dict[str, str]]
) -> None:
    registry, image = Registry(str(tmp_path / MODELS)), scene(33, 47)
    made_champion(registry, made.candidate())

    def expected(number: int) -> Pixels:
        return np.asarray(Predictor.load(registry.place(NAME, number)).labels(image))

    with running(ray_folder, tmp_path, proxy(ray_folder)) as url, Client(url, retries=0) as client:
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
        answer = httpx2.post(f"{url}/v1/segment", content=b"no image", headers={"x-request-id": "mine"})
        assert answer.status_code == 415
        assert answer.json()["request_id"] == "mine"
        assert answer.headers.get_list("x-request-id") == ["mine"]
        page = httpx2.get(f"{url}/")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert page.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
        assert httpx2.get(f"{url}/static/segmentation/page.js").status_code == 200
        assert httpx2.get(f"{url}/v1/receptive-fields").json() == {"receptive_fields": []}
