"""Images to look at, without masks: of a folder or bucket, or of a data set."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fcn_core import storage
from fcn_core.data.base import Dataset
from fcn_core.data.catalogue import OPENERS, open_split
from fcn_core.data.decode import read_image
from fcn_core.data.files import FileDataset
from fcn_core.settings import Data

Pixels = NDArray[np.uint8]

ENDINGS = {".jpg", ".jpeg", ".png", ".webp"}
UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels.swapaxes(0, 1)[:, ::-1],
    7: lambda pixels: pixels.swapaxes(0, 1)[::-1, ::-1],
    8: lambda pixels: pixels.swapaxes(0, 1)[::-1],
}
"""What turns the stored pixels upright, by EXIF orientation."""


class Pictures(Protocol):
    """Images in the order of their names, which are unique."""

    place: str
    """What people call the set: its folder, URL or kind."""
    names: tuple[str, ...]
    versions: tuple[str, ...]
    """A text for each image that is another one once the image has been changed."""

    def read(self, index: int) -> Pixels:
        """Decode an image (H, W, 3) uint8 RGB; a ValueError names the file where that is not possible."""
        ...


@dataclass(eq=False)
class ImageFolder:
    """All images below a folder, turned upright as their EXIF orientation says."""

    place: str
    names: tuple[str, ...]
    """Paths relative to the folder."""
    versions: tuple[str, ...]
    _copies: storage.Copies = field(default_factory=storage.Copies, init=False)

    @classmethod
    def open(cls, url: str) -> "ImageFolder":
        """Find the images, by the endings of their names.

        Raises:
            OSError: the storage cannot be reached.
            FileNotFoundError: there is no such folder, or no image in it.
        """
        storage.check_access(url)
        found = {path: version for path, version in storage.find_files(url).items() if _is_image(path)}
        if not found:
            reason = f"has no image ({', '.join(sorted(ENDINGS))})" if storage.exists(url) else "is not there"
            raise FileNotFoundError(f"the folder of images {url} {reason}")
        return cls(url, tuple(found), tuple(found.values()))

    def read(self, index: int) -> Pixels:
        """Decode an image, or raise a SampleError."""
        file = read_image(storage.join(self.place, self.names[index]), self._copies)
        return np.ascontiguousarray(UPRIGHT[file.orientation](file.pixels))


class DatasetImages:
    """The images of a split of a data set, as the network is trained on them."""

    def __init__(self, data: Data, split: str) -> None:
        """Open the split; raises what `open_split` raises."""
        self._dataset = dataset = open_split(data, split)
        self._order = sorted(range(len(dataset.names)), key=dataset.names.__getitem__)
        self.place = f"{data.kind}:{storage.join(data.path, split) if data.path else split}"
        self.names = tuple(dataset.names[index] for index in self._order)
        self.versions = tuple(_version(dataset, data, index) for index in self._order)

    def read(self, index: int) -> Pixels:
        """Decode an image, or raise a SampleError."""
        place = self._order[index]
        if isinstance(self._dataset, FileDataset):
            return self._dataset.image(place).pixels
        return self._dataset.read(place).image


def open_pictures(place: str) -> Pictures:
    """Open a folder or URL with images; or KIND:PATH/SPLIT, as camvid:/data/camvid/val; or streets, or streets:train.

    Raises:
        OSError: the storage cannot be reached.
        FileNotFoundError: the folder, split or one of its lists is not there, or there is no image.
        ValueError: what describes the data set cannot be used.
    """
    kind, colon, rest = place.partition(":")
    if kind not in OPENERS or rest.startswith("//") or not (colon or kind == "streets"):
        return ImageFolder.open(storage.absolute(place))
    root, _, split = rest.rpartition("/")
    if kind == "streets":
        return DatasetImages(Data(), split or "val")
    if not split:
        raise ValueError(f"{place!r} names no split: write {kind}:PATH/SPLIT, such as {kind}:/data/{kind}/val")
    root = storage.absolute(root or ".")
    storage.check_access(root)
    changes = {"kind": kind, "path": root, "train_split": split, "val_split": split}
    return DatasetImages(Data.model_validate(changes), split)


def _is_image(path: str) -> bool:
    parts = PurePosixPath(path)
    return parts.suffix.lower() in ENDINGS and not any(part.startswith(".") for part in parts.parts)


def _version(dataset: Dataset, data: Data, index: int) -> str:
    if isinstance(dataset, FileDataset):
        try:
            return storage.version(dataset.image_url(index))
        except FileNotFoundError:
            # Reading it will say so.
            return "missing"
    return f"{data.streets.model_dump_json()} {dataset.names[index]}"
