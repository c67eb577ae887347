"""Errors as RFC 9457 `application/problem+json`, each with the id of its request."""

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

MEDIA_TYPE = "application/problem+json"
SECURITY_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
MEANINGS = {
    400: "The request cannot be understood.",
    401: "There is no token, or it is not or no longer valid.",
    403: "The token may not do this, or a page of another site asks.",
    404: "There is nothing of this name.",
    405: "The route does not know this method.",
    406: "Nothing that `Accept` allows can be sent.",
    408: "The upload took too long.",
    409: "It cannot be done as things stand.",
    413: "The request or the image is too large, or there are too many images.",
    415: "The content is no JPEG, PNG or WebP image of 8 bits per channel.",
    421: "Without tokens the service answers on loopback names only.",
    422: "A parameter or the image cannot be used.",
    429: "This token asked for too much; `Retry-After` says when to ask again.",
    500: "Something went wrong in the service.",
    502: "The cluster does not answer as it should.",
    503: "The service is at its capacity; `Retry-After` says when to ask again.",
    504: "There was no answer before the deadline.",
}
"""What each status of an error means."""
GONE = 499
"""The client is gone: a status that proxies use in their logs, and that nobody receives."""
REJECTIONS = {408: "slow upload", 413: "size", 429: "rate", GONE: "disconnected", 504: "deadline"}
"""Why requests are turned away that might have been answered, for those who count. A 503 says why itself."""


class ProblemDetails(BaseModel):
    """What went wrong, after RFC 9457."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "type": "about:blank",
                "title": "Unsupported Media Type",
                "status": 415,
                "detail": "the image is not JPEG or PNG or WEBP by its content",
                "request_id": "7f2c8a52-0c1e-4c39-9a52-5b1d3c6c2f10",
            }
        }
    )

    type: str = "about:blank"
    title: str
    """The name of the status."""
    status: int
    detail: str
    """What is wrong with this request, for people."""
    request_id: str
    """Also in the header `X-Request-ID` and in the service's log."""


class Problem(Exception):  # noqa: N818 -- as RFC 9457 calls it.
    """A request that cannot be answered: status, what is wrong, and the headers that go with it.

    `rejection` says for those who count why a request was turned away, if it was.
    """

    def __init__(
        self, status: int, detail: str, headers: Mapping[str, str] | None = None, rejection: str | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})
        self.rejection = rejection or REJECTIONS.get(status)

    @classmethod
    def try_again(cls, status: int, detail: str, after_s: float, rejection: str | None = None) -> "Problem":
        """Return a problem that passes: whoever asks again after some seconds may be lucky."""
        return cls(status, detail, {"Retry-After": str(max(1, math.ceil(after_s)))}, rejection)


def declared(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI description of errors, by status."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}}
    return {status: {"description": MEANINGS[status], "content": content} for status in statuses}


def handle_problems(app: FastAPI) -> None:
    """Make the app answer every error as a problem.

    Handlers that are no coroutines would each wait for a thread.
    """

    @app.exception_handler(Problem)
    async def on_problem(request: Request, error: Problem) -> Response:
        return respond(request, error)

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> Response:
        details = {404: f"there is nothing at {request.url.path}", 405: f"{request.method} is no method of this route"}
        detail = details.get(error.status_code, str(error.detail))
        return respond(request, Problem(error.status_code, detail, error.headers))

    @app.exception_handler(RequestValidationError)
    async def on_validation(request: Request, error: RequestValidationError) -> Response:
        wrong = (f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        return respond(request, Problem(422, "; ".join(wrong)))


def respond(request: Request, problem: Problem) -> Response:
    """Return the answer to a request that cannot be answered."""
    details = ProblemDetails(
        title="Client Closed Request" if problem.status == GONE else HTTPStatus(problem.status).phrase,
        status=problem.status,
        detail=problem.detail,
        request_id=request.state.request_id,
    )
    request.state.rejection = problem.rejection
    headers = SECURITY_HEADERS | problem.headers
    return JSONResponse(details.model_dump(), problem.status, headers, media_type=MEDIA_TYPE)
