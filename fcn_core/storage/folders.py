"""Folders that are published whole or not at all."""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from fcn_core.storage.calls import Place, join, open_url
from fcn_core.storage.files import PARTIAL, read_bytes

MANIFEST, COMMIT = "manifest.json", "COMMIT"
_CHUNK = 32 * 2**20
"""Bytes that are read at once to be checked."""
_AT_ONCE = 4
"""Files that are uploaded or downloaded side by side."""
_PUBLISHING = f"{PARTIAL}publishing-"
_NEW_S = 60.0


class TornError(Exception):
    """A published folder is incomplete or damaged."""


def remove_folder(url: str) -> None:
    """Delete a folder, its COMMIT first, so that no reader takes the rest for whole; or a file; there or not."""
    place = open_url(url)
    # Asked for again after an answer that was lost, it may be gone.
    with suppress(FileNotFoundError, NotADirectoryError):
        place.call("rm_file", f"{place.path}/{COMMIT}")
    with suppress(FileNotFoundError):
        place.call("rm", place.path, recursive=True)


@contextmanager
def publishing(url: str) -> Iterator[Path]:
    """Give an empty local folder whose files are published at `url` when the block ends; if it raises, nothing is."""
    target = open_url(url)
    beside: Path | None = None
    if target.is_local:
        beside = Path(target.path).parent
        beside.mkdir(parents=True, exist_ok=True)
    else:
        _remove_left()
    folder = Path(tempfile.mkdtemp(dir=beside, prefix=_PUBLISHING))
    try:
        with _held(folder, if_possible=True):
            yield folder
            names = seal(folder)
            remove_folder(url)
            if target.is_local:
                folder.chmod(0o755)
                folder.rename(target.path)
            else:
                _upload(folder, names, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def verify(url: str) -> dict[str, dict[str, Any]]:
    """Check that a published folder is whole, and return size and SHA-256 of each of its files.

    Raises:
        TornError: it is not; the message says what is wrong.
    """
    files = read_manifest(url)
    for name, expected in files.items():
        try:
            found = _digest_of(join(url, name), expected["size"])
        except FileNotFoundError as error:
            raise TornError(f"{url} is damaged: {name} is missing") from error
        if found != expected["sha256"]:
            raise TornError(f"{url} is damaged: {name} has not the SHA-256 of {MANIFEST}")
    return files


def is_whole(url: str) -> bool:
    """Tell whether a published folder is there and whole."""
    try:
        verify(url)
    except TornError:
        return False
    return True


def seal(folder: Path) -> list[str]:
    """Add manifest.json and COMMIT to a local folder, and return the names of all files in the order of publishing."""
    files = {path.name: {"size": path.stat().st_size, "sha256": _digest(path)} for path in sorted(folder.iterdir())}
    manifest = json.dumps({"files": files}, indent=1).encode()
    (folder / MANIFEST).write_bytes(manifest)
    (folder / COMMIT).write_text(hashlib.sha256(manifest).hexdigest())
    # COMMIT goes last: whatever the moment of a crash, a folder that has one is whole.
    names = [*files, MANIFEST, COMMIT]
    for name in names:
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())
    return names


def read_manifest(url: str) -> dict[str, dict[str, Any]]:
    """Return size and SHA-256 of each file of a published folder, without reading these.

    Raises:
        TornError: there is no manifest with a COMMIT that fits, or it names files outside the folder.
    """
    manifest, commit = _seal_part(url, MANIFEST), _seal_part(url, COMMIT)
    if commit.decode(errors="replace").strip() != hashlib.sha256(manifest).hexdigest():
        raise TornError(f"{url} is damaged: COMMIT does not fit {MANIFEST}")
    try:
        files = {
            str(name): {"size": int(facts["size"]), "sha256": str(facts["sha256"])}
            for name, facts in json.loads(manifest)["files"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TornError(f"{url} is damaged: {MANIFEST} is not understood") from error
    if unsafe := [name for name in files if Path(name).name != name or name in ("", ".", "..")]:
        raise TornError(f"{url} is damaged: {MANIFEST} names files outside the folder: {unsafe[0]}")
    return files


def read_published(url: str, name: str) -> bytes:
    """Return one verified file of a published folder.

    Raises:
        FileNotFoundError: it is none of its files.
        TornError: the folder or the file is damaged.
    """
    files = read_manifest(url)
    if name not in files:
        raise FileNotFoundError(f"{url} has no file {name}")
    try:
        found = read_bytes(join(url, name))
    except FileNotFoundError as error:
        raise TornError(f"{url} is damaged: {name} is missing") from error
    if hashlib.sha256(found).hexdigest() != files[name]["sha256"]:
        raise TornError(f"{url} is damaged: {name} has not the SHA-256 of {MANIFEST}")
    return found


def download(url: str, files: dict[str, dict[str, Any]], folder: Path) -> None:
    """Bring the files of a published folder into a local one, and check them.

    Raises:
        TornError: one is missing or damaged.
    """
    place = open_url(url)

    def bring(name: str) -> None:
        try:
            place.call("get_file", f"{place.path}/{name}", str(folder / name), size=files[name]["size"])
        except FileNotFoundError as error:
            raise TornError(f"{url} is damaged: {name} is missing") from error
        if _digest(folder / name) != files[name]["sha256"]:
            raise TornError(f"{url} is damaged: {name} has not the SHA-256 of {MANIFEST}")

    with ThreadPoolExecutor(_AT_ONCE) as threads:
        list(threads.map(bring, files))


@contextmanager
def _held(folder: Path, *, if_possible: bool = False) -> Iterator[None]:
    """Hold a folder of this machine while the block runs, or until this process dies.

    Args:
        folder: of this machine.
        if_possible: go on where it cannot be held: what is mounted may know no locks.

    Raises:
        OSError: another process holds it, it is gone, or it is no folder.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        with suppress(OSError) if if_possible else nullcontext():
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _remove_left() -> None:
    """Remove from this machine what processes that were killed were about to upload."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PUBLISHING}*"):
        with suppress(OSError), _held(folder):
            # A new one may not be held yet.
            facts = folder.stat()
            if facts.st_uid == os.getuid() and time.time() - facts.st_mtime > _NEW_S:
                shutil.rmtree(folder, ignore_errors=True)


def _upload(folder: Path, names: Sequence[str], place: Place) -> None:
    def put(name: str) -> None:
        path = folder / name
        place.call("put_file", str(path), f"{place.path}/{name}", size=path.stat().st_size)

    *payload, manifest, commit = names
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        list(threads.map(put, payload))
    put(manifest)
    put(commit)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_of(url: str, size: int) -> str:
    """Return the SHA-256 of a file, read in pieces if it is on a storage; "" if it has another size."""
    place = open_url(url)
    if place.is_local:
        return _digest(Path(place.path))
    if place.call("info", place.path)["size"] != size:
        return ""
    digest = hashlib.sha256()
    for start in range(0, size, _CHUNK):
        end = min(start + _CHUNK, size)
        digest.update(place.call("cat_file", place.path, start=start, end=end, size=end - start))
    return digest.hexdigest()


def _seal_part(url: str, name: str) -> bytes:
    try:
        return read_bytes(join(url, name))
    except FileNotFoundError as error:
        raise TornError(f"{url} was never completed: it lacks {name}") from error
