"""Pages for browsers: hand-written files of services/static, which load nothing from elsewhere."""

from importlib.resources import files

from fastapi import APIRouter
from starlette.responses import Response

from services._problems import Problem

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
"""The Content-Security-Policy of a page: no inline script or style, and no text that becomes markup."""
HEADERS = {"Content-Security-Policy": POLICY, "Cross-Origin-Opener-Policy": "same-origin"}
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_INDEX = "index.html"


def page_router(name: str) -> APIRouter:
    """Return the routes of a page: `/`, which is services/static/NAME/index.html, and `/static/...`.

    Only the files beside that one and those that all pages share can be asked for; they are read now, and kept. Links
    of a page are relative (`static/NAME/page.js`), so that it works under any prefix.
    """
    contents = _read(name)
    # For browsers: what these say is no part of the API that /openapi.json describes.
    router = APIRouter(include_in_schema=False)

    @router.api_route("/", methods=["GET", "HEAD"])
    async def page() -> Response:
        return _response(contents, f"{name}/{_INDEX}")

    @router.api_route("/static/{path:path}", methods=["GET", "HEAD"])
    async def file(path: str) -> Response:
        return _response(contents, path)

    return router


def _read(name: str) -> dict[str, bytes]:
    """Return the files of a page and those that all pages share, by their paths."""
    root = files("services") / "static"
    shared = {entry.name: entry.read_bytes() for entry in root.iterdir() if entry.is_file()}
    return shared | {f"{name}/{entry.name}": entry.read_bytes() for entry in (root / name).iterdir()}


def _response(contents: dict[str, bytes], path: str) -> Response:
    if path not in contents:
        raise Problem(404, f"there is no file {path} of this page")
    kind = _TYPES[path.rpartition(".")[2]]
    return Response(contents[path], headers=HEADERS, media_type=kind)
