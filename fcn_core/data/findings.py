"""What can be wrong with samples: each alone, and the training set beside the validation set."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from fcn_core.data.base import Dataset
from fcn_core.data.decode import SampleError
from fcn_core.data.files import FileDataset, size_trouble
from fcn_core.settings import VOID, Value

Error = Literal["unpaired", "unreadable", "format", "size", "label", "orientation", "duplicate", "empty_set"]
Notice = Literal["void_only", "near_duplicate", "sequence"]

# Nearly the same: the 64-bit difference hashes differ in no more bits. Copies of a CamVid frame as JPEG, at half size
# or brighter differ in up to 3; between its training and its validation frames 8 is the least.
_NEAR_BITS = 4
# And 16 x 16 cells agree to this mean difference of grey levels, since all flat images have one difference hash.
_NEAR_LEVELS = 12.0
_SHOWN = 10
_T = TypeVar("_T")


class Finding(Value):
    """One thing that is wrong, or worth knowing."""

    split: str
    file: str = Field(description="URL; or the name of a sample or a sequence, where that is what is meant")
    kind: Error | Notice
    reason: str
    severity: Literal["error", "notice"]

    def __str__(self) -> str:
        return f"{self.severity} ({self.split}): {self.file} {self.reason}"


class Facts(NamedTuple):
    """What the audit keeps of a sample that can be used."""

    image_digest: bytes
    mask_digest: bytes
    pixels: NDArray[np.int64]
    """Pixels of each class, and last of void."""
    size: tuple[int, int]
    difference_hash: np.uint64
    cells: NDArray[np.uint8]
    """(256,) grey levels of the image on 16 x 16 cells."""


class Seen(NamedTuple):
    """One sample after the look at it."""

    findings: tuple[Finding, ...]
    facts: Facts | None
    """None where image and mask cannot be used together."""


def error(split: str, file: str, kind: Error, reason: str) -> Finding:
    """Return a finding on which policies act."""
    return Finding(split=split, file=file, kind=kind, reason=reason, severity="error")


def notice(split: str, file: str, kind: Notice, reason: str) -> Finding:
    """Return a finding that changes nothing."""
    return Finding(split=split, file=file, kind=kind, reason=reason, severity="notice")


def look(split: str, dataset: Dataset, index: int) -> Seen:
    """Decode one sample and say all that is wrong with it alone. Safe to call from several threads."""
    if isinstance(dataset, FileDataset):
        return _look_at_files(split, dataset, index)
    name = dataset.names[index]
    try:
        image, mask = dataset.read(index)
    except ValueError as reason:
        return Seen((error(split, name, "unreadable", str(reason)),), None)
    found = _label_findings(split, name, mask, len(dataset.classes), VOID)
    mask = np.where(mask < len(dataset.classes), mask, np.uint8(VOID))
    return Seen(tuple(found), _facts(image, mask, len(dataset.classes), (image.tobytes(), mask.tobytes())))


def _look_at_files(split: str, dataset: FileDataset, index: int) -> Seen:
    found: list[Finding] = []
    image = _attempt(split, dataset.image, index, found)
    mask = _attempt(split, dataset.mask, index, found)
    if image is not None and image.orientation != 1:
        reason = (
            f"has the EXIF orientation {image.orientation}, which is not applied: rotate the pixels and remove the tag"
        )
        found.append(error(split, dataset.image_url(index), "orientation", reason))
    if mask is not None:
        found += _label_findings(split, dataset.mask_url(index), mask.labels, len(dataset.classes), dataset.void)
    if image is None or mask is None:
        return Seen(tuple(found), None)
    if trouble := size_trouble(image.pixels, mask.labels):
        return Seen((*found, error(split, dataset.mask_url(index), "size", trouble)), None)
    contents = (image.contents, mask.contents)
    facts = _facts(image.pixels, dataset.to_classes(mask.labels), len(dataset.classes), contents)
    return Seen(tuple(found), facts)


def _attempt(split: str, read: Callable[[int], _T], index: int, found: list[Finding]) -> _T | None:
    try:
        return read(index)
    except SampleError as trouble:
        found.append(error(split, trouble.file, trouble.kind, trouble.reason))
        return None


def _label_findings(split: str, file: str, labels: NDArray[np.uint8], num_classes: int, void: int) -> list[Finding]:
    counts = np.bincount(labels.ravel(), minlength=256)
    counts[[void, VOID]] = 0
    outside = {label: int(counts[label]) for label in range(num_classes, 256) if counts[label]}
    if outside:
        shown = ", ".join(f"{label} ({count} pixels)" for label, count in list(outside.items())[:3])
        more = f" and {len(outside) - 3} more" if len(outside) > 3 else ""
        reason = f"has labels that are no class: {shown}{more}; classes are 0 to {num_classes - 1}, void is {void}"
        return [error(split, file, "label", reason)]
    return (
        [] if counts.any() else [notice(split, file, "void_only", "is void everywhere, so nothing is learnt from it")]
    )


def _facts(image: NDArray[np.uint8], mask: NDArray[np.uint8], num_classes: int, contents: tuple[bytes, bytes]) -> Facts:
    counts = np.bincount(mask.ravel(), minlength=256)
    grey = Image.fromarray(image).convert("L")
    cells = np.asarray(grey.resize((9, 8), Image.Resampling.BOX))
    bits = np.packbits(cells[:, 1:] > cells[:, :-1])
    return Facts(
        image_digest=hashlib.sha256(contents[0]).digest(),
        mask_digest=hashlib.sha256(contents[1]).digest(),
        pixels=np.append(counts[:num_classes], counts[VOID]),
        size=(mask.shape[0], mask.shape[1]),
        difference_hash=bits.view(np.uint64)[0],
        cells=np.asarray(grey.resize((16, 16), Image.Resampling.BOX)).ravel(),
    )


def between(train: Dataset, val: Dataset, seen_train: Sequence[Seen], seen_val: Sequence[Seen]) -> list[Finding]:
    """Find what two sets have in common that they should not."""
    return [
        *_duplicates(train, val, twins(seen_train, seen_val)),
        *_near_duplicates(train, val, seen_train, seen_val),
        *_sequences(train, val),
    ]


def twins(train: Sequence[Seen], val: Sequence[Seen]) -> dict[int, int]:
    """Return the training samples whose image is in the validation set too, each with its index there."""
    in_val = {seen.facts.image_digest: index for index, seen in enumerate(val) if seen.facts}
    return {
        index: in_val[seen.facts.image_digest]
        for index, seen in enumerate(train)
        if seen.facts and seen.facts.image_digest in in_val
    }


def unpaired(split: str, dataset: Dataset) -> list[Finding]:
    """Name the files that lack their partner."""
    pairs = dataset.unpaired if isinstance(dataset, FileDataset) else ()
    return [error(split, file, "unpaired", f"lacks its partner {lacks}") for file, lacks in pairs]


def _duplicates(train: Dataset, val: Dataset, equal: Mapping[int, int]) -> list[Finding]:
    reason = "is the same image as {} of the validation set"
    return [error("train", _file(train, i), "duplicate", reason.format(_file(val, j))) for i, j in equal.items()]


def _near_duplicates(
    train: Dataset, val: Dataset, seen_train: Sequence[Seen], seen_val: Sequence[Seen]
) -> list[Finding]:
    candidates = [(index, seen.facts) for index, seen in enumerate(seen_train) if seen.facts]
    hashes = np.array([facts.difference_hash for _, facts in candidates], np.uint64)
    pairs = []
    for index, seen in enumerate(seen_val):
        if seen.facts and (twin := _near_twin(seen.facts, candidates, hashes)) is not None:
            pairs.append((_file(val, index), _file(train, twin)))
    more = f"; so are {len(pairs) - _SHOWN} further images" if len(pairs) > _SHOWN else ""
    return [
        notice("val", file, "near_duplicate", f"is nearly the same image as {twin} of the training set{end}")
        for (file, twin), end in zip(pairs[:_SHOWN], [*[""] * (_SHOWN - 1), more], strict=False)
    ]


def _near_twin(facts: Facts, candidates: Sequence[tuple[int, Facts]], hashes: NDArray[np.uint64]) -> int | None:
    near: list[int] = np.flatnonzero(np.bitwise_count(hashes ^ facts.difference_hash) <= _NEAR_BITS).tolist()
    for index, other in (candidates[place] for place in near):
        difference = np.abs(facts.cells.astype(np.int16) - other.cells).mean()
        if difference <= _NEAR_LEVELS and facts.image_digest != other.image_digest:
            return index
    return None


def _sequences(train: Dataset, val: Dataset) -> list[Finding]:
    in_train, in_val = _by_sequence(train), _by_sequence(val)
    reason = "({} frames) is a sequence of the training set too ({} frames){}: scores on it flatter"
    return [
        notice(
            "val",
            sequence,
            "sequence",
            reason.format(len(names), len(in_train[sequence]), _gap(in_train[sequence], names)),
        )
        for sequence, names in in_val.items()
        if sequence in in_train
    ]


def _by_sequence(dataset: Dataset) -> dict[str, list[str]]:
    by_sequence: dict[str, list[str]] = defaultdict(list)
    for index, name in enumerate(dataset.names):
        if (sequence := dataset.sequence(index)) is not None:
            by_sequence[sequence].append(name)
    return by_sequence


def _gap(train_names: Sequence[str], val_names: Sequence[str]) -> str:
    """Say how far the validation frames lie from the training frames, where names end in frame numbers."""
    train, val = _frame_numbers(train_names), _frame_numbers(val_names)
    if train is None or val is None:
        return ""
    inside = train.min() < val.min() and val.max() < train.max()
    where = f"; frames {val.min()} to {val.max()} lie inside {train.min()} to {train.max()} of it" if inside else ""
    gap = int(np.abs(train[:, None] - val[None]).min())
    return f"{where}, nearest training frame {gap} frames away"


def _frame_numbers(names: Sequence[str]) -> NDArray[np.int64] | None:
    matches = [re.search(r"\d{1,18}$", name) for name in names]
    numbers = [int(match.group()) for match in matches if match]
    return np.array(numbers, np.int64) if len(numbers) == len(names) else None


def _file(dataset: Dataset, index: int) -> str:
    return dataset.image_url(index) if isinstance(dataset, FileDataset) else dataset.names[index]
