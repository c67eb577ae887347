"""Answers that are not read: they keep their room, and not for ever."""

import asyncio
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services._app import create_app
from services._segment import SEGMENT
from services._sending import PIECE, Sending
from services._service import Service
from tests.services.serving import encoded, listening, scene, serving

IMAGE = encoded(scene())
SCOPE = {"type": "http", "method": "POST", "path": SEGMENT, "headers": [(b"host", b"localhost")], "query_string": b""}


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("size", [0, 1, PIECE, PIECE + 1, 3 * PIECE])
def test_bodies_go_out_in_pieces(size: int) -> None:
    body = bytes(range(256)) * (size // 256) + bytes(size % 256)
    sent = asyncio.run(said(Sending(answering(body), within_s=60)))
    assert b"".join(message["body"] for message in sent) == body
    assert [message.get("more_body", False) for message in sent] == [True] * (len(sent) - 1) + [False]
    assert len(sent) == max(1, -(-size // PIECE))


def test_a_body_that_is_not_read_is_given_up() -> None:
    sent = asyncio.run(said(Sending(answering(bytes(3 * PIECE)), within_s=0.05), reads=1))
    assert [message["more_body"] for message in sent] == [True]


def answering(body: bytes) -> ASGIApp:
    async def app(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.body", "body": body})

    return app


async def said(app: Sending, reads: int = 10) -> list[Message]:
    """Return what an application sends to somebody who reads so many messages and no more."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        if len(sent) == reads:
            await asyncio.Event().wait()
        sent.append(message)

    await asyncio.wait_for(app({"type": "http", "state": {}}, nothing, send), 60)
    return sent


async def nothing() -> Message:
    await asyncio.Event().wait()
    return {}


def test_an_answer_keeps_its_room_until_it_is_sent(lab: Path) -> None:
    service, inside = serving(lab), list[int]()

    async def receive() -> Message:
        if not inside:
            inside.append(service.stages._inside)
            return {"type": "http.request", "body": IMAGE}
        return await nothing()

    async def send(_: Message) -> None:
        await asyncio.sleep(0.05)
        inside.append(service.stages._inside)

    asyncio.run(asyncio.wait_for(create_app(service)(dict(SCOPE), receive, send), 60))
    assert (inside, service.stages._inside) == ([0, 1, 1], 0)


def test_who_never_reads_is_cut_off(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service, size = serving(lab, deadline_s=2), 2**25

    async def encode(*_: object) -> bytes:
        return bytes(size)

    monkeypatch.setattr(service.stages, "encode", encode)
    with listening(create_app(service)) as url, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
        client.connect(("127.0.0.1", int(url.rpartition(":")[2])))
        client.sendall(
            b"POST /v1/segment HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(IMAGE) + IMAGE
        )
        assert client.recv(12) == b"HTTP/1.1 200"
        assert waits(service) == 1
        wait_until(lambda: waits(service) == 0)
        assert b'fcn_rejected_total{reason="not read"} 1.0' in service.metrics.page([])
        client.settimeout(60)
        assert sum(map(len, iter(lambda: client.recv(2**20), b""))) < size / 2


def waits(service: Service) -> int:
    return service.stages._inside
