"""Answers on their way out: in pieces, and not for ever."""

import asyncio
from collections.abc import Iterator

from starlette.types import ASGIApp, Message, Receive, Scope, Send

PIECE = 2**16
"""Bytes. A server takes a piece once most of the one before is gone; a whole body it would keep until that is read."""


class Sending:
    """Sends bodies in pieces, each body within a time. Of one that is not read by then the rest is not sent.

    The server, which misses the rest, closes the connection. Who counts is told by the `rejection` in the state.

    Args:
        app: what is wrapped.
        within_s: seconds.
    """

    def __init__(self, app: ASGIApp, within_s: float) -> None:
        self._app, self._within_s = app, within_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_late = False

        async def send_in_pieces(message: Message) -> None:
            nonlocal is_late
            if is_late:
                return
            try:
                async with asyncio.timeout(self._within_s):
                    for piece in _pieces(message):
                        await send(piece)
            except TimeoutError:
                is_late = True
                scope["state"]["rejection"] = "not read"

        await self._app(scope, receive, send_in_pieces if scope["type"] == "http" else send)


def _pieces(message: Message) -> Iterator[Message]:
    body = message.get("body", b"")
    if len(body) <= PIECE:
        yield message
        return
    for start in range(0, len(body), PIECE):
        more = message.get("more_body", False) or start + PIECE < len(body)
        # Bytes even of a view: Serve pickles them.
        yield {**message, "body": bytes(body[start : start + PIECE]), "more_body": more}
