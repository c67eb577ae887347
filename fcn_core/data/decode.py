"""Images and masks out of files. Nothing is guessed: what cannot be read for certain is an error that says why."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from fcn_core import storage
from fcn_core.settings import VOID

Trouble = Literal["unreadable", "format", "size"]

_STARTS = {"JPEG": b"\xff\xd8\xff", "PNG": b"\x89PNG\r\n\x1a\n", "WEBP": b"RIFF"}
_ORIENTATION = 0x0112


class SampleError(ValueError):
    """An image or a mask that cannot be used: `file`, `reason` and `kind` of trouble."""

    def __init__(self, file: str, reason: str, kind: Trouble) -> None:
        # All three are arguments of the exception, so that it survives pickling on its way out of another process.
        super().__init__(file, reason, kind)
        self.file = file
        self.reason = reason
        self.kind: Trouble = kind

    def __str__(self) -> str:
        return f"{self.file}: {self.reason}"


class _FormatError(Exception):
    """A whole file, but not of a kind that is read here."""


class ImageFile(NamedTuple):
    """One image file, decoded."""

    contents: bytes
    pixels: NDArray[np.uint8]
    """(H, W, 3) uint8, RGB, as stored: an EXIF orientation is not applied."""
    orientation: int
    """The EXIF orientation; 1 is upright."""


class MaskFile(NamedTuple):
    """One mask file, decoded."""

    contents: bytes
    labels: NDArray[np.uint8]
    """(H, W) uint8, the labels as stored."""


def read_image(url: str, copies: storage.Copies) -> ImageFile:
    """Decode a JPEG, PNG or WebP image; what its content is counts, not its name.

    Raises:
        SampleError: it cannot be read or decoded.
    """
    return decode_image(_contents(url, copies), url)


def decode_image(contents: bytes, name: str) -> ImageFile:
    """Decode the contents of a JPEG, PNG or WebP image; errors call it `name`.

    Raises:
        SampleError: they cannot be decoded.
    """
    with _naming(name), _opened(contents, ("JPEG", "PNG", "WEBP")) as image:
        if image.mode in ("I", "I;16", "F"):
            raise _FormatError(f"has mode {image.mode}; an image has 8 bits per channel")
        # Before EXIF is looked for: that loads a PNG too, and what is wrong with its pixels would be lost.
        image.load()
        orientation = _orientation(image)
        # Transparency is ignored; for palette images Pillow would warn of that.
        image.info.pop("transparency", None)
        return ImageFile(contents, np.array(image.convert("RGB")), orientation)


def read_png_mask(url: str, copies: storage.Copies) -> MaskFile:
    """Decode a mask from a PNG of one channel: the values as stored, at any bit depth, and never through the palette.

    Raises:
        SampleError: it cannot be read or decoded, is not such a PNG, or has labels above 255.
    """
    contents = _contents(url, copies)
    with _naming(url):
        with _opened(contents, ("PNG",)) as image:
            if image.mode not in ("1", "L", "P", "I", "I;16"):
                raise _FormatError(f"has mode {image.mode}; a mask has one channel, the label of each pixel (L or P)")
            labels = _labels(np.asarray(image))
        depth, colour_type = contents[24], contents[25]
        if colour_type == 0 and depth in (2, 4):
            # Pillow stretches grey values of 2 and 4 bits to 0..255; a label is the value that was stored.
            labels = labels // np.uint8(255 // (2**depth - 1))
        return MaskFile(contents, labels)


def read_mat_mask(url: str, copies: storage.Copies) -> MaskFile:
    """Decode a mask of the Semantic Boundaries Dataset, a MATLAB file.

    Raises:
        SampleError: it cannot be read or decoded, or has labels above 255.
    """
    from scipy.io.matlab import loadmat

    contents = _contents(url, copies)
    with _naming(url):
        mat: dict[str, Any] = loadmat(io.BytesIO(contents))  # type: ignore[no-untyped-call]
        return MaskFile(contents, _labels(np.asarray(mat["GTcls"][0]["Segmentation"][0])))


def _contents(url: str, copies: storage.Copies) -> bytes:
    # Other errors of the storage, a lost connection for one, are no fault of the sample and end the run.
    try:
        contents = copies.path(url).read_bytes()
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise SampleError(url, f"cannot be read: {_one_line(error.strerror or error)}", "unreadable") from error
    if not contents:
        raise SampleError(url, "is empty (0 bytes)", "unreadable")
    return contents


@contextmanager
def _naming(url: str) -> Iterator[None]:
    try:
        yield
    except _FormatError as error:
        raise SampleError(url, _one_line(error), "format") from error
    except UnidentifiedImageError as error:
        raise SampleError(url, "cannot be decoded: its header is damaged", "unreadable") from error
    except Exception as error:
        # Decoders raise whatever they run into in a damaged file: struct.error, SyntaxError, zlib.error, KeyError.
        raise SampleError(url, f"cannot be decoded: {_one_line(error)}", "unreadable") from error


def _opened(contents: bytes, formats: tuple[str, ...]) -> Image.Image:
    if not contents.startswith(tuple(_STARTS[name] for name in formats)):
        raise _FormatError(f"is not {' or '.join(formats)} by its content")
    image = Image.open(io.BytesIO(contents), formats=formats)
    # Pillow only warns between this limit and twice as much.
    if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels, the limit is {Image.MAX_IMAGE_PIXELS}: cut it up")
    # Pillow takes a PNG that breaks off after the last pixel; other readers do not.
    if image.format == "PNG" and b"IEND" not in contents:
        raise ValueError("image file is truncated")
    if image.format == "PNG":
        # Pillow compares no checksums of pixels unless it is asked to.
        Image.open(io.BytesIO(contents), formats=formats).verify()
    return image


def _labels(values: NDArray[Any]) -> NDArray[np.uint8]:
    if values.ndim != 2 or not values.size:
        raise _FormatError(f"has shape {values.shape}; a mask is one label for each pixel")
    if not 0 <= values.min() <= values.max() <= VOID:
        raise _FormatError(f"has labels from {values.min()} to {values.max()}; labels are 0 to {VOID}")
    return values.astype(np.uint8)


def _orientation(image: Image.Image) -> int:
    try:
        orientation = int(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        # EXIF that cannot be read turns no image.
        return 1
    return orientation if orientation in range(2, 9) else 1


def _one_line(error: object) -> str:
    return " ".join(str(error).split()) or type(error).__name__
