"""What is bounded: room, time, bytes; and what happens at the bounds."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from starlette.types import Message

from services import _uploads
from services._app import create_app
from services._service import Service
from tests.services.serving import client_of, encoded, held_up, problem, scene, serving

IMAGE = encoded(scene())


def wait_until_waiting(client: TestClient, images: int) -> None:
    for _ in range(500):
        if f"fcn_waiting_images {images:.1f}" in client.get("/metrics").text:
            return
        time.sleep(0.01)
    raise AssertionError(f"there never were {images} images waiting")


def test_beyond_capacity_nobody_is_let_in(lab: Path) -> None:
    service = serving(lab, max_waiting=3, max_images=2)
    with client_of(service) as client, held_up(service) as go, ThreadPoolExecutor(3) as pool:
        inside = [pool.submit(client.post, "/v1/segment", content=IMAGE) for _ in range(3)]
        wait_until_waiting(client, 3)
        start = time.perf_counter()
        refused = client.post("/v1/segment", content=IMAGE)
        seconds = time.perf_counter() - start
        assert problem(refused, 503) == "3 images wait already, at most 3 do"
        assert int(refused.headers["retry-after"]) >= 1
        assert seconds < 0.5
        assert client.get("/healthz").status_code == 200
        go.set()
        assert [one.result().status_code for one in inside] == [200] * 3
        assert client.post("/v1/segment", content=IMAGE).status_code == 200
        assert 'fcn_rejected_total{reason="capacity"} 1.0' in client.get("/metrics").text


def test_where_there_is_no_room_nothing_is_read(lab: Path) -> None:
    service = serving(lab)
    with service.stages.room(service.settings.max_waiting):
        start, *_ = ask(service, [], pause_s=0)
    assert start["status"] == 503
    headers = dict(start["headers"])
    assert int(headers[b"retry-after"]) >= 1
    assert headers[b"content-security-policy"]
    assert b'fcn_requests_total{method="POST",route="/v1/segment",status="503"} 1.0' in service.metrics.page([])


def test_a_batch_needs_room_for_all_of_its_images(lab: Path) -> None:
    service = serving(lab, max_waiting=2, max_images=2)
    files = [("images", ("a", IMAGE))] * 2
    with client_of(service) as client, held_up(service) as go, ThreadPoolExecutor(1) as pool:
        inside = pool.submit(client.post, "/v1/segment", content=IMAGE)
        wait_until_waiting(client, 1)
        problem(client.post("/v1/segment:batch", files=files), 503)
        go.set()
        assert inside.result().status_code == 200
        assert client.post("/v1/segment:batch", files=files).status_code == 200


def passes(service: Service) -> list[int]:
    """Return a list that gets an entry for each pass through the network of the champion that ends."""
    found: list[int] = []
    service.models.champion.predictor.network.register_forward_hook(lambda *_: found.append(1))
    return found


def wait_until_idle(service: Service) -> None:
    """Wait until the thread of the inference has done, or given up, what it was given."""
    service.stages._inference.submit(int).result(60)


def test_a_deadline_ends_a_request_and_its_work(lab: Path) -> None:
    service = serving(lab, deadline_s=0.2)
    done = passes(service)
    with client_of(service) as client, held_up(service) as go:
        start = time.perf_counter()
        answer = client.post("/v1/segment", content=IMAGE)
        assert problem(answer, 504) == "there was no answer within 0.2 s"
        assert time.perf_counter() - start < 5
        wait_until_waiting(client, 0)
        assert 'fcn_rejected_total{reason="deadline"} 1.0' in client.get("/metrics").text
        go.set()
        wait_until_idle(service)
        assert done == []


@pytest.mark.parametrize(("prefer", "status"), [("wait=0", 504), ("respond-async, wait=0", 504), ("wait=60", 200)])
def test_a_client_may_name_a_shorter_deadline(client: TestClient, prefer: str, status: int) -> None:
    assert client.post("/v1/segment", content=IMAGE, headers={"prefer": prefer}).status_code == status


def test_work_is_given_up_between_tiles(lab: Path) -> None:
    service = serving(lab, deadline_s=0.3, tile=32)
    calls = []
    network = service.models.champion.predictor.network

    def count(*_: object) -> None:
        calls.append(1)
        time.sleep(0.1)

    network.register_forward_hook(count)
    with client_of(service) as client:
        problem(client.post("/v1/segment", content=encoded(scene(320, 320))), 504)
        time.sleep(0.5)
        assert 1 <= len(calls) < 10


@pytest.mark.parametrize("body", [IMAGE + bytes(2**16), iter([IMAGE, bytes(2**16)])], ids=["announced", "in chunks"])
def test_large_bodies_are_refused(lab: Path, body: bytes | AsyncIterator[bytes]) -> None:
    with client_of(serving(lab, max_body_bytes=2**16)) as client:
        assert problem(client.post("/v1/segment", content=body), 413) == "the body is larger than 65536 bytes"


def test_large_images_are_refused_by_their_header(lab: Path) -> None:
    with client_of(serving(lab, max_pixels=1000, max_side=50)) as client:
        detail = problem(client.post("/v1/segment", content=IMAGE), 413)
        assert detail.startswith("the image has 48 x 40 pixels, the limits are 1000 pixels and 50 along a side")
        assert client.post("/v1/segment", content=encoded(scene(20, 50))).status_code == 200
        problem(client.post("/v1/segment", content=encoded(scene(1, 51))), 413)


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"", "multipart/form-data", 400),
        (b"--x\r\n\r\nbroken", "multipart/form-data; boundary=x", 400),
        (
            b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\nno file\r\n--x--\r\n',
            "multipart/form-data; boundary=x",
            422,
        ),
        (b"--x\r\nContent-Type: text/plain\r\n\r\nno name\r\n--x--\r\n", "multipart/form-data; boundary=x", 400),
    ],
)
def test_forms_that_are_none_are_refused(client: TestClient, body: bytes, kind: str, status: int) -> None:
    for path in ("/v1/segment", "/v1/segment:batch"):
        problem(client.post(path, content=body, headers={"content-type": kind}), status)


def test_a_form_with_two_images_is_none_for_one(client: TestClient) -> None:
    files = [("image", ("a", IMAGE))] * 2
    assert problem(client.post("/v1/segment", files=files), 413) == "there are more than 1 images"


def ask(service: Service, messages: Sequence[Message], pause_s: float, patience_s: float = 30) -> list[Message]:
    """Send messages to the application, with a pause before the last, and return what it sends."""
    sent: list[Message] = []
    left = list(messages)

    async def receive() -> Message:
        if len(left) == 1:
            await asyncio.sleep(pause_s)
        if not left:
            await asyncio.Event().wait()
        return left.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    async def run() -> None:
        headers = [(b"host", b"localhost")]
        scope = {"type": "http", "method": "POST", "path": "/v1/segment", "headers": headers, "query_string": b""}
        await asyncio.wait_for(create_app(service)(scope, receive, send), patience_s)

    asyncio.run(run())
    return sent


def test_a_slow_upload_is_cut_off(lab: Path) -> None:
    service = serving(lab, receive_s=0.2)
    chunk: Message = {"type": "http.request", "body": IMAGE[:10], "more_body": True}
    start, *_ = ask(service, [chunk, chunk], pause_s=30)
    assert start["status"] == 408
    # The rest may still come: nobody may take it for the next request.
    assert (b"connection", b"close") in start["headers"]
    assert service.uploads._held == 0


def test_what_nobody_waits_for_is_not_done(lab: Path) -> None:
    service = serving(lab)
    done = passes(service)
    with held_up(service):
        whole: Message = {"type": "http.request", "body": IMAGE, "more_body": False}
        started = time.perf_counter()
        start, *_ = ask(service, [whole, {"type": "http.disconnect"}], pause_s=0.2)
        assert time.perf_counter() - started < 5
    assert start["status"] == 499
    wait_until_idle(service)
    assert done == []
    assert b'fcn_rejected_total{reason="disconnected"} 1.0' in service.metrics.page([])
    assert b"fcn_waiting_images 0.0" in service.metrics.page([])


def test_a_request_that_is_cancelled_from_outside_is_not_done(lab: Path) -> None:
    service = serving(lab)
    whole: Message = {"type": "http.request", "body": IMAGE, "more_body": False}
    done = passes(service)
    with held_up(service), pytest.raises(TimeoutError):
        ask(service, [whole], pause_s=0, patience_s=0.3)
    wait_until_idle(service)
    assert done == []
    page = service.metrics.page([])
    assert b'fcn_rejected_total{reason="disconnected"} 1.0' in page
    assert b'fcn_requests_total{method="POST",route="/v1/segment",status="499"} 1.0' in page
    assert b"fcn_waiting_images 0.0" in page


def test_a_client_that_leaves_in_the_middle_of_an_upload_is_no_failure(lab: Path) -> None:
    chunk: Message = {"type": "http.request", "body": IMAGE[:10], "more_body": True}
    service = serving(lab)
    start, *_ = ask(service, [chunk, {"type": "http.disconnect"}], pause_s=0)
    assert start["status"] == 499
    assert service.uploads._held == 0


def test_a_form_is_counted_while_its_files_are_copied(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service, held = serving(lab), list[int]()

    async def files(*arguments: Any, whole: Any = _uploads._files) -> list[bytes]:  # noqa: ANN401 -- as they are.
        held.append(service.uploads._held)
        found: list[bytes] = await whole(*arguments)
        return found

    monkeypatch.setattr(_uploads, "_files", files)
    with client_of(service) as client:
        assert client.post("/v1/segment", files={"image": ("a", IMAGE)}).status_code == 200
    assert held[0] > len(IMAGE)
    assert service.uploads._held == 0


def test_whoever_is_turned_away_is_counted(lab: Path) -> None:
    service = serving(lab, max_body_bytes=2**16, max_waiting=1, max_images=1, rate_per_s=0.1, receive_s=0.2)
    chunk: Message = {"type": "http.request", "body": IMAGE[:10], "more_body": True}
    with client_of(service) as client:
        statuses = [client.post("/v1/segment", content=body).status_code for body in (bytes(2**17), IMAGE)]
    assert statuses == [413, 429]
    service.access.spend = lambda *_: None  # type: ignore[method-assign]
    ask(service, [chunk, chunk], pause_s=30)
    ask(service, [chunk, {"type": "http.disconnect"}], pause_s=0)
    service.uploads._held = 2**16
    ask(service, [chunk], pause_s=0)
    with service.stages.room(1):
        ask(service, [chunk], pause_s=0)
    page = service.metrics.page([]).decode()
    counted = re.findall(r'fcn_rejected_total{reason="(.+)"} (.+)', page)
    reasons = ("size", "rate", "slow upload", "disconnected", "receiving", "capacity")
    assert counted == [(reason, "1.0") for reason in reasons]


def test_too_much_at_once_is_refused(lab: Path) -> None:
    service = serving(lab, max_body_bytes=2**16, max_waiting=1, max_images=1)
    service.uploads._held = 2**16 - 100
    with client_of(service) as client:
        answer = client.post("/v1/segment", content=IMAGE)
    assert problem(answer, 503) == "too much is being received at once"
    assert service.uploads._held == 2**16 - 100
