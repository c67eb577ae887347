"""The small files of a storage, read once for each of their versions."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from fcn_core import storage

_T = TypeVar("_T")
KEPT = 50_000
"""What is made of files, at most; each is a few numbers or settings."""
READERS = 16
"""Files read at once: on an object store each read is a round trip."""


class Files:
    """The files below a folder of a storage.

    The folder is listed in one go, which costs an object store a request for every 1000 files: at most every
    `refresh_s`, and for a fifth of the time. What is made of a file is kept until the file has another version.

    Nobody waits longer than `patience_s` for a storage, so that those who do cannot fill the service's threads while it
    is away; once it did not answer, one at a time tries again, and the others are told so at once.

    Args:
        url: of the folder.
        refresh_s: how old a list may be.
        patience_s: longest to wait for the storage.
        clock: seconds.
    """

    def __init__(
        self, url: str, refresh_s: float, patience_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.url = url
        self._refresh_s, self._patience_s, self._clock = refresh_s, patience_s, clock
        self._listed: dict[str, str] | None = None
        self._listing: Future[dict[str, str]] | None = None
        self._began, self._until = 0.0, 0.0
        """When the list was begun, and until when it is good."""
        self._silent_until = 0.0
        """Until when the storage is not asked, since it did not answer; 0 if it did."""
        self._asked, self._making = threading.Lock(), threading.Lock()
        self._made: OrderedDict[tuple[str, str], tuple[str, Any]] = OrderedDict()
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="files")
        self._lister = ThreadPoolExecutor(1, thread_name_prefix="list")

    def close(self) -> None:
        """End all threads; one that still lists ends when the storage lets it."""
        self._readers.shutdown(cancel_futures=True)
        self._lister.shutdown(wait=False, cancel_futures=True)

    def versions(self) -> dict[str, str]:
        """Return the version of each file, by its path below the folder. Who asks while it is listed waits for that.

        Where that takes long, the list from before is returned as long as nothing says that the storage is away.

        Raises:
            OSError: the storage cannot be reached.
        """
        with self._asked:
            now = self._clock()
            if self._listing is None or (self._listing.done() and now >= self._until):
                self._began, self._listing = now, self._lister.submit(self._list)
            listing, left_s = self._listing, self._began + self._patience_s - now
        try:
            return listing.result(0 if self._silent_until else max(left_s, 0))
        except TimeoutError:
            if self._listed is None:
                raise storage.UnavailableError(f"{self.url} is not listed yet") from None
            return self._listed

    def read(self, path: str) -> bytes:
        """Return a file as it is.

        Raises:
            FileNotFoundError: it is not there.
            OSError: the storage cannot be reached.
        """
        with self.asking():
            return storage.read_bytes(storage.join(self.url, path))

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Let the block ask the storage, with little patience.

        Raises:
            UnavailableError: it did not answer a moment ago.
        """
        with self._asked:
            now = self._clock()
            if now < self._silent_until:
                raise storage.UnavailableError(f"{self.url} did not answer a moment ago")
            if self._silent_until:
                # This one tries; the others need not.
                self._silent_until = now + 2 * self._patience_s
        silent_until = 0.0
        try:
            with storage.waiting(storage.Limits(self._patience_s, self._patience_s)):
                yield
        except storage.UnavailableError:
            silent_until = self._clock() + self._refresh_s
            raise
        finally:
            self._silent_until = silent_until

    def make(self, path: str, function: Callable[[bytes], _T], version: str) -> _T | ValueError | None:
        """Return what a function makes of a file; the error if it is not what the function reads; None if it is gone.

        Args:
            path: below the folder.
            function: raises ValueError for what it cannot read.
            version: of the file, as listed.
        """
        key = (path, function.__qualname__)
        with self._making:
            found = self._made.get(key)
            if found is not None and found[0] == version:
                self._made.move_to_end(key)
                kept: _T | ValueError = found[1]
                return kept
        try:
            made: _T | ValueError = function(self.read(path))
        except FileNotFoundError:
            return None
        except ValueError as error:
            made = error
        with self._making:
            self._made[key] = (version, made)
            while len(self._made) > KEPT:
                self._made.popitem(last=False)
        return made

    def each(self, function: Callable[[str], _T], names: Iterable[str]) -> list[_T]:
        """Return what a function gives for each name, several at once."""
        return list(self._readers.map(function, names))

    def _list(self) -> dict[str, str]:
        start, found = self._clock(), dict[str, str]()
        try:
            with self.asking():
                found = storage.find_files(self.url)
        except FileNotFoundError:
            pass
        except Exception as error:
            # The clients of the stores raise errors of their own, which have no base in common.
            self._listed, self._until = None, self._clock() + self._refresh_s
            raise OSError(f"cannot list {self.url}: {' '.join(str(error).split()) or type(error).__name__}") from error
        end = self._clock()
        self._listed, self._until = found, end + max(self._refresh_s, 4 * (end - start))
        return found
