"""What the routes of a service share."""

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Query, Request
from fastapi.security import HTTPBearer

from services._access import Access
from services._fields import Fields
from services._metrics import Metrics
from services._models import Models, Served
from services._problems import GONE, Problem
from services._settings import Serving
from services._stages import Stages
from services._uploads import Uploads

log = logging.getLogger(__name__)
_T = TypeVar("_T")


class Service:
    """A replica: its models and all that a request goes through. Loads the champion when it is made.

    Raises:
        ValueError, OSError, RefusedError: as `Models` and `Access`.
    """

    def __init__(self, settings: Serving, device: str) -> None:
        self.settings = settings
        self.access = Access(settings.tokens, settings.rate_per_s)
        self.models = Models(settings, device)
        self.fields = Fields(settings.storage)
        self.metrics = Metrics()
        self.uploads = Uploads(settings)
        self.stages = Stages(settings, self.metrics)
        self._closed = threading.Event()

    def start(self) -> None:
        """Look for new champions and changed tokens from now on."""
        # Tokens have a thread of their own: one that is removed must not wait for a champion that loads.
        for refresh in (self.access.refresh, self._refresh_models):
            threading.Thread(target=self._repeat, args=(refresh,), name="refresh", daemon=True).start()

    def close(self) -> None:
        """End all threads."""
        self._closed.set()
        self.fields.close()
        self.stages.close()

    async def before_deadline(self, request: Request, prefer: str | None, work: Coroutine[Any, Any, _T]) -> _T:
        """Return the result of `work`, which is given up at the deadline, or once the client is gone.

        The deadline is the service's, or a shorter one that the client prefers: `wait=5` (RFC 7240).

        Raises:
            Problem: the deadline passed (504), or nobody is there any more (GONE).
        """
        limit_s = min(self.settings.deadline_s, _preferred_wait(prefer or ""))
        working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(request))
        try:
            done, _ = await asyncio.wait({working, leaving}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            if not working.done():
                working.cancel()
        if working in done:
            return working.result()
        with suppress(asyncio.CancelledError):
            await working
        if leaving in done:
            raise Problem(GONE, "the client is gone")
        raise Problem.try_again(504, f"there was no answer within {limit_s:g} s", 1)

    def _repeat(self, refresh: Callable[[], None]) -> None:
        while not self._closed.wait(self.settings.refresh_s):
            refresh()

    def _refresh_models(self) -> None:
        try:
            self.models.refresh()
        except Exception:
            # The storage may be back the next time; until then what is loaded serves.
            log.exception("cannot look for a new champion")


def _preferred_wait(header: str) -> float:
    for part in header.replace(";", ",").split(","):
        name, _, value = part.strip().partition("=")
        if name.lower() == "wait" and value.strip().isdecimal():
            return float(value)
    return float("inf")


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


TheService = Annotated[Service, Depends(_service)]
Version = Annotated[int | None, Query(ge=1, description="which of the served versions; the champion if left out")]
_Bearer = Annotated[object, Depends(HTTPBearer(auto_error=False, description="Not needed on loopback without tokens"))]


async def _owner(request: Request, service: TheService, _: _Bearer) -> str:
    # FastAPI's part is the description; what it finds in a header is not looked at.
    return service.access.owner(request)


Owner = Annotated[str, Depends(_owner)]
"""Who asks; naming it makes a route ask for a token."""


def model_headers(served: Served) -> dict[str, str]:
    """Return the headers that say what answered."""
    facts = served.version.facts
    return {
        "Model-Name": facts.name,
        "Model-Version": str(facts.version),
        "Weights-SHA256": served.version.weights,
    }
