import io
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io.matlab import savemat

from fcn_core import storage
from fcn_core.data.decode import SampleError, read_image, read_mat_mask
from fcn_core.data.files import CAMVID, Entry, FileDataset

MASK = np.array([[0, 1, 2], [11, 255, 5]], np.uint8)
PIXELS = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)


def encoded(image: Image.Image, kind: str = "PNG", exif: Image.Exif | None = None) -> bytes:
    contents = io.BytesIO()
    image.save(contents, kind, exif=exif or Image.Exif())
    return contents.getvalue()


def one(folder_: Path, image: bytes, mask: bytes) -> FileDataset:
    (folder_ / "image").write_bytes(image)
    (folder_ / "mask").write_bytes(mask)
    return FileDataset(CAMVID, (Entry("one", str(folder_ / "image"), str(folder_ / "mask")),), void=11)


GOOD_IMAGE, GOOD_MASK = encoded(Image.fromarray(PIXELS)), encoded(Image.fromarray(MASK))


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def grey_png(bits: int, values: bytes) -> bytes:
    """Build a grey PNG of one row of 8 pixels by hand, since Pillow writes no 2 or 4 bits."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 1, bits, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" + values)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("bits", "values", "labels"),
    [
        (1, bytes([0b01010011]), [0, 1, 0, 1, 0, 0, 1, 1]),
        (2, bytes([0b00011011, 0]), [0, 1, 2, 3, 0, 0, 0, 0]),
        (4, bytes([0x01, 0x23, 0x9A, 0x00]), [0, 1, 2, 3, 9, 10, 0, 0]),
        (8, bytes(range(8)), list(range(8))),
        (16, bytes(level for label in range(8) for level in (0, label)), list(range(8))),
    ],
    ids=["1 bit", "2 bits", "4 bits", "8 bits", "16 bits"],
)
def test_masks_of_any_bit_depth_give_the_value_that_was_stored(
    tmp_path: Path, bits: int, values: bytes, labels: list[int]
) -> None:
    wide = encoded(Image.fromarray(np.zeros((1, 8, 3), np.uint8)))
    assert one(tmp_path, wide, grey_png(bits, values)).read(0).mask.tolist() == [labels]


CUT_OFF = GOOD_IMAGE[:33] + chunk(b"IDAT", b"not compressed") + GOOD_IMAGE[-12:]
"""Whole by its chunks, and without pixels: Pillow says so at the first look only."""
WRONG_CHECKSUM = GOOD_IMAGE[:-16] + bytes(4) + GOOD_IMAGE[-12:]
ROTATED = Image.Exif()
ROTATED[0x0112] = 6


@pytest.mark.parametrize(
    ("image", "mask", "file", "reason"),
    [
        (b"", GOOD_MASK, "image", r"is empty \(0 bytes\)"),
        (GOOD_IMAGE[:60], GOOD_MASK, "image", "image file is truncated"),
        (CUT_OFF, GOOD_MASK, "image", "cannot be decoded: broken data stream"),
        (WRONG_CHECKSUM, GOOD_MASK, "image", "cannot be decoded: .*checksum"),
        (b"\xff\xd8\xff broken", GOOD_MASK, "image", "cannot be decoded"),
        (encoded(Image.fromarray(PIXELS), "BMP"), GOOD_MASK, "image", "is not JPEG or PNG or WEBP by its content"),
        (encoded(Image.fromarray(MASK.astype(np.uint16))), GOOD_MASK, "image", "an image has 8 bits per channel"),
        (GOOD_IMAGE, encoded(Image.fromarray(MASK), "JPEG"), "mask", "is not PNG by its content"),
        (GOOD_IMAGE, GOOD_IMAGE, "mask", "has mode RGB; a mask has one channel"),
        (GOOD_IMAGE, encoded(Image.fromarray(MASK.astype(np.uint16) + 999)), "mask", "labels from 999 to 1254"),
        (GOOD_IMAGE, encoded(Image.fromarray(MASK.T)), "mask", r"is a mask of 3 x 2 pixels .* for an image of 2 x 3"),
    ],
    ids=[
        "empty",
        "truncated",
        "no data",
        "checksum",
        "broken",
        "bmp",
        "16 bits",
        "mask jpeg",
        "mask rgb",
        "mask labels",
        "mask size",
    ],
)
def test_what_cannot_be_read_names_the_file_and_the_reason(
    tmp_path: Path, image: bytes, mask: bytes, file: str, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        one(tmp_path, image, mask).read(0)
    assert str(caught.value).startswith(f"{tmp_path / file}: ")
    assert "\n" not in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # noqa: S301


def test_a_file_that_is_gone_is_a_sample_that_cannot_be_read(tmp_path: Path) -> None:
    dataset = one(tmp_path, GOOD_IMAGE, GOOD_MASK)
    (tmp_path / "mask").unlink()
    with pytest.raises(SampleError, match="mask: cannot be read: No such file"):
        dataset.read(0)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_decompression_bomb_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = one(tmp_path, GOOD_IMAGE, GOOD_MASK)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5)
    with pytest.raises(SampleError, match="3 x 2 pixels, the limit is 5"):
        dataset.read(0)


def test_an_orientation_is_told_but_not_applied(tmp_path: Path) -> None:
    image = encoded(Image.fromarray(PIXELS), exif=ROTATED)
    dataset = one(tmp_path, image, GOOD_MASK)
    assert dataset.image(0).orientation == 6
    assert dataset.read(0).image.tolist() == PIXELS.tolist()


def test_images_of_other_modes_become_rgb(tmp_path: Path) -> None:
    palette = Image.fromarray(PIXELS).quantize(8)
    palette.info["transparency"] = b"\0\1"
    for image in (encoded(palette), encoded(Image.fromarray(MASK)), encoded(palette, "WEBP")):
        assert one(tmp_path, image, GOOD_MASK).read(0).image.shape == (2, 3, 3)


@pytest.mark.parametrize(
    "value", [b"\2\0\4\0\0\0abc\0", b"\3\0\1\0\0\0\0\0\0\0", b"\3\0\1\0\0\0\x09\0\0\0"], ids=["text", "0", "9"]
)
def test_an_orientation_that_means_nothing_turns_no_image(tmp_path: Path, value: bytes) -> None:
    # A TIFF header, one entry: tag 0x0112 with type, count and value, and no further directory.
    exif = b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1" + value + b"\0\0\0\0"
    Image.fromarray(PIXELS).save(tmp_path / "image.jpg", exif=exif)
    assert read_image(str(tmp_path / "image.jpg"), storage.Copies()).orientation == 1


def test_what_was_read_once_needs_no_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FCN_CACHE", str(tmp_path))
    urls = {f"memory://{tmp_path.name}/{name}": contents for name, contents in (("i", GOOD_IMAGE), ("m", GOOD_MASK))}
    for url, contents in urls.items():
        storage.write_bytes(url, contents)
    dataset = FileDataset(CAMVID, (Entry("one", *urls),), void=11)
    before = dataset.read(0)
    for request in ("info", "get_file"):
        monkeypatch.setattr(storage.calls.open_url("memory://").filesystem, request, None)
    for again in (dataset, pickle.loads(pickle.dumps(dataset))):  # noqa: S301 -- ours.
        np.testing.assert_array_equal(again.read(0).image, before.image)
        np.testing.assert_array_equal(again.read(0).mask, before.mask)


def test_a_matlab_mask_has_one_label_for_each_pixel(tmp_path: Path) -> None:
    mat = {"GTcls": {"Segmentation": np.zeros((2, 3, 3), np.uint8)}}
    savemat(tmp_path / "mask.mat", mat)  # type: ignore[no-untyped-call]
    with pytest.raises(SampleError, match=r"has shape \(2, 3, 3\); a mask is one label for each pixel"):
        read_mat_mask(str(tmp_path / "mask.mat"), storage.Copies())
