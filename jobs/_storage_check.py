"""Everything on a storage that no reader would trust, and what can be done about it."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from functools import cache, partial
from pathlib import PurePosixPath
from typing import NamedTuple

from pydantic import ValidationError

from fcn_core import storage
from fcn_core.checkpoint import CARD, Card, RunFolder
from fcn_core.registry.store import Registry
from fcn_core.registry.version import manifest_of
from fcn_core.storage.files import remove_file
from fcn_core.storage.folders import read_manifest
from fcn_core.storage.leftovers import File, abort_upload, uploads, walk

REMOVED = "removed, it is read by nobody"
_PUBLISHED = re.compile(
    r"(?P<run>.*/runs/[^/]+)/(?:checkpoints/[0-9]{8}|evaluations/[^/.][^/]*)"
    r"|(?P<model>.*/models/[^/]+)/[1-9][0-9]*(?:/evaluations/[^/.][^/]*)?"
    r"|.*/(?:receptive_fields|comparisons)/[^/.][^/]*"
)
"""URLs of folders that are published with manifest and COMMIT. Whatever else lies on a storage is somebody else's."""
_EPOCHS = re.compile(r"(?P<run>.*/runs/[^/]+)/epochs\.jsonl")
_ENTRY = re.compile(r"(?P<model>(?:.*/)?(?P<name>[^/]+))/champions/(?P<number>[0-9]{8})\.json")

_BEGUN = re.compile(rf"{re.escape(storage.PARTIAL)}(?:publishing-|.+\.)[a-z0-9_]{{8}}")
"""Names of folders that are being published and of files that are being written, as `fcn_core.storage` makes them."""

Progress = Callable[[int, int], None]


class Finding(NamedTuple):
    """Something that is not whole."""

    url: str
    what: str
    remedy: str
    """What mends it, or what a person can do."""
    mend: Callable[[], None] | None = None
    changed: float | None = None
    """When somebody last wrote to it, in seconds since 1970."""
    unfinished: bool = False
    """Whether it may be what a live run is writing."""


class Look(NamedTuple):
    """What one found."""

    findings: tuple[Finding, ...]
    sealed: int
    entries: int
    refused: tuple[str, ...]
    """What the storage does not let one look at, and why."""


def look_over(url: str, *, quick: bool, progress: Progress) -> Look:
    """Look at everything below a URL.

    Args:
        url: of a storage, or of a folder in it.
        quick: compare sizes only.
        progress: is told of folders done and of all.
    """
    files = walk(url)
    # One question for all checkpoints of a run.
    there = cache(storage.exists)
    folders = _published(url, files, there)
    refused: list[str] = []
    findings = [*_allowed(_uploads(url), refused), *_partial(url, files)]
    for done, folder in enumerate(folders, start=1):
        place = storage.join(url, folder) if folder else url
        findings += _allowed(_folder(place, folders[folder], quick=quick), refused)
        progress(done, len(folders))
    entries = [
        match
        for path in files
        if (match := _ENTRY.fullmatch(path)) and there(storage.join(url, match["model"], "claims"))
    ]
    torn = {finding.url for finding in findings}
    for match in entries:
        findings += _allowed(_entry(url, match, files[match[0]], torn), refused)
    for path in files:
        match = _EPOCHS.fullmatch(storage.join(url, path))
        if match and there(storage.join(match["run"], "run.json")):
            findings += _allowed(_epochs(match[0], files[path]), refused)
    return Look(tuple(findings), len(folders), len(entries), tuple(refused))


def _allowed(findings: Iterable[Finding], refused: list[str]) -> Iterator[Finding]:
    """Go through findings as long as the storage lets one look, and add to `refused` why it does not."""
    try:
        yield from findings
    except storage.RefusedError as error:
        refused.append(str(error))


def _uploads(url: str) -> Iterator[Finding]:
    for upload in uploads(url):
        mend = partial(abort_upload, upload)
        yield Finding(upload.url, "an upload that never ended", "aborted", mend, upload.begun, unfinished=True)


def _partial(url: str, files: Mapping[str, File]) -> Iterator[Finding]:
    """Find what processes that were killed had not yet moved to its place."""
    found: dict[str, list[File]] = {}
    for path, file in files.items():
        parts = PurePosixPath(path).parts
        first = next((place for place, part in enumerate(parts) if _BEGUN.fullmatch(part)), None)
        if first is not None:
            found.setdefault("/".join(parts[: first + 1]), []).append(file)
    for path, below in found.items():
        place = storage.join(url, path)
        remove = storage.remove_folder if below[0].is_folder or path not in files else remove_file
        changed = _newest(below)
        yield Finding(place, "was never moved to its place", REMOVED, partial(remove, place), changed, unfinished=True)


