"""The routes that segment images."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request
from starlette.responses import Response

from services._models import Served
from services._negotiation import ARRAYS, JSON, MASK, OVERLAY, PROBABILITIES, negotiate
from services._problems import declared
from services._service import Owner, Service, TheService, Version, model_headers
from services._stages import Segmented, Times

router = APIRouter(tags=["segmentation"])
SEGMENT, BATCH = "/v1/segment", "/v1/segment:batch"

Wait = Annotated[
    str | None,
    Header(description="`wait=5`: give up after 5 s, if the service does not earlier (RFC 7240)", examples=["wait=5"]),
]


async def _room() -> AsyncIterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


Room = Annotated[ExitStack, Depends(_room)]
"""What is entered here is left once the answer is sent."""
_ERRORS = (400, 401, 404, 406, 408, 413, 415, 421, 422, 429, 500, 503, 504)
_IMAGES = ("image/jpeg", "image/png", "image/webp")
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_HEADERS = {
    "Model-Name": {"schema": {"type": "string"}, "description": "of the model that answered"},
    "Model-Version": {"schema": {"type": "integer"}, "description": "its version"},
    "Weights-SHA256": {"schema": {"type": "string"}, "description": "SHA-256 of its weights"},
    "Server-Timing": {"schema": {"type": "string"}, "description": "milliseconds in each stage"},
}


def _form(schema: dict[str, Any], name: str) -> dict[str, Any]:
    return {"multipart/form-data": {"schema": {"type": "object", "required": [name], "properties": {name: schema}}}}


def _answers(content: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    return {200: {"description": "What was found", "content": content, "headers": _HEADERS}} | declared(*_ERRORS)


@router.post(
    SEGMENT,
    summary="Segment an image",
    response_class=Response,
    responses=_answers(
        {
            MASK: _BINARY,
            OVERLAY: _BINARY,
            JSON: {"schema": {"$ref": "#/components/schemas/Segmentation"}},
            ARRAYS: _BINARY,
            PROBABILITIES: _BINARY,
        }
    ),
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "A JPEG, PNG or WebP image, which is judged by its content, or a form with one",
            "content": dict.fromkeys(("application/octet-stream", *_IMAGES), _BINARY)
            | _form(_BINARY["schema"], "image"),
        }
    },
)
async def segment(
    request: Request, service: TheService, owner: Owner, room: Room, version: Version = None, prefer: Wait = None
) -> Response:
    """Return the label of each pixel: at the size of the image, after EXIF rotation.

    `Accept` chooses: `image/png` a mask whose palette has the colours of the classes (default);
    `image/png;view=overlay` the image with these colours over it; `application/json` share, confidence and run lengths
    by class; `application/x-npz` NumPy arrays `labels` (H, W) uint8 and `confidence` (H, W) float32, and with
    `;view=probabilities` also `probabilities` (C, H, W) float16.
    """
    wanted = negotiate(request.headers.get("accept"), (MASK, OVERLAY, JSON, ARRAYS, PROBABILITIES))
    served = service.models.get(version)
    service.access.spend(owner, 1)
    (file,) = await service.uploads.images(request, 1)
    room.enter_context(service.stages.room(1))
    times: Times = {}

    async def work() -> bytes:
        one = await service.stages.segment(served, file, wanted, "the image", times)
        return await service.stages.encode(served, one, wanted, times)

    service.metrics.asked(1)
    return _respond(served, await service.before_deadline(request, prefer, work()), wanted, times)


@router.post(
    BATCH,
    summary="Segment several images",
    response_class=Response,
    responses=_answers({JSON: {"schema": {"$ref": "#/components/schemas/Segmentations"}}, ARRAYS: _BINARY}),
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "A form with the images, in the order of the answers",
            "content": _form({"type": "array", "items": _BINARY["schema"]}, "images"),
        }
    },
)
async def segment_batch(
    request: Request, service: TheService, owner: Owner, room: Room, version: Version = None, prefer: Wait = None
) -> Response:
    """Return what `/v1/segment` would for each image, all from the same version, or the first error.

    `Accept` chooses `application/json` (default) or `application/x-npz`, whose arrays are `labels_0`, `confidence_0`,
    `labels_1` and so on.
    """
    wanted = negotiate(request.headers.get("accept"), (JSON, ARRAYS))
    served = service.models.get(version)
    files = await service.uploads.images(request, service.settings.max_images)
    service.access.spend(owner, len(files))
    room.enter_context(service.stages.room(len(files)))
    service.metrics.asked(len(files))
    times: Times = {}
    work = _segment_all(service, served, files, wanted, times)
    return _respond(served, await service.before_deadline(request, prefer, work), wanted, times)


async def _segment_all(service: Service, served: Served, files: list[bytes], wanted: str, times: Times) -> bytes:
    try:
        async with asyncio.TaskGroup() as group:
            tasks: list[asyncio.Task[Segmented]] = [
                group.create_task(service.stages.segment(served, file, wanted, f"image {number}", times))
                for number, file in enumerate(files)
            ]
    except ExceptionGroup as errors:
        # The others were cancelled because of it.
        raise errors.exceptions[0] from errors
    return await service.stages.encode_all(served, [task.result() for task in tasks], wanted, times)


def _respond(served: Served, content: bytes, wanted: str, times: Times) -> Response:
    timing = ", ".join(f"{stage};dur={1000 * seconds:.2f}" for stage, seconds in times.items())
    headers = model_headers(served) | {"Server-Timing": timing, "Vary": "Accept"}
    # The parameter chose the view; it is no part of the type of what is sent.
    return Response(content, headers=headers, media_type=wanted.partition(";")[0])
