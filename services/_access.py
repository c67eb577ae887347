"""Who may ask, and how often."""

import hashlib
import hmac
import ipaddress
import json
import logging
import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from urllib.parse import urlsplit

from fastapi import Request
from pydantic import AwareDatetime, Field

from fcn_core import storage
from fcn_core.settings import Value
from services._problems import Problem

log = logging.getLogger(__name__)


class Token(Value):
    """What is kept of a token: not the token."""

    name: str = Field(min_length=1)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    expires: AwareDatetime
    may_act: bool = False
    """Whether it may start, stop and promote in the experiment service. Reading and segmenting need no such right."""


class Tokens(Value):
    """The contents of a file of tokens."""

    tokens: tuple[Token, ...]

    @classmethod
    def read(cls, url: str) -> "Tokens":
        """Read a file of tokens.

        Raises:
            FileNotFoundError: it is not there.
            ValueError: it is none.
        """
        return cls.model_validate_json(storage.read_bytes(url))

    def write(self, url: str) -> None:
        """Replace a file of tokens."""
        storage.write_bytes(url, (json.dumps(self.model_dump(mode="json"), indent=1) + "\n").encode())

    def find(self, secret: str, now: datetime) -> Token | None:
        """Return what is kept of a token that is valid, or None. The time it takes tells nothing about tokens."""
        digest, found = digest_of(secret), None
        for token in self.tokens:
            if hmac.compare_digest(digest, token.sha256) and now < token.expires:
                found = token
        return found


def digest_of(secret: str) -> str:
    """Return what is kept of a token. Tokens are random, so that a plain hash cannot be turned round."""
    return hashlib.sha256(secret.encode(errors="surrogateescape")).hexdigest()


def check_exposure(host: str, tokens: str | None) -> None:
    """Refuse to be reached from other machines without tokens.

    Raises:
        ValueError: `host`, an address to listen on, is no loopback address, and there are no tokens.
    """
    if tokens is None and not _is_loopback(host):
        raise ValueError(
            f"without tokens the service listens on a loopback address only, not on {host}: set FCN_SERVE_TOKENS "
            "(python -m services.tokens --help), or http_options.host to 127.0.0.1"
        )


class Access:
    """Checks tokens and how often each asks.

    Args:
        tokens: file or URL; None where all may ask, which then must call the service by a loopback name, so that no
            page of another site can reach it through a name of its own.
        rate_per_s: images per second of each token, in the mean; as many may come at once as come in ten seconds.

    Raises:
        FileNotFoundError: the file is not there.
        ValueError: it is none.
    """

    def __init__(
        self, tokens: str | None, rate_per_s: float | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._url = tokens
        self._tokens = Tokens.read(tokens) if tokens else None
        self._rate, self._clock = rate_per_s, clock
        self._levels: dict[str, tuple[float, float]] = {}

    @property
    def wants_tokens(self) -> bool:
        """Whether one has to have a token."""
        return self._url is not None

    def refresh(self) -> None:
        """Read the tokens again. If that fails, however, those from before stay; their expiry counts on."""
        if self._url is None:
            return
        try:
            self._tokens = Tokens.read(self._url)
        except Exception:
            # The clients of the stores raise errors of their own, which have no base in common.
            log.exception("tokens cannot be read again")

    def owner(self, request: Request) -> str:
        """Return who asks.

        Raises:
            Problem: no valid token (401), or without tokens a name that is no loopback name (421).
        """
        token = self._token(request)
        return token.name if token else "anybody"

    def actor(self, request: Request) -> str:
        """Return who asks for something to be done.

        Raises:
            Problem: as `owner`; the token may only read, or a page of another site asks (403).
        """
        token = self._token(request)
        if token is not None and not token.may_act:
            raise Problem(403, f"the token {token.name} may read, not act: python -m services.tokens add --act")
        origin, host = request.headers.get("origin"), request.headers.get("host", "")
        if origin is not None and origin.lower() not in (f"http://{host}".lower(), f"https://{host}".lower()):
            raise Problem(403, f"pages of {origin[:100]} may not act here")
        return token.name if token else "anybody"

    def _token(self, request: Request) -> Token | None:
        if self._tokens is None:
            if not _is_local_name(request.headers.get("host", "")):
                raise Problem(421, "without tokens the service answers on localhost, 127.0.0.1 and [::1] only")
            return None
        scheme, _, secret = request.headers.get("authorization", "").partition(" ")
        found = self._tokens.find(secret.strip(), datetime.now(UTC)) if scheme.lower() == "bearer" else None
        if found is None:
            raise Problem(401, "a valid token is needed: Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})
        return found

    def spend(self, owner: str, images: int) -> None:
        """Count images that were asked for.

        Raises:
            Problem: there were too many (429).
        """
        if self._rate is None:
            return
        most, now = max(10 * self._rate, 1.0), self._clock()
        level, before = self._levels.get(owner, (most, now))
        level = min(most, level + (now - before) * self._rate)
        if images > level and level < most:
            wait = math.ceil((min(images, most) - level) / self._rate)
            raise Problem.try_again(429, f"{owner} asks for more than {self._rate:g} images per second", wait)
        # Of a request that is larger than the most, the rest is owed.
        self._levels[owner] = (level - images, now)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _is_local_name(host: str) -> bool:
    try:
        return urlsplit(f"//{host}").hostname in ("localhost", "127.0.0.1", "::1")
    except ValueError:
        return False