def _published(url: str, files: Mapping[str, File], there: Callable[[str], bool]) -> dict[str, dict[str, File]]:
    """Return the folders that should have a manifest and a COMMIT, with all that lies in them."""
    below: dict[str, dict[str, File]] = {}
    for path, file in files.items():
        if not file.is_folder:
            below.setdefault(path.rpartition("/")[0], {})[path] = file

    def is_ours(folder: str) -> bool:
        found = _PUBLISHED.fullmatch(storage.join(url, folder) if folder else url)
        if found is None or storage.PARTIAL in folder:
            return False
        if found["run"]:
            return there(storage.join(found["run"], "run.json"))
        if found["model"]:
            return there(storage.join(found["model"], "claims"))
        return any(path.endswith((storage.MANIFEST, storage.COMMIT)) for path in below[folder])

    return {folder: below[folder] for folder in sorted(below) if is_ours(folder)}


def _folder(url: str, below: Mapping[str, File], *, quick: bool) -> Iterator[Finding]:
    try:
        files = read_manifest(url)
        if quick:
            _compare_sizes(url, files, below)
        else:
            storage.verify(url)
    except storage.TornError as error:
        finished = storage.exists(storage.join(url, storage.COMMIT))
        if not finished and not storage.list_folder(url):
            # Pruned by its run in the meantime.
            return
        what = str(error).removeprefix(f"{url} ")
        if finished and any(path.endswith("/version.json") for path in below):
            yield Finding(url, what, "promote its run again, or go back: python jobs/models.py rollback NAME")
            return
        changed = _newest(below.values())
        yield Finding(url, what, REMOVED, partial(_remove, url), changed, unfinished=not finished)
        return
    yield from _misplaced(url)


def _remove(url: str) -> None:
    """Remove a folder if it still is what no reader trusts."""
    try:
        storage.verify(url)
    except storage.TornError:
        storage.remove_folder(url)


def _compare_sizes(url: str, files: Mapping[str, Mapping[str, object]], below: Mapping[str, File]) -> None:
    sizes = {path.rpartition("/")[2]: file.size for path, file in below.items()}
    for name, expected in files.items():
        if sizes.get(name) != expected["size"]:
            raise storage.TornError(f"{url} is damaged: {name} has {sizes.get(name, 0)} bytes, not {expected['size']}")


def _misplaced(url: str) -> Iterator[Finding]:
    """Find a checkpoint that lies where another should."""
    parts = url.split("/")
    if len(parts) < 3 or parts[-2] != "checkpoints" or not parts[-1].isdigit():
        return
    try:
        card = Card.model_validate_json(storage.read_bytes(storage.join(url, CARD)))
    except (FileNotFoundError, ValidationError):
        yield Finding(url, f"is whole, but {CARD} is missing or not understood", "move it away by hand")
        return
    if (card.run_id, card.step) != (parts[-3], int(parts[-1])):
        yield Finding(url, f"is whole, but step {card.step} of {card.run_id}", "move it where it belongs")


def _entry(url: str, match: re.Match[str], file: File, torn: Set[str]) -> Iterator[Finding]:
    place = storage.join(url, match[0])
    registry = Registry(storage.join(url, match["model"]).rpartition("/")[0])
    name, number = match["name"], int(match["number"])
    try:
        entry = registry.entry(name, number)
    except storage.TornError as error:
        mend = partial(_set_aside, place)
        yield Finding(place, str(error).removeprefix(f"{place} "), "set aside as .damaged", mend, file.changed)
        return
    version = registry.place(name, entry.version)
    sound = version not in torn and storage.exists(version) and manifest_of(version) == entry.manifest
    if not sound and entry == registry.champion(name):
        what = f"version {entry.version}, the champion, is not what it was when it became so"
        yield Finding(place, what, f"python jobs/models.py rollback {name}")


def _set_aside(url: str) -> None:
    storage.write_bytes(f"{url}.damaged", storage.read_bytes(url))
    remove_file(url)


def _epochs(place: str, file: File) -> Iterator[Finding]:
    try:
        RunFolder(place.rpartition("/")[0]).read_epochs()
    except ValueError:
        remedy = "set aside as .damaged, the run writes it again when it goes on"
        yield Finding(place, "is not understood", remedy, partial(_set_aside, place), file.changed)


def _newest(files: Iterable[File]) -> float | None:
    """Return when the newest was changed, or None if the storage does not tell of one."""
    times = [file.changed for file in files]
    known = [time for time in times if time is not None]
    return max(known) if known and len(known) == len(times) else None
