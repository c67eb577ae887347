"""The page in a browser, against the application and a cluster that starts nothing."""

import json
import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import uvicorn
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from fcn_core.checkpoint import RunFolder
from fcn_core.registry.store import MODELS
from services.lab.app import create_app
from services.lab.service import Lab
from tests.jobs.commands import free_port
from tests.registry.made import NAME
from tests.services.lab.conftest import Place
from tests.services.lab.made import FakeCluster, epochs_of, lab_of, reader_and_actor
from tests.tiny import changed

expect.set_options(timeout=60_000)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]
CHROMIUM = "/usr/bin/chromium"


class Shown(NamedTuple):
    """A service and its page in a browser."""

    page: Page
    url: str
    place: Place
    cluster: FakeCluster


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def served(lab: Lab) -> Iterator[str]:
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(create_app(lab), host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(60)


@pytest.fixture(params=["open"])
def shown(request: pytest.FixtureRequest, browser: Browser, place: Place, tmp_path: Path) -> Iterator[Shown]:
    """Give the page over a copy of the storage. The parameter "guarded" makes it want tokens."""
    shutil.copytree(place.folder, tmp_path / "lab")
    tokens = {"tokens": reader_and_actor(tmp_path)} if request.param == "guarded" else {}
    cluster, complaints = FakeCluster(), list[str]()
    with served(lab_of(tmp_path / "lab", cluster, **tokens)) as url, browser.new_page() as page:
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text) if "Security" in message.text else None)
        page.goto(url)
        yield Shown(page, url, place._replace(folder=tmp_path / "lab"), cluster)
    assert not complaints


def test_the_leaderboard_is_sorted_and_compared_by_keyboard(shown: Shown) -> None:
    page, place = shown.page, shown.place
    names = page.locator(".board tbody th a")
    expect(names).to_have_text([place.good, place.unlike, place.poor, place.begun])
    page.get_by_role("button", name="Run", exact=True).press("Enter")
    expect(names).to_have_text([place.begun, place.good, place.poor, place.unlike])
    expect(page.locator('th[aria-sort="ascending"]')).to_have_text("Run ▲")
    expect(page.locator("#spoken")).to_have_text("Sorted by Run, lowest first.")
    page.get_by_label("Search").fill("poor")
    expect(names).to_have_text([place.poor])
    page.get_by_label("Search").fill("")
    expect(names).to_have_count(4)
    for run_id in (place.good, place.poor):
        page.get_by_label(f"Choose {run_id}").press("Space")
    page.get_by_role("button", name="Compare 2 runs").press("Enter")
    settings = page.get_by_role("region", name="Settings that differ")
    expect(settings.locator("tbody th")).to_have_text(["name", "model.stride", "optim.learning_rate"])
    paired = page.get_by_role("region", name="poor - good").locator("tbody tr").first
    expect(paired).to_contain_text(re.compile(r"mean IoU\W\d"))
    expect(page.get_by_role("heading", name="Comparison")).to_be_focused()


def test_the_leaderboard_shows_the_answer_to_what_was_asked_last_and_says_if_there_is_none(shown: Shown) -> None:
    page, place = shown.page, shown.place
    names, held = page.locator(".board tbody th a"), list[Route]()
    expect(names).to_have_count(4)
    page.route("**/v1/runs?*search=good*", lambda route: held.append(route))  # noqa: PLW0108 -- Playwright wants a function of Python.
    with page.expect_request("**/v1/runs?*search=good*"):
        page.get_by_label("Search").fill("good")
    page.get_by_label("Search").fill("poor")
    expect(names).to_have_text([place.poor])
    with page.expect_response("**/v1/runs?*search=good*"):
        held[0].continue_()
    expect(names).to_have_text([place.poor])
    problem = {"status": 503, "title": "Service Unavailable", "detail": "the storage is away"}
    page.route(
        "**/v1/runs?*search=unl*",
        lambda route: route.fulfill(status=503, content_type="application/problem+json", body=json.dumps(problem)),
    )
    page.get_by_label("Search").fill("unl")
    expect(page.locator("#error")).to_contain_text("the storage is away")
    page.get_by_label("Search").fill("poor")
    expect(page.locator("#error")).to_be_hidden()


