"""Bodies of requests, within limits of size and time."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Message

from services._problems import GONE, Problem
from services._settings import Serving


class Uploads:
    """Reads bodies. All that are being received together hold no more than `max_waiting` of the largest."""

    def __init__(self, settings: Serving) -> None:
        self._settings = settings
        self._most = settings.max_waiting * settings.max_body_bytes
        self._held = 0

    async def images(self, request: Request, most: int) -> list[bytes]:
        """Return the image files of a request: its body, or the parts of a multipart form that are files.

        Raises:
            Problem: the body is too large, or there are too many images (413); it took too long (408); it is no form
                (400) or has no file (422); or too much is being received at once (503).
        """
        with self._holding() as held:
            body = await self._received(request, held)
            if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
                return [body]
            return await _files(request, body, most)

    async def _received(self, request: Request, held: list[int]) -> bytes:
        limit_s = self._settings.receive_s
        try:
            async with asyncio.timeout(limit_s):
                return await self._read(request, held)
        except ClientDisconnect as error:
            raise Problem(GONE, "the client is gone") from error
        except TimeoutError as error:
            raise Problem(408, f"the upload took longer than {limit_s:g} s", {"Connection": "close"}) from error

    async def _read(self, request: Request, held: list[int]) -> bytes:
        limit = self._settings.max_body_bytes
        too_large = Problem(413, f"the body is larger than {limit} bytes", {"Connection": "close"})
        announced = request.headers.get("content-length", "0")
        if announced.isdecimal() and int(announced) > limit:
            raise too_large
        chunks = []
        async for chunk in request.stream():
            chunks.append(chunk)
            held[0] += len(chunk)
            self._held += len(chunk)
            if held[0] > limit:
                raise too_large
            if self._held > self._most:
                raise Problem.try_again(503, "too much is being received at once", 1, "receiving")
        return b"".join(chunks)

    @contextmanager
    def _holding(self) -> Iterator[list[int]]:
        """Give a place to count the bytes that are held, and count them no more when the block ends."""
        held = [0]
        try:
            yield held
        finally:
            self._held -= held[0]


async def _files(request: Request, body: bytes, most: int) -> list[bytes]:
    async def replay() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    try:
        # One file more than is allowed, so that the message can be ours.
        async with Request(request.scope, replay).form(max_files=most + 1, max_fields=16) as form:
            parts = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
            if len(parts) > most:
                raise Problem(413, f"there are more than {most} images")
            files = [await part.read() for part in parts]
    except HTTPException as error:
        status = 413 if "Too many files" in str(error.detail) else 400
        raise Problem(status, f"the form cannot be read: {error.detail}") from error
    if not files:
        raise Problem(422, "the form has no file: send each image as a part with a filename")
    return files
