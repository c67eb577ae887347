"""Calls of a storage: each has a deadline, and what may pass by itself is tried again."""

import errno
import logging
import os
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
from fsspec.implementations.local import LocalFileSystem
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

SLOWEST = 2**20
"""Bytes per second that a storage must take or give beyond the deadline of a call without contents."""
LISTINGS = ("find", "ls", "rm")
"""Methods that take many requests for one call."""
_LISTING_FACTOR = 10
_PART = 50 * 2**20
"""Bytes of the parts in which s3fs uploads and downloads large files."""
_CONNECT_S = 10.0
_PASSING_ERRNOS = {
    errno.EIO,
    errno.EREMOTEIO,
    errno.EBUSY,
    errno.EAGAIN,
    errno.ETIMEDOUT,
    errno.EPIPE,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
}
_PASSING_STATUSES = {408, 409, 429}
_PASSING_CODES = {"RequestTimeout", "IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch"}
_CLIENTS = {"aiohttp", "aiobotocore", "botocore", "urllib3", "requests"}
"""Packages whose errors have no base in common with others."""
_OURS = {"NoCredentialsError", "PartialCredentialsError", "NoRegionError", "ParamValidationError", "InvalidURL"}
"""Errors of those that are the user's."""

logger = logging.getLogger(__name__)


class RefusedError(PermissionError):
    """A storage refuses what is asked: there is no access, or no such bucket."""


class UnavailableError(OSError):
    """A storage did not do what was asked for as long as one waits for it."""


class Limits(NamedTuple):
    """How long one waits for a storage; from the environment, or as `waiting` has it."""

    deadline_s: float
    """For one call, `FCN_STORAGE_DEADLINE_S`; one with contents gets a second more for each MiB."""
    patience_s: float
    """For calls that fail in a way that may pass, `FCN_STORAGE_PATIENCE_S`."""

    @classmethod
    def read(cls) -> "Limits":
        """Return those that hold here.

        Raises:
            ValueError: a variable is no positive number.
        """
        return _LIMITS.get() or cls(positive("FCN_STORAGE_DEADLINE_S", 60.0), positive("FCN_STORAGE_PATIENCE_S", 300.0))


_LIMITS: ContextVar[Limits | None] = ContextVar("limits", default=None)


@contextmanager
def waiting(limits: Limits) -> Iterator[None]:
    """Let whatever this thread opens in the block wait for storages as long as this, not as the environment says."""
    token = _LIMITS.set(limits)
    try:
        yield
    finally:
        _LIMITS.reset(token)


class Place(NamedTuple):
    """A URL, opened."""

    url: str
    filesystem: Any
    path: str
    limits: Limits
    """Kept, since other threads than the one that opened it may use it."""

    @property
    def is_local(self) -> bool:
        """Whether it is a path of this machine."""
        return isinstance(self.filesystem, LocalFileSystem)

    def call(self, method: str, *args: object, size: int = 0, patient: bool = True, **kwargs: object) -> Any:  # noqa: ANN401
        """Call a method of the filesystem; on this machine, as it is.

        Args:
            method: its name.
            args: its arguments.
            size: bytes of contents that it moves.
            patient: try again what may pass.
            kwargs: its arguments by name.

        Raises:
            RefusedError: there is no access, or no such bucket.
            UnavailableError: it failed for as long as one waits.
        """
        if self.is_local:
            return getattr(self.filesystem, method)(*args, **kwargs)
        limits = self.limits
        once = limits.deadline_s * (_LISTING_FACTOR if method in LISTINGS else 1)
        attempt = partial(self._attempt, method, once + size / SLOWEST, *args, **kwargs)
        retrying = Retrying(
            stop=stop_after_delay(limits.patience_s),
            wait=wait_random_exponential(multiplier=0.2, max=15),
            retry=retry_if_exception(lambda error: patient and may_pass(error)),
            before_sleep=partial(self._warn, method),
            retry_error_callback=partial(self._give_up, method, limits),
        )
        return retrying(attempt)

    def find(self) -> dict[str, dict[str, Any]]:
        """Return what the storage tells of everything below, by path: of files, on this machine of folders too.

        Raises:
            OSError: a folder cannot be listed. On this machine fsspec itself would take it for empty.
        """
        if not self.is_local:
            return dict(self.call("find", self.path, detail=True))
        found = {}
        # Links to folders are not followed: they may lead round in circles, or elsewhere.
        for folder, folders, files in os.walk(self.path, onerror=_raise_unless_gone):
            for name in folders + files:
                path = Path(folder) / name
                if path.exists():
                    with suppress(FileNotFoundError):
                        found[str(path)] = self.filesystem.info(str(path))
        return found

    def _attempt(self, method: str, deadline_s: float, *args: object, **kwargs: object) -> Any:  # noqa: ANN401
        function = getattr(self.filesystem, method)
        try:
            if self.filesystem.async_impl:
                return function(*args, timeout=deadline_s, **kwargs)
            return _within(deadline_s, partial(function, *args, **kwargs))
        except Exception as error:
            if is_refusal(error):
                raise RefusedError(f"{self.url} refuses {method}: {one_line(error)}") from error
            if isinstance(error, TimeoutError) and not str(error):
                raise TimeoutError(f"no answer within {deadline_s:.3g} s") from error
            raise

    def _warn(self, method: str, state: RetryCallState) -> None:
        logger.warning("%s: %s failed, trying again: %s", self.url, method, one_line(_error_of(state)))

    def _give_up(self, method: str, limits: Limits, state: RetryCallState) -> None:
        tried = f"{method} failed {state.attempt_number} times in {limits.patience_s:g} s (FCN_STORAGE_PATIENCE_S)"
        last = _error_of(state)
        raise UnavailableError(f"{self.url}: {tried}, last: {one_line(last)}") from last


