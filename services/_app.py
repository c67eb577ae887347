"""The ASGI application: routes, errors, and what every response carries."""

import asyncio
import re
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version as version_of
from time import perf_counter
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services import _about, _receptive_fields, _segment
from services._pages import page_router
from services._problems import GONE, SECURITY_HEADERS, ProblemDetails, handle_problems
from services._schemas import Segmentation, Segmentations
from services._service import Service

REQUEST_ID = "X-Request-ID"


def create_app(service: Service, *, echo_request_id: bool = True) -> FastAPI:
    """Return the application of a service.

    Args:
        service: with its models.
        echo_request_id: whether to send the request's id back; Ray Serve does that itself.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        service.close()

    app = FastAPI(title="FCN Lab segmentation", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.service = service
    routers = (_segment.router, _about.models, _receptive_fields.router, _about.health, page_router("segmentation"))
    for router in routers:
        app.include_router(router)
    handle_problems(app)
    app.add_middleware(_Envelope, service=service, echo=echo_request_id)
    describe = partial(_openapi, app, wants_tokens=service.access.wants_tokens)
    app.openapi = describe  # type: ignore[method-assign] # FastAPI's way to change it.
    return app


class _Envelope:
    """Gives each request an id, and each response that id and security headers; counts and times them."""

    def __init__(self, app: ASGIApp, service: Service, *, echo: bool) -> None:
        self._app, self._service, self._echo = app, service, echo

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = perf_counter(), 500
        asked = Headers(scope=scope).get(REQUEST_ID, "")
        request_id = asked if re.fullmatch(r"[\w.:-]{1,128}", asked) else str(uuid.uuid4())
        scope.setdefault("state", {})["request_id"] = request_id

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
            await self._app(scope, receive, send_in_envelope)
        except asyncio.CancelledError:
            # Serve's way to say that the client is gone.
            status = GONE
            self._service.metrics.rejected("disconnected")
            raise
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self._service.metrics.answered(scope["method"], route, status, perf_counter() - start)


def _openapi(app: FastAPI, *, wants_tokens: bool) -> dict[str, Any]:
    """Describe the routes, with what FastAPI cannot see in them."""
    if app.openapi_schema is None:
        found: dict[str, Any] = get_openapi(
            title=app.title,
            version=version_of("fcn-lab"),
            summary="Segment images with the champion of a model",
            routes=app.routes,
            license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        )
        # Bodies that routes write themselves, and errors.
        unseen = [(model, "serialization") for model in (ProblemDetails, Segmentation, Segmentations)]
        _, schemas = models_json_schema(unseen, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
        found["components"]["schemas"] |= schemas["$defs"]
        if not wants_tokens:
            for operation in (one for methods in found["paths"].values() for one in methods.values()):
                # An empty alternative: no token will do too.
                operation.get("security", []).append({})
        app.openapi_schema = found
    return app.openapi_schema
