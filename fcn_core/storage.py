"""Files and folders on any storage that fsspec knows: a local folder, s3://bucket/folder, gs://, memory://.

A folder is published whole or not at all: files first, then `manifest.json` (size and SHA-256 of each), then `COMMIT`
(SHA-256 of the manifest). A reader trusts nothing without a COMMIT that fits.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

MANIFEST, COMMIT = "manifest.json", "COMMIT"
PARTIAL = ".partial-"
"""How the names of folders and files begin that are still being written."""


class TornError(Exception):
    """A published folder is incomplete or damaged."""


def join(root: str, *parts: str) -> str:
    """Return the URL or path of something below `root`."""
    return "/".join([root.rstrip("/"), *parts])


def absolute(url: str) -> str:
    """Return a URL as it is, and a local path made absolute, so that other processes find it."""
    return str(Path(_open(url)[1]).resolve()) if is_local(url) else url


def is_local(url: str) -> bool:
    """Tell whether `url` is a path of this machine."""
    return isinstance(_open(url)[0], LocalFileSystem)


def check_access(url: str) -> None:
    """Try to reach a storage.

    Raises:
        OSError: it cannot be reached; the message says why: no credentials, no connection, no such kind of storage.
    """
    try:
        exists(url)
    except Exception as error:
        # The clients of the stores raise errors of their own, which have no base in common.
        raise OSError(f"cannot use {url}: {' '.join(str(error).split()) or type(error).__name__}") from error


def exists(url: str) -> bool:
    """Tell whether a file or folder is there."""
    filesystem, path = _open(url)
    return bool(filesystem.exists(path))


def read_bytes(url: str) -> bytes:
    """Return the contents of a file.

    Raises:
        FileNotFoundError: there is none.
    """
    filesystem, path = _open(url)
    return bytes(filesystem.cat_file(path))


def write_bytes(url: str, contents: bytes) -> None:
    """Replace a file in one step: readers see the old contents or the new, never a part."""
    filesystem, path = _open(url)
    if is_local(url):
        with _written(Path(path), contents) as partial:
            partial.replace(path)
    else:
        filesystem.pipe_file(path, contents)


def create_bytes(url: str, contents: bytes) -> None:
    """Write a file that must not be there yet, in one step: of several writers at the same moment one succeeds.

    Contents should be this writer's alone (hold a random token): the client of an object store repeats a request whose
    answer was lost, and then meets its own file. The store must know conditional writes.

    Raises:
        FileExistsError: it is there.
    """
    filesystem, path = _open(url)
    if is_local(url):
        # Unlike a rename, a link never replaces.
        with _written(Path(path), contents) as partial:
            Path(path).hardlink_to(partial)
        return
    try:
        filesystem.pipe_file(path, contents, mode="create")
    except OSError as error:
        # s3fs knows a taken key by a part of the answer that not every server sends.
        if not filesystem.exists(path):
            raise
        if read_bytes(url) != contents:
            raise FileExistsError(f"{url} is there already") from error


def list_folder(url: str) -> list[str]:
    """Return the sorted names of what lies in a folder; none if the folder is not there."""
    filesystem, path = _open(url)
    try:
        entries = filesystem.ls(path, detail=False)
    except FileNotFoundError:
        return []
    return sorted({Path(entry).name for entry in entries if entry.rstrip("/") != path.rstrip("/")})


def find_files(url: str) -> dict[str, str]:
    """Return the path of each file below a folder, relative to it and sorted, with its `version`."""
    filesystem, path = _open(url)
    root = f"{path.rstrip('/')}/"
    found = filesystem.find(path, detail=True)
    return {name.removeprefix(root): _version(found[name]) for name in sorted(found)}


def version(url: str) -> str:
    """Return a text that is another one once a file has been changed.

    Raises:
        FileNotFoundError: there is no such file.
    """
    filesystem, path = _open(url)
    return _version(filesystem.info(path))


def remove_folder(url: str) -> None:
    """Delete a folder, its COMMIT first, so that no reader takes the rest for whole."""
    filesystem, path = _open(url)
    if filesystem.exists(f"{path}/{COMMIT}"):
        filesystem.rm_file(f"{path}/{COMMIT}")
    if filesystem.exists(path):
        filesystem.rm(path, recursive=True)


@contextmanager
def publishing(url: str) -> Iterator[Path]:
    """Give an empty local folder whose files are published at `url` when the block ends; if it raises, nothing is."""
    if is_local(url):
        target = Path(_open(url)[1])
        target.parent.mkdir(parents=True, exist_ok=True)
        place: str | None = str(target.parent)
    else:
        place = None
    folder = Path(tempfile.mkdtemp(dir=place, prefix=PARTIAL))
    try:
        yield folder
        files = _seal(folder)
        remove_folder(url)
        _move(folder, files, url)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def verify(url: str) -> dict[str, dict[str, Any]]:
    """Check that a published folder is whole, and return size and SHA-256 of each of its files.

    Raises:
        TornError: it is not; the message says what is wrong.
    """
    files = _manifest(url)
    for name, expected in files.items():
        _check_file(url, name, expected)
    return files


def contents(url: str) -> dict[str, dict[str, Any]]:
    """Return size and SHA-256 of each file that was published at `url`, without looking at the files.

    Raises:
        TornError: nothing was published there, or its manifest is damaged.
    """
    return _manifest(url)


def read_published(url: str, name: str) -> bytes:
    """Return one verified file of those published at `url`.

    Raises:
        FileNotFoundError: it is none of them.
        TornError: the folder or the file is damaged.
    """
    files = _manifest(url)
    if name not in files:
        raise FileNotFoundError(f"{url} has no file {name}")
    try:
        found = read_bytes(join(url, name))
    except FileNotFoundError as error:
        raise TornError(f"{url} is damaged: {name} is missing") from error
    if hashlib.sha256(found).hexdigest() != files[name]["sha256"]:
        raise TornError(f"{url} is damaged: {name} has not the SHA-256 of {MANIFEST}")
    return found


def fetch(url: str) -> Path:
    """Return a local folder with the verified files published at `url`, downloaded once per node.

    Raises:
        TornError: the folder is incomplete or damaged.
    """
    if is_local(url):
        verify(url)
        return Path(_open(url)[1])
    files = _manifest(url)
    key = hashlib.sha256(json.dumps([url, files], sort_keys=True).encode()).hexdigest()
    target = cache_folder() / "folders" / key
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=target.parent, prefix=PARTIAL))
        try:
            _download(url, files, partial)
            _rename_unless_there(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return target


def cached(url: str) -> Path:
    """Return a local path with the contents of a file: itself if it is local, else a copy kept in this node's cache.

    Raises:
        FileNotFoundError: there is no such file.
    """
    filesystem, path = _open(url)
    facts = filesystem.info(path)
    if is_local(url):
        return Path(path)
    key = hashlib.sha256(json.dumps([url, _version(facts)]).encode()).hexdigest()
    target = cache_folder() / "files" / key[:2] / f"{key}{Path(path).suffix}"
    if not target.exists():
        with _written(target, b"", mode=0o600) as partial:
            filesystem.get_file(path, str(partial))
            partial.replace(target)
    return target


def cache_folder() -> Path:
    """Return this node's cache, `$FCN_CACHE` or `~/.cache/fcn_lab`."""
    return Path(os.environ.get("FCN_CACHE", Path.home() / ".cache" / "fcn_lab"))


