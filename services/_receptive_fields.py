"""The routes that tell what units of networks see."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from services._fields import MEDIA_TYPES, OTHER, media_type
from services._problems import declared
from services._schemas import FieldDescription, FieldList
from services._service import Owner, TheService

router = APIRouter(tags=["receptive fields"])
_ERRORS = declared(401, 421, 500, 503, 504)
_CONTENT = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in (*MEDIA_TYPES.values(), OTHER)}
_GALLERY = {
    # The gallery is one file with script and style in it. As if it came from elsewhere: it cannot see tokens of pages.
    "Content-Security-Policy": "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}


@router.get("/v1/receptive-fields", summary="What was looked at", responses=_ERRORS)
async def list_fields(request: Request, service: TheService, _: Owner) -> FieldList:
    """Return the ids of what `jobs/receptive_field.py` keeps on the storage."""
    found = await service.before_deadline(request, None, service.fields.ids())
    return FieldList(receptive_fields=found)


@router.get("/v1/receptive-fields/{id}", summary="A look at units", responses=_ERRORS | declared(404, 422))
async def show_field(request: Request, id: str, service: TheService, _: Owner) -> FieldDescription:  # noqa: A002
    """Return network, layer, units and images, and the files with numbers, pictures and arrays."""
    return await service.before_deadline(request, None, service.fields.describe(id))


@router.get(
    "/v1/receptive-fields/{id}/{file}",
    summary="A file of a look at units",
    response_class=Response,
    responses=_ERRORS | declared(404, 422) | {200: {"description": "Its contents", "content": _CONTENT}},
)
async def read_field(request: Request, id: str, file: str, service: TheService, _: Owner) -> Response:  # noqa: A002
    """Return a file as it was published: a picture, arrays, numbers, or the gallery of all units."""
    contents = await service.before_deadline(request, None, service.fields.file(id, file))
    kind = media_type(file)
    return Response(contents, headers=_GALLERY if kind == "text/html" else None, media_type=kind)
