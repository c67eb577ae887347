"""The ASGI application: its routes, in their envelope."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI

from services import _about, _receptive_fields, _segment
from services._envelope import Envelope, describe
from services._pages import page_router
from services._problems import handle_problems
from services._schemas import Segmentation, Segmentations
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
    handle_problems(app)
    app.add_middleware(Envelope, counting=service.metrics, echo=echo_request_id)
    unseen = (Segmentation, Segmentations)
    description = partial(describe, app, _SUMMARY, unseen, wants_tokens=service.access.wants_tokens)
    app.openapi = description  # type: ignore[method-assign] # FastAPI's way to change it.
    return app
