"""Where versions lie, and the log of which of them was champion when, on any storage.

models/<name>/<version>/                model.safetensors  model.json  evaluation.json  evaluation.npz  example.png
                                        example_mask.png  version.json  manifest.json  COMMIT
models/<name>/claims/<number>.json      numbers of versions that are taken
models/<name>/champions/<number>.json   who became champion, when and why: the last entry is the champion

Claims and entries are created exclusively and never replaced, which local disks and object stores can do alike: of two
writers one gets the next number, and the other learns of it. An entry names the version's manifest by its SHA-256, so
that a version which was changed afterwards is not taken for the champion.
"""

import json
import re
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal

from pydantic import AwareDatetime, Field, ValidationError

from fcn_core import storage
from fcn_core.evaluation import Subject
from fcn_core.registry.version import (
    Candidate,
    Packing,
    Version,
    manifest_of,
    one_line,
    read_report,
    read_version,
)
from fcn_core.settings import Value

MODELS = "models"
"""The folder of a storage that is its registry."""
_NAME, _VERSION, _FILE = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}"), re.compile("[1-9][0-9]*"), "{:08d}.json"


class ChampionMovedError(Exception):
    """Another writer made a version champion since one looked."""


class Entry(Value):
    """A line of the log of champions."""

    format: Literal[1] = 1
    number: int = Field(ge=1)
    version: int = Field(ge=1)
    manifest: str
    """SHA-256 of the version's manifest.json when it became champion."""
    previous: int | None
    """The champion before; None for the first."""
    reason: str
    forced: bool
    """Whether it became champion although it is worse than the one before, or cannot be compared."""
    time: AwareDatetime
    token: str
    """No other entry has it (`storage.create_bytes`)."""