def test_the_curves_of_a_run_grow_while_it_trains(shown: Shown) -> None:
    page, place = shown.page, shown.place
    page.goto(f"{shown.url}/#/runs/{place.begun}")
    chart = page.get_by_role("img", name="Training loss by epoch")
    expect(chart.locator("circle")).to_have_count(2)
    expect(page.locator(".badge").first).to_have_text("epoch 2 of 3")
    folder = RunFolder(f"{place.folder}/runs/{place.begun}")
    folder.write_epochs(epochs_of(changed({"name": "begun", "seed": 7}), 3, 0.8))
    expect(chart.locator("circle")).to_have_count(3)
    expect(page.locator(".badge").first).to_have_text("finished")
    expect(page.locator("#spoken")).to_contain_text("Epoch 3 of 3, mean IoU")


def test_a_run_shows_scores_predictions_and_its_way_through_the_gate(shown: Shown) -> None:
    page, place = shown.page, shown.place
    page.goto(f"{shown.url}/#/runs/{place.good}")
    expect(page.locator(".headline")).to_contain_text("3 classes, void excluded")
    picture = page.get_by_alt_text("Validation images, each with truth, prediction and errors")
    expect(picture).to_have_js_property("naturalWidth", 8)
    page.get_by_label("Model").fill(NAME)
    page.get_by_role("button", name="Promote").click()
    expect(page.locator("#promotion .badge")).to_have_text("running")
    (job_id,) = shown.cluster.jobs
    # What the job does when it ends: here the version that is there is made one of this run.
    facts = place.folder / MODELS / NAME / "2" / "version.json"
    told = json.loads(facts.read_text())
    told["checkpoint"]["run_id"] = place.good
    facts.write_text(json.dumps(told))
    shown.cluster.logs[job_id] = "champion     streets/2\n"
    shown.cluster.end(job_id, "SUCCEEDED")
    expect(page.locator("#promotion .badge")).to_have_text("succeeded")
    expect(page.get_by_role("log")).to_have_text("champion     streets/2\n")
    expect(page.locator("#promotion .checks li.passed")).to_have_count(4)
    expect(page.locator("#promotion .checks li.failed")).to_contain_text("failed: not worse")


def test_a_job_is_submitted_followed_and_stopped(shown: Shown) -> None:
    page = shown.page
    page.get_by_role("link", name="Jobs").click()
    page.get_by_label("Arguments").fill("streets --name 'my run' --workers 2")
    page.get_by_role("button", name="Submit").click()
    log = page.get_by_role("log")
    expect(page.locator("main code").first).to_have_text(
        "python jobs/train_fcn8s.py streets --name 'my run' --workers 2"
    )
    (job_id,) = shown.cluster.jobs
    shown.cluster.logs[job_id] = f"run {shown.place.begun} in somewhere\n"
    expect(log).to_have_text(shown.cluster.logs[job_id])
    shown.cluster.logs[job_id] += "epoch 1\n"
    expect(log).to_have_text(shown.cluster.logs[job_id])
    expect(page.get_by_role("link", name=f"run {shown.place.begun}")).to_be_visible()
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".badge")).to_have_text("stopped")
    expect(page.get_by_role("button", name="Stop")).to_be_hidden()


@pytest.mark.parametrize("shown", ["guarded"], indirect=True)
def test_a_token_is_asked_for_and_one_that_may_read_gets_no_buttons(shown: Shown) -> None:
    page = shown.page
    page.get_by_role("textbox", name="Token").fill("fcn_read")
    page.get_by_role("button", name="Use token").click()
    expect(page.locator("#who")).to_have_text("reader, may read")
    page.get_by_role("link", name="Jobs").click()
    expect(page.locator("main")).to_contain_text("This token may look, not submit.")
    page.get_by_role("button", name="Forget token").click()
    page.get_by_role("textbox", name="Token").fill("fcn_act")
    page.get_by_role("button", name="Use token").click()
    expect(page.get_by_role("button", name="Submit")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_no_view_is_wider_than_the_window(shown: Shown, scheme: str, width: int) -> None:
    page = shown.page
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    page.set_viewport_size({"width": width, "height": 800})
    job_id = shown.cluster.submit_job(entrypoint="python jobs/evaluate.py RUN", runtime_env={}, metadata=None)
    place = shown.place
    runs = f"run={place.good}&run={place.poor}"
    for view in ("runs", f"runs/{place.good}", f"compare?{runs}", "jobs", f"jobs/{job_id}", "models", "sweeps"):
        page.goto(f"{shown.url}/#/{view}")
        page.reload()
        expect(page.locator("main h2")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width, view
