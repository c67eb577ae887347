"""What the routes of the experiment service share."""

import sys
import threading
from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from fcn_core import storage
from fcn_core.registry.store import MODELS
from services._access import Access
from services.lab.jobs import Check, Client, Jobs, look_at
from services.lab.models import ModelShelf
from services.lab.runs import Runs
from services.lab.settings import Experiments
from services.lab.sweeps import Sweeps


class Uncounted:
    """Counts no requests: people and their pages ask, and Serve counts what they do."""

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Do nothing."""

    def rejected(self, reason: str) -> None:
        """Do nothing."""


class Lab:
    """A replica: what is stored, and the jobs of the cluster.

    Args:
        settings: of the service.
        connect: returns a client of the cluster's Jobs API.
        check: looks at the arguments of commands.

    Raises:
        ValueError, OSError: the file of tokens is none or not there; the storage cannot be reached.
    """

    def __init__(self, settings: Experiments, connect: Callable[[], Client], check: Check = look_at) -> None:
        self.settings = settings
        self.access = Access(settings.tokens, None)
        place = storage.absolute(settings.storage)
        storage.check_access(place)
        times = settings.refresh_s, settings.patience_s
        self.runs = Runs(storage.join(place, "runs"), *times)
        self.sweeps = Sweeps(storage.join(place, "sweeps"), *times)
        self.models = ModelShelf(storage.join(place, MODELS), *times)
        # Another cluster's machines have their Python somewhere else.
        python = "python" if settings.cluster else sys.executable
        self.jobs = Jobs(connect, place, python, settings.max_log_bytes, check)
        self._closed = threading.Event()

    def start(self) -> None:
        """Look for changed tokens from now on."""
        threading.Thread(target=self._refresh, name="refresh", daemon=True).start()

    def close(self) -> None:
        """End all threads."""
        self._closed.set()
        for part in (self.runs, self.sweeps, self.models):
            part.close()

    def _refresh(self) -> None:
        while not self._closed.wait(self.settings.refresh_tokens_s):
            self.access.refresh()


async def _lab(request: Request) -> Lab:
    lab: Lab = request.app.state.lab
    return lab


TheLab = Annotated[Lab, Depends(_lab)]
_Bearer = Annotated[object, Depends(HTTPBearer(auto_error=False, description="Not needed on loopback without tokens"))]


async def _reader(request: Request, lab: TheLab, _: _Bearer) -> str:
    return lab.access.owner(request)


async def _actor(request: Request, lab: TheLab, _: _Bearer) -> str:
    return lab.access.actor(request)


Reader = Annotated[str, Depends(_reader)]
"""Who asks; naming it makes a route ask for a token."""
Actor = Annotated[str, Depends(_actor)]
"""Who wants something done; naming it makes a route ask for a token that may act."""
