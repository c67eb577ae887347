"""What `jobs/receptive_field.py` keeps on the storage, read only."""

import asyncio
import logging
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from fcn_core import storage
from services._problems import Problem
from services._schemas import FieldDescription, FieldFile

log = logging.getLogger(__name__)
_T = TypeVar("_T")
FOLDER, NUMBERS = "receptive_fields", "numbers.json"
MEDIA_TYPES = {
    "png": "image/png",
    "npz": "application/x-npz",
    "json": "application/json",
    "html": "text/html",
}
OTHER = "application/octet-stream"
READERS = 2
"""Threads that read. Whoever waits for one longer than the deadline is told so."""
_ID = re.compile(r"[\w-][\w.-]*")
_LONGEST_ID = 255
"""Bytes: of the name of a file."""


class _Question(BaseModel):
    """What people want to know of the question that numbers.json begins with."""

    model: str
    weights: str
    layer: str
    units: list[int]
    images: str
    num_images: int


class _Numbers(BaseModel):
    question: _Question


class Fields:
    """The looks at units of a storage. What is no whole, published folder is not there.

    Args:
        url: of the storage.
    """

    def __init__(self, url: str) -> None:
        self._root = storage.join(storage.absolute(url), FOLDER)
        self._readers = ThreadPoolExecutor(READERS, "fields")

    def close(self) -> None:
        """End the threads."""
        self._readers.shutdown(wait=False, cancel_futures=True)

    async def ids(self) -> list[str]:
        """Return the id of each look, sorted.

        Raises:
            Problem: the storage cannot be read (503); as do the other methods.
        """
        return await self._read("any", self._ids)

    async def describe(self, id_: str) -> FieldDescription:
        """Return what was looked at, and the files there are.

        Raises:
            Problem: there is no such look (404).
        """
        return await self._read(id_, self._describe, id_)

    async def file(self, id_: str, name: str) -> bytes:
        """Return a file.

        Raises:
            Problem: there is no such file (404).
        """
        return await self._read(f"{id_}/{name}", storage.read_published, self._place(id_), name)

    def _ids(self) -> list[str]:
        names = filter(_ID.fullmatch, storage.list_folder(self._root))
        return [name for name in names if storage.exists(storage.join(self._root, name, storage.COMMIT))]

    def _describe(self, id_: str) -> FieldDescription:
        url = self._place(id_)
        files = storage.read_manifest(url)
        numbers = _Numbers.model_validate_json(storage.read_published(url, NUMBERS))
        return FieldDescription(
            id=id_,
            files=[FieldFile(name=name, media_type=media_type(name), **facts) for name, facts in files.items()],
            **numbers.question.model_dump(),
        )

    def _place(self, id_: str) -> str:
        # A name, never a path: nothing beside the folder can be asked for. Files are those of its manifest.
        if not _ID.fullmatch(id_) or len(id_.encode()) > _LONGEST_ID:
            raise Problem(404, f"{id_!r} is no id of a receptive field")
        return storage.join(self._root, id_)

    async def _read(self, wanted: str, function: Callable[..., _T], *arguments: str) -> _T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._readers, function, *arguments)
        except Problem:
            raise
        except (FileNotFoundError, NotADirectoryError, storage.TornError, ValidationError) as error:
            log.info("not given: %s", error)
            raise Problem(404, f"there is no receptive field {wanted}, or it is not whole") from error
        except Exception as error:
            # The clients of the stores raise errors of their own, which have no base in common.
            log.exception("cannot read receptive fields")
            raise Problem.try_again(503, "the storage cannot be read at present", 5) from error


def media_type(name: str) -> str:
    """Return the media type of a file by the end of its name."""
    return MEDIA_TYPES.get(name.rpartition(".")[2], OTHER)
