"""The ASGI application: its routes, in their envelope."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace

from fastapi import FastAPI, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from services import _about, _receptive_fields, _segment
from services._envelope import enveloped
from services._pages import page_router
from services._problems import Problem, respond
from services._schemas import Segmentation, Segmentations
from services._sending import Sending
from services._service import Service

_SUMMARY = "Segment images with the champion of a model"


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
    app.add_middleware(_Door, service=service)
    app.add_middleware(Sending, within_s=service.settings.deadline_s)
    return enveloped(
        app,
        _SUMMARY,
        service.metrics,
        wants_tokens=service.access.wants_tokens,
        echo=echo_request_id,
        unseen=(Segmentation, Segmentations),
    )


class _Door:
    """Turns images away while there is no room, before anything is done for them: that must cost next to nothing."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        paths = (path for path in (_segment.SEGMENT, _segment.BATCH) if scope.get("path", "").endswith(path))
        path = next(paths, None)
        if path and scope["type"] == "http" and scope["method"] == "POST":
            try:
                self._service.stages.check_room()
            except Problem as problem:
                # For those who count: no router will set it.
                scope["route"] = SimpleNamespace(path=path)
                await respond(Request(scope), problem)(scope, receive, send)
                return
        await self._app(scope, receive, send)
