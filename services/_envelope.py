"""What every request and response of a service carries, and what its description says of all routes."""

import asyncio
import logging
import re
import uuid
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version as version_of
from time import perf_counter
from typing import Any, Protocol

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services._problems import (
    GONE,
    REJECTIONS,
    SECURITY_HEADERS,
    Problem,
    ProblemDetails,
    handle_problems,
    respond,
)

log = logging.getLogger(__name__)

REQUEST_ID = "X-Request-ID"


class Counting(Protocol):
    """Counts requests."""

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request."""

    def rejected(self, reason: str) -> None:
        """Count a request that was turned away."""


class Envelope:
    """Gives each request an id, and each response that id and security headers; counts and times them.

    Args:
        app: what is wrapped.
        counting: told of each request.
        echo: whether to send the request's id back; Ray Serve does that itself.
    """

    def __init__(self, app: ASGIApp, counting: Counting, *, echo: bool) -> None:
        self._app, self._counting, self._echo = app, counting, echo

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = perf_counter(), 500
        state = scope.setdefault("state", {})
        state["request_id"] = request_id = self._id(Headers(scope=scope).get(REQUEST_ID, ""))

        async def send_in_envelope(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                if self._echo:
                    headers[REQUEST_ID] = request_id
            await send(message)

        try:
            await self._answer(scope, receive, send_in_envelope)
        except asyncio.CancelledError:
            # Serve's way to say that the client is gone.
            status, state["rejection"] = GONE, REJECTIONS[GONE]
            raise
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self._counting.answered(scope["method"], route, status, perf_counter() - start)
            if rejection := state.get("rejection"):
                self._counting.rejected(rejection)

    def _id(self, asked: str) -> str:
        # Serve sends back whatever it got: problems must name the same.
        is_fine = re.fullmatch(r"[\w.:-]{1,128}", asked) if self._echo else asked
        return asked if is_fine else str(uuid.uuid4())

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the application answer, and answer in its place where it fails before it began."""
        has_begun = False

        async def send_and_note(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except Exception:
            log.exception("request %s failed", scope["state"]["request_id"])
            if has_begun:
                raise
            failed = Problem(500, "the service failed; its log says why, under this request_id")
            await respond(Request(scope), failed)(scope, receive, send)


def enveloped(
    app: FastAPI,
    summary: str,
    counting: Counting,
    *,
    wants_tokens: bool,
    echo: bool,
    unseen: Sequence[type[BaseModel]] = (),
) -> FastAPI:
    """Return an application, which has all its routes, in its envelope and with problems for errors.

    It describes its routes with what FastAPI cannot see in them, too: bodies that routes write themselves, and errors.

    Args:
        app: what is wrapped.
        summary: of the service, in one line.
        counting: told of each request.
        wants_tokens: whether one has to have a token.
        echo: whether to send the request's id back; Ray Serve does that itself.
        unseen: the models of the bodies that routes write themselves.
    """
    handle_problems(app)
    app.add_middleware(Envelope, counting=counting, echo=echo)
    description = partial(_describe, app, summary, unseen, wants_tokens=wants_tokens)
    app.openapi = description  # type: ignore[method-assign] # FastAPI's way to change it.
    return app


def _describe(app: FastAPI, summary: str, unseen: Sequence[type[BaseModel]], *, wants_tokens: bool) -> dict[str, Any]:
    if app.openapi_schema is None:
        found: dict[str, Any] = get_openapi(
            title=app.title,
            version=version_of("fcn-lab"),
            summary=summary,
            routes=app.routes,
            license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        )
        models = [(model, "serialization") for model in (ProblemDetails, *unseen)]
        _, schemas = models_json_schema(models, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
        found["components"]["schemas"] |= schemas["$defs"]
        if not wants_tokens:
            for operation in (one for methods in found["paths"].values() for one in methods.values()):
                # An empty alternative: no token will do too.
                operation.get("security", []).append({})
        app.openapi_schema = found
    return app.openapi_schema
