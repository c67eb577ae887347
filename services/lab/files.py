"""The small files of a storage, read once for each of their versions."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
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

    Args:
        url: of the folder.
        refresh_s: how old a list may be.
        clock: seconds.
    """

    def __init__(self, url: str, refresh_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.url = url
        self._refresh_s, self._clock = refresh_s, clock
        self._listed: tuple[float, dict[str, str]] | None = None
        """Until when, and what."""
        self._listing, self._making = threading.Lock(), threading.Lock()
        self._made: OrderedDict[tuple[str, str], tuple[str, Any]] = OrderedDict()
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="files")

    def close(self) -> None:
        """End all threads."""
        self._readers.shutdown(cancel_futures=True)

    def versions(self) -> dict[str, str]:
        """Return the version of each file, by its path below the folder. Who asks while it is listed waits for that.

        Raises:
            OSError: the storage cannot be reached.
        """
        with self._listing:
            start = self._clock()
            if self._listed is None or start >= self._listed[0]:
                found = _find(self.url)
                end = self._clock()
                self._listed = (end + max(self._refresh_s, 4 * (end - start)), found)
            return self._listed[1]

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
            made: _T | ValueError = function(storage.read_bytes(storage.join(self.url, path)))
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


def _find(url: str) -> dict[str, str]:
    try:
        return storage.find_files(url)
    except FileNotFoundError:
        return {}
    except Exception as error:
        # The clients of the stores raise errors of their own, which have no base in common.
        raise OSError(f"cannot list {url}: {' '.join(str(error).split()) or type(error).__name__}") from error
