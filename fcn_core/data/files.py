"""Data sets that are read from files, at any URL that fsspec knows: CamVid, VOC, SBD, or a folder of one's own."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, field_validator

from fcn_core import storage
from fcn_core.data.base import Sample
from fcn_core.data.decode import ImageFile, MaskFile, SampleError, read_image, read_mat_mask, read_png_mask
from fcn_core.settings import VOID, Classes, Value

CAMVID = Classes(
    names=(
        *("sky", "building", "pole", "road", "pavement", "tree"),
        *("sign_symbol", "fence", "car", "pedestrian", "bicyclist"),
    ),
    colours=(
        *((128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0)),
        *((192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192)),
    ),
)
_VOC_NAMES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


class Entry(NamedTuple):
    """Where one sample lies."""

    name: str
    image_url: str
    mask_url: str


class Unpaired(NamedTuple):
    """A file without its partner."""

    file: str
    lacks: str
    """Where the partner was expected; `*` for any ending."""


def no_sequence(name: str) -> str | None:  # noqa: ARG001
    """Return None: the data set knows no sequences."""
    return None


@dataclass(eq=False)
class FileDataset:
    """Pairs of an image file and a mask file, each copied to this node when it is first read (`storage.Copies`)."""

    classes: Classes
    entries: Sequence[Entry]
    read_mask: Callable[[str, storage.Copies], MaskFile] = read_png_mask
    sequence_of: Callable[[str], str | None] = no_sequence
    void: int = VOID
    """The label of the files that means void, beside `VOID`; `read` makes void of any label that is no class."""
    unpaired: tuple[Unpaired, ...] = ()
    _copies: storage.Copies = field(default_factory=storage.Copies, init=False)

    def __post_init__(self) -> None:
        """Raise a ValueError if two samples have one name."""
        if repeated := [name for name, count in Counter(self.names).items() if count > 1]:
            raise ValueError(f"names of samples must be unique, but {len(repeated)} are not: {repeated[0]}")

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Name of each sample."""
        return tuple(entry.name for entry in self.entries)

    def read(self, index: int) -> Sample:
        """Decode sample `index`.

        Raises:
            SampleError: a file cannot be decoded, or image and mask differ in size.
        """
        pixels, labels = self.image(index).pixels, self.mask(index).labels
        if reason := size_trouble(pixels, labels):
            raise SampleError(self.mask_url(index), reason, "size")
        return Sample(pixels, self.to_classes(labels))

    def sequence(self, index: int) -> str | None:
        """Return the video sequence that sample `index` was taken from, where the rule knows it."""
        return self.sequence_of(self.entries[index].name)

    def image_url(self, index: int) -> str:
        """Return where the image of sample `index` lies."""
        return self.entries[index].image_url

    def mask_url(self, index: int) -> str:
        """Return where the mask of sample `index` lies."""
        return self.entries[index].mask_url

    def image(self, index: int) -> ImageFile:
        """Decode the image of sample `index`, or raise a SampleError."""
        return read_image(self.image_url(index), self._copies)

    def mask(self, index: int) -> MaskFile:
        """Decode the mask of sample `index` with the labels of the file, or raise a SampleError."""
        return self.read_mask(self.mask_url(index), self._copies)

    def to_classes(self, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the labels of a file with `VOID` in place of every label that is no class."""
        table = np.full(256, VOID, np.uint8)
        table[: len(self.classes)] = np.arange(len(self.classes))
        table[self.void] = VOID
        mask: NDArray[np.uint8] = table[labels]
        return mask


def size_trouble(pixels: NDArray[np.uint8], labels: NDArray[np.uint8]) -> str | None:
    """Say how a mask differs in size from its image; None if it does not."""
    (height, width), (mask_height, mask_width) = pixels.shape[:2], labels.shape
    if (height, width) == (mask_height, mask_width):
        return None
    return f"is a mask of {mask_height} x {mask_width} pixels (height x width) for an image of {height} x {width}"


def camvid(root: str, split: str) -> FileDataset:
    """Open CamVid in SegNet's layout, folders `train` and `trainannot` and so on: 11 classes, and label 11 is void.

    Raises:
        FileNotFoundError: the split is not there; the message says which are.
    """
    there = storage.list_folder(root)
    _check_split(root, split, [name for name in there if f"{name}annot" in there], f"folders {split} and {split}annot")
    entries, unpaired = _pairs(storage.join(root, split), storage.join(root, f"{split}annot"))
    return FileDataset(CAMVID, entries, sequence_of=_before_underscore, void=len(CAMVID), unpaired=unpaired)


class FolderClasses(Value):
    """What `classes.json` says of a data set in a folder of one's own."""

    names: tuple[str, ...] = Field(description="the classes in the order of their labels, from 0")
    colours: tuple[tuple[int, int, int], ...] | None = Field(None, description="RGB of each class; chosen if left out")
    void: int = Field(VOID, ge=0, le=VOID, description="the label of pixels without a class, beside 255")
    sequence: str | None = Field(None, description="regular expression; its group 1 is the video sequence in a name")

    @field_validator("sequence")
    @classmethod
    def _has_group(cls, pattern: str | None) -> str | None:
        try:
            groups = 1 if pattern is None else re.compile(pattern).groups
        except re.error as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
        if not groups:
            raise ValueError(f"{pattern!r} has no group: put the part that names the sequence in parentheses")
        return pattern

    @property
    def classes(self) -> Classes:
        """Names and colours."""
        # The map starts with black, which in overlays looks like no class at all.
        return Classes(names=self.names, colours=self.colours or colour_map(len(self.names) + 1)[1:])


def folder(root: str, split: str) -> FileDataset:
    """Open `classes.json`, `<split>/images/*` and `<split>/masks/*.png`; files match by name without the ending.

    Raises:
        FileNotFoundError: `classes.json` or the split is not there; the message says which splits are.
        ValueError: `classes.json` is not as `FolderClasses` describes it.
    """
    splits = _folder_splits(root)
    spec, classes = _described(root, splits)
    _check_split(root, split, splits, f"folders {split}/images and {split}/masks")
    entries, unpaired = _pairs(storage.join(root, split, "images"), storage.join(root, split, "masks"))
    rule = no_sequence if spec.sequence is None else partial(_first_group, spec.sequence)
    return FileDataset(classes, entries, sequence_of=rule, void=spec.void, unpaired=unpaired)


def voc(root: str, split: str) -> FileDataset:
    """Open Pascal VOC 2012 as torchvision's VOCSegmentation lays it out, in `VOCdevkit/VOC2012` below `root`.

    Raises:
        FileNotFoundError: the list of the split is not there; the message says which are.
    """
    base = storage.join(root, "VOCdevkit", "VOC2012")
    lists, images = storage.join(base, "ImageSets", "Segmentation"), storage.join(base, "JPEGImages")
    entries, unpaired = _listed_pairs(lists, split, images, storage.join(base, "SegmentationClass"), ".png")
    return FileDataset(_voc_classes(), entries, unpaired=unpaired)


def sbd(root: str, split: str) -> FileDataset:
    """Open SBD as torchvision's SBDataset expects it: `img/*.jpg`, `cls/*.mat`, and lists such as `train_noval.txt`.

    Raises:
        FileNotFoundError: the list of the split is not there; the message says which are.
    """
    entries, unpaired = _listed_pairs(root, split, storage.join(root, "img"), storage.join(root, "cls"), ".mat")
    return FileDataset(_voc_classes(), entries, read_mat_mask, unpaired=unpaired)


def colour_map(num_colours: int) -> tuple[tuple[int, int, int], ...]:
    """Return the first colours of the map that Pascal VOC uses: the bits of the label spread over RGB, highest first.

    >>> colour_map(4)
    ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0))
    """
    # Bit 3 k + channel of the label becomes bit 7 - k of that channel.
    return tuple(
        (_spread(label), _spread(label >> 1), _spread(label >> 2))  # red, green, blue
        for label in range(num_colours)
    )


def _spread(label: int) -> int:
    return sum((label >> 3 * place & 1) << 7 - place for place in range(3))


def _voc_classes() -> Classes:
    return Classes(names=_VOC_NAMES, colours=colour_map(len(_VOC_NAMES)))


def _check_split(root: str, split: str, splits: Sequence[str], expected: str) -> None:
    if split not in splits:
        there = f"splits there: {', '.join(splits)}" if splits else "no split is there, so check the path"
        raise FileNotFoundError(f"no split {split!r} in {root}: expected {expected}; {there}")


def _folder_splits(root: str) -> list[str]:
    folders = [name for name in storage.list_folder(root) if not name.startswith(".") and name != "classes.json"]
    return [name for name in folders if {"images", "masks"} <= set(storage.list_folder(storage.join(root, name)))]


def _described(root: str, splits: Sequence[str]) -> tuple[FolderClasses, Classes]:
    url = storage.join(root, "classes.json")
    if not storage.exists(url):
        there = f"splits there: {', '.join(splits)}" if splits else "no split is there either, so check the path"
        raise FileNotFoundError(f'no {url}: write {{"names": [...]}}, classes in the order of their labels; {there}')
    text = storage.read_bytes(url)
    try:
        spec = FolderClasses.model_validate_json(text)
        classes = spec.classes
    except ValidationError as error:
        where = "".join(f"{part}: " for part in error.errors()[0]["loc"])
        raise ValueError(f"{url}: {where}{error.errors()[0]['msg']}") from error
    return spec, classes


def _before_underscore(name: str) -> str | None:
    return name.partition("_")[0]


def _first_group(pattern: str, name: str) -> str | None:
    match = re.search(pattern, name)
    return match.group(1) if match else None


def _pairs(images: str, masks: str) -> tuple[tuple[Entry, ...], tuple[Unpaired, ...]]:
    image_of, mask_of = _by_stem(images, ""), _by_stem(masks, ".png")
    unpaired = [
        Unpaired(image_of[stem], storage.join(masks, f"{stem}.png")) for stem in image_of if stem not in mask_of
    ]
    unpaired += [Unpaired(mask_of[stem], storage.join(images, f"{stem}.*")) for stem in mask_of if stem not in image_of]
    return tuple(Entry(stem, image_of[stem], mask_of[stem]) for stem in image_of if stem in mask_of), tuple(unpaired)


def _by_stem(url: str, ending: str) -> dict[str, str]:
    files = [file for file in storage.list_folder(url) if file.endswith(ending) and not file.startswith(".")]
    by_stem = {PurePosixPath(file).stem: storage.join(url, file) for file in files}
    if len(by_stem) < len(files):
        raise ValueError(f"{url} has files that differ in their ending only: names without the ending must be unique")
    return by_stem


def _listed_pairs(
    lists: str, split: str, images: str, masks: str, mask_ending: str
) -> tuple[tuple[Entry, ...], tuple[Unpaired, ...]]:
    splits = [PurePosixPath(file).stem for file in storage.list_folder(lists) if file.endswith(".txt")]
    list_url = storage.join(lists, f"{split}.txt")
    _check_split(lists, split, splits, f"the list {split}.txt")
    image_of, mask_of = _by_stem(images, ".jpg"), _by_stem(masks, mask_ending)
    names = storage.read_bytes(list_url).decode().split()
    unpaired = [Unpaired(list_url, storage.join(images, f"{name}.jpg")) for name in names if name not in image_of]
    unpaired += [Unpaired(list_url, storage.join(masks, name + mask_ending)) for name in names if name not in mask_of]
    both = [name for name in names if name in image_of and name in mask_of]
    return tuple(Entry(name, image_of[name], mask_of[name]) for name in both), tuple(unpaired)