def _open(url: str) -> tuple[Any, str]:
    # Others write and delete too: what was listed a moment ago is no answer.
    filesystem, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
    return filesystem, str(path)


def _version(facts: dict[str, Any]) -> str:
    # Whatever the storage tells of a file: size, times, ETag, generation.
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


@contextmanager
def _written(target: Path, contents: bytes, mode: int = 0o644) -> Iterator[Path]:
    """Give a file with these contents beside `target`, safe on the disk, and remove it if it is still there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f"{PARTIAL}{target.name}.")
    partial = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(contents)
            file.flush()
            os.fsync(file.fileno())
        partial.chmod(mode)
        yield partial
    finally:
        partial.unlink(missing_ok=True)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _seal(folder: Path) -> list[str]:
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


def _move(folder: Path, names: list[str], url: str) -> None:
    filesystem, path = _open(url)
    if is_local(url):
        folder.chmod(0o755)
        folder.rename(path)
        return
    for name in names:
        filesystem.put_file(str(folder / name), f"{path}/{name}")


def _manifest(url: str) -> dict[str, dict[str, Any]]:
    manifest, commit = _seal_part(url, MANIFEST), _seal_part(url, COMMIT)
    if commit.decode(errors="replace").strip() != hashlib.sha256(manifest).hexdigest():
        raise TornError(f"{url} is damaged: COMMIT does not fit {MANIFEST}")
    files: dict[str, dict[str, Any]] = json.loads(manifest)["files"]
    if unsafe := [name for name in files if Path(name).name != name or name in ("", ".", "..")]:
        raise TornError(f"{url} is damaged: {MANIFEST} names files outside the folder: {unsafe[0]}")
    return files


def _seal_part(url: str, name: str) -> bytes:
    try:
        return read_bytes(join(url, name))
    except FileNotFoundError as error:
        raise TornError(f"{url} was never completed: it lacks {name}") from error


def _check_file(url: str, name: str, expected: dict[str, Any]) -> None:
    filesystem, path = _open(join(url, name))
    if not filesystem.exists(path):
        raise TornError(f"{url} is damaged: {name} is missing")
    with filesystem.open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected["sha256"]:
        raise TornError(f"{url} is damaged: {name} has not the SHA-256 of {MANIFEST}")


def _download(url: str, files: dict[str, dict[str, Any]], folder: Path) -> None:
    filesystem, path = _open(url)
    for name, expected in files.items():
        if not filesystem.exists(f"{path}/{name}"):
            raise TornError(f"{url} is damaged: {name} is missing")
        filesystem.get_file(f"{path}/{name}", str(folder / name))
        if _digest(folder / name) != expected["sha256"]:
            raise TornError(f"{url} is damaged: {name} has not the SHA-256 of {MANIFEST}")


def _rename_unless_there(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except OSError:
        # Another worker of this node was faster; its copy was verified too.
        if not target.exists():
            raise