def open_url(url: str) -> Place:
    """Open a URL; nothing is read yet."""
    # Others write and delete too: what was listed a moment ago is no answer.
    options: dict[str, Any] = {"use_listings_cache": False}
    limits = Limits.read()
    if url.startswith(("s3://", "s3a://")):
        options |= {"config_kwargs": _botocore(limits)}
    filesystem, path = fsspec.core.url_to_fs(url, **options)
    if "config_kwargs" in options:
        # Multiplied with botocore's own attempts, these would make one call last for minutes.
        filesystem.retries = 1
    return Place(url, filesystem, str(path), limits)


def _botocore(limits: Limits) -> dict[str, Any]:
    """Return botocore's settings: few attempts of its own, for the parts of a large file; the rest is ours."""
    ours = {
        "retries": {"mode": "standard", "total_max_attempts": 2},
        "connect_timeout": _CONNECT_S,
        # It runs while a part of a large file goes up.
        "read_timeout": limits.deadline_s + _PART / SLOWEST,
    }
    return {**fsspec.config.conf.get("s3", {}).get("config_kwargs", {}), **ours}


def positive(name: str, default: float) -> float:
    """Return the number above 0 that an environment variable has.

    Raises:
        ValueError: it has none.
    """
    text = os.environ.get(name, "")
    try:
        value = float(text or default)
    except ValueError:
        value = 0.0
    if value <= 0:
        raise ValueError(f"{name} is {text!r}: give a number above 0")
    return value


def join(root: str, *parts: str) -> str:
    """Return the URL or path of something below `root`."""
    return "/".join([root.rstrip("/"), *parts])


def absolute(url: str) -> str:
    """Return a URL as it is, and a local path made absolute, so that other processes find it."""
    place = open_url(url)
    return str(Path(place.path).resolve()) if place.is_local else url


def is_local(url: str) -> bool:
    """Tell whether `url` is a path of this machine."""
    return open_url(url).is_local


def may_pass(error: BaseException) -> bool:
    """Tell whether what failed may succeed if it is tried again."""
    answer = _answer(error)
    if answer is not None:
        status, code = answer
        return (status >= 500 and status != 501) or status in _PASSING_STATUSES or code in _PASSING_CODES
    if isinstance(error, TimeoutError | ConnectionError):
        return True
    if type(error).__module__.partition(".")[0] in _CLIENTS:
        return type(error).__name__ not in _OURS
    return isinstance(error, OSError) and error.errno in _PASSING_ERRNOS


def is_refusal(error: BaseException) -> bool:
    """Tell whether a storage lets nobody do what was asked: no access, no bucket."""
    answer = _answer(error)
    return isinstance(error, PermissionError) or (answer is not None and answer[1] == "NoSuchBucket")


def one_line(error: BaseException) -> str:
    """Return what an error says in one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


def _raise_unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _answer(error: BaseException) -> tuple[int, str] | None:
    """Return status and code of the answer of an object store, where there was one."""
    for one in (error, error.__cause__):
        response = getattr(one, "response", None)
        if isinstance(response, dict):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            return status, str(response.get("Error", {}).get("Code"))
    return None


def _error_of(state: RetryCallState) -> BaseException:
    error = state.outcome.exception() if state.outcome else None
    return error or RuntimeError("no error")


def _within(deadline_s: float, function: partial[Any]) -> Any:  # noqa: ANN401
    """Call what cannot be cancelled: after the deadline nobody waits for it any more."""
    future: Future[Any] = Future()

    def carry_out() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=carry_out, daemon=True).start()
    return future.result(deadline_s)
