"""The ASGI application of the experiment service: its routes, in their envelope."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services._envelope import enveloped
from services._pages import page_router
from services._problems import Problem, respond
from services.lab import acting, reading
from services.lab.service import Lab, Uncounted

_SUMMARY = "List, inspect, compare, start, follow, stop and promote experiments"
RECEIVE_S = 10
"""Longest that the body of a request may take."""


def create_app(lab: Lab, *, echo_request_id: bool = True) -> FastAPI:
    """Return the application of a lab.

    Args:
        lab: what it tells about.
        echo_request_id: whether to send the request's id back; Ray Serve does that itself.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        lab.start()
        yield
        lab.close()

    app = FastAPI(title="FCN Lab experiments", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.lab = lab
    for router in (reading.runs, reading.others, acting.jobs, acting.health, page_router("experiments")):
        app.include_router(router)

    @app.exception_handler(OSError)
    async def on_storage(request: Request, error: OSError) -> Response:
        return respond(request, Problem.try_again(503, f"the storage does not answer: {type(error).__name__}", 5))

    app.add_middleware(_Bodies, most=lab.settings.max_body_bytes)
    return enveloped(app, _SUMMARY, Uncounted(), wants_tokens=lab.access.wants_tokens, echo=echo_request_id)


class _Bodies:
    """Receives the body of a request, which is small, before anything else sees the request."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app, self._most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(RECEIVE_S):
                body = await self._read(receive)
        except TimeoutError:
            body = Problem(408, f"the body took longer than {RECEIVE_S} s", {"Connection": "close"})
        if isinstance(body, Problem):
            await respond(Request(scope), body)(scope, receive, send)
            return
        received = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def replay() -> Message:
            return next(received, None) or await receive()

        await self._app(scope, replay, send)

    async def _read(self, receive: Receive) -> bytes | Problem:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self._most:
                return Problem(413, f"the body is larger than {self._most} bytes", {"Connection": "close"})
        return body
