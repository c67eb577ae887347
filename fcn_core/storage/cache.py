"""This node's cache, which its processes share: what one of them fetched is there for all.

An entry is a folder that was sealed as a published one is, under a hash of where it came from and of what was there. It
is checked whenever it is used, filled by one process while the others wait, and removed when the cache has grown beyond
`FCN_CACHE_GIB` or its disk is full, the least recently used first.
"""

import errno
import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fcn_core.storage.calls import is_local, open_url, positive
from fcn_core.storage.files import PARTIAL, version_of
from fcn_core.storage.folders import TornError, download, read_manifest, seal, verify

IN_USE_S = 3600.0
"""An entry used so recently stays, however large the cache is: somebody may be reading it."""
LOOK_EVERY_S = 60.0
"""How often the size of the cache is looked at while it grows."""
STALE_S = 86400.0
"""Age of an unfinished entry that nobody finishes any more."""
_FULL = (errno.ENOSPC, errno.EDQUOT)

logger = logging.getLogger(__name__)


def fetch(url: str) -> Path:
    """Return a local folder with the verified files published at `url`, downloaded once per node.

    Raises:
        TornError: the folder is incomplete or damaged.
    """
    place = open_url(url)
    if place.is_local:
        verify(url)
        return Path(place.path)
    files = read_manifest(url)
    return _kept(json.dumps([url, files], sort_keys=True), lambda folder: download(url, files, folder))


def cached(url: str) -> Path:
    """Return a local path with the contents of a file: itself if it is local, else a copy kept in this node's cache.

    Raises:
        FileNotFoundError: there is no such file.
    """
    place = open_url(url)
    facts = place.call("info", place.path)
    name = Path(place.path).name
    if place.is_local:
        return Path(place.path)

    def fill(folder: Path) -> None:
        place.call("get_file", place.path, str(folder / name), size=facts.get("size") or 0)

    return _kept(json.dumps([url, version_of(facts)]), fill) / name


class Copies:
    """Files as a reader of many saw them first: the storage is not asked again for one that is still in the cache.

    What the same process read before, it reads again without a request, and without a storage that answers.
    """

    def __init__(self) -> None:
        self._seen: dict[str, Path] = {}

    def path(self, url: str) -> Path:
        """Return what `cached` returned before, or returns now.

        Raises:
            FileNotFoundError: there is no such file.
        """
        if is_local(url):
            return cached(url)
        seen = self._seen.get(url)
        if seen is None or not _is_whole(seen.parent):
            seen = self._seen[url] = cached(url)
        else:
            _use(seen.parent)
        return seen


def cache_folder() -> Path:
    """Return this node's cache, `$FCN_CACHE` or `~/.cache/fcn_lab`."""
    return Path(os.environ.get("FCN_CACHE", Path.home() / ".cache" / "fcn_lab"))


def _kept(what: str, fill: Callable[[Path], None]) -> Path:
    key = hashlib.sha256(what.encode()).hexdigest()
    target = cache_folder() / "entries" / key[:2] / key
    if not _is_whole(target):
        with _alone(key):
            # Whoever was here before may have filled it.
            if not _is_whole(target):
                _fill_making_room(target, fill)
        _evict()
    _use(target)
    return target


def _use(target: Path) -> None:
    with suppress(FileNotFoundError):
        os.utime(target)


def _is_whole(target: Path) -> bool:
    if not target.exists():
        return False
    try:
        verify(str(target))
    except (TornError, OSError) as error:
        logger.warning("fetching again what this node's cache has lost: %s", error)
        return False
    return True


def _fill_making_room(target: Path, fill: Callable[[Path], None]) -> None:
    try:
        _fill(target, fill)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        logger.warning("the disk of this node's cache is full: making room in %s", cache_folder())
        _shrink(0)
        try:
            _fill(target, fill)
        except OSError as again:
            if again.errno not in _FULL:
                raise
            wanted = f"make room there, or set FCN_CACHE to a folder on another disk: {again.strerror}"
            raise OSError(again.errno, f"this node's cache {cache_folder()} is on a full disk; {wanted}") from again


def _fill(target: Path, fill: Callable[[Path], None]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    _discard(target)
    partial = Path(tempfile.mkdtemp(dir=target.parent, prefix=PARTIAL))
    try:
        fill(partial)
        seal(partial)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _alone(key: str) -> Iterator[None]:
    """Let one thread of one process of this node fill an entry; a process that dies makes way."""
    folder = cache_folder() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / key[:2]).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _evict() -> None:
    looked, now = cache_folder() / "looked", time.time()
    if looked.exists() and now - looked.stat().st_mtime < LOOK_EVERY_S:
        return
    looked.touch()
    _shrink(positive("FCN_CACHE_GIB", 50.0) * 2**30)


def _shrink(limit: float) -> None:
    """Remove what nobody has used for longest, until no more bytes than this are left."""
    now = time.time()
    entries = []
    for folder in (cache_folder() / "entries").glob("*/*"):
        with suppress(FileNotFoundError):
            size = sum(path.stat().st_size for path in folder.iterdir())
            entries.append((folder.stat().st_mtime, size, folder))
    total = sum(size for _, size, _ in entries)
    for used, size, folder in sorted(entries):
        age = now - used
        if folder.name.startswith(PARTIAL):
            if age > STALE_S:
                _discard(folder)
        elif total > limit and age > IN_USE_S:
            _discard(folder)
            total -= size


def _discard(folder: Path) -> None:
    """Remove an entry in one step, as others see it."""
    grave = folder.with_name(f"{PARTIAL}{os.getpid()}-{folder.name}")
    with suppress(FileNotFoundError):
        folder.rename(grave)
        shutil.rmtree(grave, ignore_errors=True)
