"""The service as people start it, on a cluster with a token: from a submission to a champion, in a browser too."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from playwright.sync_api import expect, sync_playwright

from tests.jobs.commands import ROOT, TOKEN, Head, free_port, processes_of, ray_head
from tests.services.lab.test_page import CHROMIUM, FLAGS

SERVE = str(Path(sys.executable).with_name("serve"))
TINY = [
    *("streets", "--data.streets.num_train=12", "--data.streets.num_val=3", "--data.streets.height=40"),
    *("--data.streets.width=48", "--data.crop=32,40", "--model.width=0.06", "--model.fc_channels=8"),
    *("--optim.batch_size=4", "--workers", "1"),
]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """Sockets have paths of at most 107 bytes, too few for pytest's own folders."""
    with tempfile.TemporaryDirectory(prefix="fcn") as name:
        yield Path(name)


@pytest.fixture
def head(ray_folder: Path) -> Iterator[Head]:
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(ray_folder),
        "RAY_TMPDIR": str(ray_folder),
        "FCN_CACHE": str(ray_folder / "cache"),
    }
    with ray_head(environment) as head:
        yield head
    for number in processes_of(ray_folder):
        os.kill(number, signal.SIGKILL)


def deployed(folder: Path, head: Head, lab: Path) -> str:
    """Deploy the service as its configuration file says, but for the port and the storage, and return its URL."""
    configuration = yaml.safe_load((ROOT / "services" / "experiments.yaml").read_text())
    port = configuration["http_options"]["port"] = free_port()
    configuration["applications"][0]["args"] = {"storage": str(lab)}
    (folder / "experiments.yaml").write_text(yaml.safe_dump(configuration))
    command = [SERVE, "deploy", "--address", head.address, str(folder / "experiments.yaml")]
    done = subprocess.run(command, cwd=ROOT, env=head.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    url = f"http://127.0.0.1:{port}"
    wait_for(lambda: answers(url), lambda: json.dumps(head.get("api/serve/applications/"))[-3000:])
    return url


def answers(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/readyz", timeout=10).status_code == 200
    except httpx2.TransportError:
        return False


def wait_for(condition: Callable[[], bool], told: Callable[[], str]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline, told()
        time.sleep(0.5)


class Asking:
    """Asks the service, and takes no error for an answer."""

    def __init__(self, url: str) -> None:
        self._url = url

    def get(self, path: str) -> dict[str, Any]:
        answer = httpx2.get(f"{self._url}{path}", timeout=180)
        assert answer.status_code == 200, answer.text
        assert TOKEN not in answer.text
        return dict(answer.json())

    def post(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        answer = httpx2.post(f"{self._url}{path}", json=body, timeout=180)
        assert answer.is_success, answer.text
        return dict(answer.json())

    def submit(self, command: str, *arguments: str) -> str:
        return str(self.post("/v1/jobs", {"command": command, "arguments": [*arguments]})["job_id"])

    def log(self, job_id: str) -> str:
        return str(self.get(f"/v1/jobs/{job_id}/log")["text"])

    def follow(self, job_id: str) -> dict[str, Any]:
        """Return the job once it has ended, with all that it printed."""
        printed, offset, deadline = "", 0, time.monotonic() + 300
        while True:
            part = self.get(f"/v1/jobs/{job_id}/log?offset={offset}")
            printed, offset = printed + part["text"], part["next"]
            if part["job"]["status"] not in ("PENDING", "RUNNING"):
                return {**part["job"], "log": printed}
            assert time.monotonic() < deadline, printed
            time.sleep(1)


def test_a_training_is_submitted_followed_and_promoted_and_another_one_stopped(
    ray_folder: Path, head: Head, tmp_path: Path
) -> None:
    url = deployed(ray_folder, head, tmp_path / "lab")
    ask = Asking(url)
    trained = ask.follow(ask.submit("train_fcn8s", *TINY, "--optim.epochs=2"))
    assert trained["status"] == "SUCCEEDED", trained["log"]
    assert "epoch   2" in trained["log"]
    run = ask.get(f"/v1/runs/{trained['run_id']}")
    assert (run["finished"], len(run["history"])) == (True, 2)

    evaluated = ask.follow(ask.submit("evaluate", run["run_id"]))
    assert evaluated["status"] == "SUCCEEDED", evaluated["log"]
    promoted = ask.follow(ask.post("/v1/promotions", {"run_id": run["run_id"], "model": "streets"})["job_id"])
    assert promoted["status"] == "SUCCEEDED", promoted["log"]
    (packed,) = ask.get(f"/v1/runs/{run['run_id']}")["packed"]
    assert packed["champion"]
    assert all(check["passed"] for check in packed["gate"]["checks"])

    endless = ask.submit("train_fcn8s", *TINY, "--optim.epochs=5000", "--name=endless")
    wait_for(lambda: "epoch   1" in ask.log(endless), lambda: ask.log(endless))
    see(url, run["run_id"], endless)
    assert ask.follow(endless)["status"] == "STOPPED"


def see(url: str, run_id: str, job_id: str) -> None:
    """Look at the run and its promotion on the page, and stop the job there."""
    expect.set_options(timeout=60_000)
    with sync_playwright() as playwright:
        page = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS).new_page()
        page.set_default_timeout(60_000)
        page.goto(url)
        page.get_by_role("link", name=run_id).click()
        expect(page.locator("#promotion .checks li.passed")).to_have_count(5)
        expect(page.get_by_role("img", name="Training loss by epoch").locator("circle")).to_have_count(2)
        page.goto(f"{url}/#/jobs/{job_id}")
        expect(page.get_by_role("log")).to_contain_text("epoch   1")
        page.get_by_role("button", name="Stop").click()
        expect(page.locator(".badge")).to_have_text("stopped")
