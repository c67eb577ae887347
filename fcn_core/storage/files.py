"""Single files, and what lies in a folder."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fcn_core.storage.calls import RefusedError, one_line, open_url

PARTIAL = ".partial-"
"""How the names of folders and files begin that are still being written."""


def check_access(url: str) -> None:
    """Try to reach a storage, without patience.

    Raises:
        OSError: it cannot be reached; the message says why: no credentials, no connection, no such bucket or kind of
            storage.
    """
    try:
        place = open_url(url)
        if not place.call("exists", place.path, patient=False):
            # A folder that is not there is as good as an empty one, but its bucket must be there.
            place.call("ls", place.path, patient=False)
    except FileNotFoundError:
        return
    except Exception as error:
        # The clients of the stores raise errors of their own, which have no base in common.
        text = str(error) if isinstance(error, RefusedError) else one_line(error)
        raise OSError(f"cannot use {url}: {text}") from error


def exists(url: str) -> bool:
    """Tell whether a file or folder is there."""
    place = open_url(url)
    return bool(place.call("exists", place.path))


def read_bytes(url: str) -> bytes:
    """Return the contents of a file.

    Raises:
        FileNotFoundError: there is none.
    """
    place = open_url(url)
    return bytes(place.call("cat_file", place.path))


def write_bytes(url: str, contents: bytes) -> None:
    """Replace a file in one step: readers see the old contents or the new, never a part."""
    place = open_url(url)
    if place.is_local:
        with _written(Path(place.path), contents) as partial:
            partial.replace(place.path)
    else:
        place.call("pipe_file", place.path, contents, size=len(contents))


def create_bytes(url: str, contents: bytes) -> None:
    """Write a file that must not be there yet, in one step: of several writers at the same moment one succeeds.

    Contents should be this writer's alone (hold a random token): a request whose answer was lost is repeated, and then
    meets its own file. The store must know conditional writes.

    Raises:
        FileExistsError: it is there.
    """
    place = open_url(url)
    if place.is_local:
        # Unlike a rename, a link never replaces.
        with _written(Path(place.path), contents) as partial:
            Path(place.path).hardlink_to(partial)
        return
    try:
        place.call("pipe_file", place.path, contents, size=len(contents), mode="create")
    except OSError as error:
        # s3fs knows a taken key by a part of the answer that not every server sends.
        if not exists(url):
            raise
        if read_bytes(url) != contents:
            raise FileExistsError(f"{url} is there already") from error


def remove_file(url: str) -> None:
    """Delete a file, there or not."""
    place = open_url(url)
    with suppress(FileNotFoundError):
        place.call("rm_file", place.path)


def list_folder(url: str) -> list[str]:
    """Return the sorted names of what lies in a folder; none if the folder is not there."""
    place = open_url(url)
    try:
        entries = place.call("ls", place.path, detail=False)
    except FileNotFoundError:
        return []
    return sorted({Path(entry).name for entry in entries if entry.rstrip("/") != place.path.rstrip("/")})


def find_files(url: str) -> dict[str, str]:
    """Return the path of each file below a folder, relative to it and sorted, with its `version`."""
    place = open_url(url)
    root = f"{place.path.rstrip('/')}/"
    found = place.find()
    files = sorted(path for path, facts in found.items() if facts["type"] == "file")
    return {path.removeprefix(root): version_of(found[path]) for path in files}


def version(url: str) -> str:
    """Return a text that is another one once a file has been changed.

    Raises:
        FileNotFoundError: there is no such file.
    """
    place = open_url(url)
    return version_of(place.call("info", place.path))


def version_of(facts: dict[str, Any]) -> str:
    """Return the same of what the storage tells of a file: size, times, ETag, generation."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


@contextmanager
def _written(target: Path, contents: bytes) -> Iterator[Path]:
    """Give a file with these contents beside `target`, safe on the disk, and remove it if it is still there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f"{PARTIAL}{target.name}.")
    partial = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(contents)
            file.flush()
            os.fsync(file.fileno())
        partial.chmod(0o644)
        yield partial
    finally:
        partial.unlink(missing_ok=True)