class Registry:
    """The models at a URL."""

    def __init__(self, url: str) -> None:
        self.url = url

    def models(self) -> list[str]:
        """Return the names of all models that have a version."""
        return [name for name in storage.list_folder(self.url) if _NAME.fullmatch(name) and self.versions(name)]

    def versions(self, name: str) -> list[int]:
        """Return the numbers of all versions that were published, in ascending order; some may be damaged since."""
        return [number for number in self._numbers(name) if self._is_published(name, number)]

    def place(self, name: str, number: int) -> str:
        """Return the URL of a version, there or not.

        Raises:
            ValueError: no model can have this name.
        """
        return storage.join(self._folder(name), str(number))

    def find(self, reference: str) -> str | None:
        """Return the URL of the version NAME/VERSION, or of the champion of NAME; None where there is none."""
        name, _, number = reference.partition("/")
        if not _NAME.fullmatch(name) or (number and not _VERSION.fullmatch(number)):
            return None
        entry = None if number else self.champion(name)
        chosen = entry.version if entry else int(number or 0)
        return self.place(name, chosen) if self._is_published(name, chosen) else None

    def read(self, name: str, number: int, manifest: str | None = None) -> Version:
        """Return a version whose files are all as they were published.

        Args:
            name: of the model.
            number: of the version.
            manifest: the SHA-256 that an entry of the log has for it.

        Raises:
            TornError: it is not there, damaged, or not what the entry names.
        """
        url = self.place(name, number)
        version = read_version(url)
        if manifest not in (None, version.manifest):
            raise storage.TornError(f"{url} was changed after it became champion: its manifest is another")
        if (version.facts.name, version.facts.version) != (name, number):
            raise storage.TornError(f"{url} says that it is {version.label}")
        return version

    def packed(self, name: str, subject: Subject) -> list[int]:
        """Return the numbers of the versions that were packed with the evaluation of `subject`, in ascending order."""
        return [number for number in self.versions(name) if self._subject(name, number) == subject]

    def pack(self, name: str, candidate: Candidate) -> Version:
        """Publish a checkpoint, its evaluation and an example as the next version. It is not champion by that.

        Raises:
            ValueError: the name is none, or the evaluation is not one of this checkpoint.
            TornError: the checkpoint is damaged.
        """
        packing = Packing(candidate)
        number = self._claim(name)
        with storage.publishing(self.place(name, number)) as folder:
            packing.write(folder, name, number)
        return self.read(name, number)

    def champion(self, name: str) -> Entry | None:
        """Return the last entry of the log, or None where no version ever was champion.

        Raises:
            TornError: the entry is damaged.
        """
        numbers = _numbered(storage.list_folder(self._log(name)))
        return self.entry(name, numbers[-1]) if numbers else None

    def read_champion(self, name: str) -> Version | None:
        """Return the champion as it was when it became so, or None where there is none.

        Raises:
            TornError: it is damaged or was changed.
        """
        entry = self.champion(name)
        return self.read(name, entry.version, entry.manifest) if entry else None

    def history(self, name: str) -> list[Entry]:
        """Return the log of champions, oldest first.

        Raises:
            TornError: an entry is damaged.
        """
        return [self.entry(name, number) for number in _numbered(storage.list_folder(self._log(name)))]

    def crown(self, version: Version, seen: Entry | None, reason: str, *, forced: bool = False) -> Entry:
        """Make a version champion if the champion is still the one that was seen; `gate.promote` asks the gate first.

        Raises:
            TornError: the version was damaged or changed since it was read.
            ChampionMovedError: another became champion.
        """
        # On the storage itself: this node's copy may be whole where the original no longer is.
        storage.verify(version.url)
        if manifest_of(version.url) != version.manifest:
            raise storage.TornError(f"{version.url} was changed since it was tested: its manifest is another")
        entry = Entry(
            number=seen.number + 1 if seen else 1,
            version=version.facts.version,
            manifest=version.manifest,
            previous=seen.version if seen else None,
            reason=reason,
            forced=forced,
            time=datetime.now(UTC),
            token=secrets.token_hex(8),
        )
        place = storage.join(self._log(version.facts.name), _FILE.format(entry.number))
        try:
            storage.create_bytes(place, (entry.model_dump_json(indent=1) + "\n").encode())
        except FileExistsError as error:
            raise ChampionMovedError(f"the champion of {version.facts.name} moved in the meantime") from error
        return entry

    def _claim(self, name: str) -> int:
        """Return the number of the next version, which no other writer gets."""
        claims = storage.join(self._folder(name), "claims")
        claim = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "token": secrets.token_hex(8)}
        while True:
            number = max([*_numbered(storage.list_folder(claims)), *self._numbers(name)], default=0) + 1
            try:
                storage.create_bytes(storage.join(claims, _FILE.format(number)), json.dumps(claim).encode())
            except FileExistsError:
                continue
            return number

    def _folder(self, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(f"no name of a model: {name!r}; it has lower-case letters, digits, '.', '_' and '-'")
        return storage.join(self.url, name)

    def _log(self, name: str) -> str:
        return storage.join(self._folder(name), "champions")

    def _numbers(self, name: str) -> list[int]:
        return sorted(int(entry) for entry in storage.list_folder(self._folder(name)) if _VERSION.fullmatch(entry))

    def _is_published(self, name: str, number: int) -> bool:
        return storage.exists(storage.join(self.place(name, number), storage.COMMIT))

    def _subject(self, name: str, number: int) -> Subject | None:
        try:
            return read_report(self.place(name, number)).subject
        except (ValidationError, FileNotFoundError):
            return None

    def entry(self, name: str, number: int) -> Entry:
        """Return an entry of the log of champions.

        Raises:
            TornError: it is damaged.
        """
        url = storage.join(self._log(name), _FILE.format(number))
        try:
            entry = Entry.model_validate_json(storage.read_bytes(url))
        except ValidationError as error:
            raise storage.TornError(f"{url} is damaged: {one_line(error)}") from error
        if entry.number != number:
            raise storage.TornError(f"{url} is damaged: it says that it is entry {entry.number}")
        return entry


def _numbered(files: Sequence[str]) -> list[int]:
    return sorted(int(file[:-5]) for file in files if re.fullmatch(r"[0-9]{8}\.json", file))
