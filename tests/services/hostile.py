"""Files that somebody might send: odd, broken, wrong or made to hurt."""

import io
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

from tests.services.serving import encoded, scene

FINE, WRONG_TYPE, TOO_LARGE, UNUSABLE = 200, 415, 413, 422


class Upload(NamedTuple):
    """A file, and with what status it has to be answered."""

    name: str
    contents: bytes
    status: int


def uploads() -> list[Upload]:
    """Return all of them."""
    return [*_odd(), *_broken(), *_no_images(), *_bombs(), *_animated(), *_with_metadata()]


def _odd() -> Iterator[Upload]:
    """Images that are fine, of kinds that programs forget."""
    image = Image.fromarray(scene(33, 47))
    for mode in ("1", "L", "P", "RGB", "RGBA", "LA"):
        yield Upload(f"png of mode {mode}", _saved(image.convert(mode)), FINE)
    for mode in ("L", "RGB", "CMYK"):
        yield Upload(f"jpeg of mode {mode}", _saved(image.convert(mode), "JPEG"), FINE)
    for mode in ("RGB", "RGBA"):
        yield Upload(f"webp of mode {mode}", _saved(image.convert(mode), "WEBP"), FINE)
        yield Upload(f"lossless webp of mode {mode}", _saved(image.convert(mode), "WEBP", lossless=True), FINE)
    yield Upload("progressive jpeg", _saved(image, "JPEG", progressive=True), FINE)
    yield Upload("jpeg with a profile that is none", _saved(image, "JPEG", icc_profile=b"no profile" * 100), FINE)
    yield Upload("png of 16 bits, grey", _saved(Image.fromarray(np.arange(700, dtype=np.uint16).reshape(20, 35))), 415)
    yield Upload("png of 16 bits, colour", _png(5, 5, depth=16, rows=5 * (b"\0" + bytes(30))), FINE)
    transparent = image.convert("P")
    yield Upload("palette png with transparency", _saved(transparent, transparency=3), FINE)
    yield Upload(
        "palette png with transparency of each colour", _saved(transparent, transparency=bytes(range(256))), FINE
    )
    for height, width in ((1, 1), (1, 2), (2, 1), (1, 700), (700, 1), (31, 33), (32, 32)):
        yield Upload(f"{width} x {height} pixels", encoded(np.full((height, width, 3), 90, np.uint8)), FINE)
    yield Upload("jpeg with a tail", encoded(scene(), "JPEG") + b"more" * 1000, FINE)
    yield Upload("png with a tail", encoded(scene()) + b"<script>alert(1)</script>", FINE)


def _broken() -> Iterator[Upload]:
    for kind in ("JPEG", "PNG", "WEBP"):
        whole = encoded(scene(), kind)
        for share in (0.02, 0.3, 0.6, 0.95):
            yield Upload(f"{kind} cut off at {share:.0%}", whole[: int(share * len(whole))], UNUSABLE)
        flipped = bytearray(whole)
        flipped[len(whole) // 2] ^= 0xFF
        # A PNG has checksums and this byte of the JPEG is in a table; the WebP holds another picture.
        yield Upload(f"{kind} with a flipped byte", bytes(flipped), FINE if kind == "WEBP" else UNUSABLE)
        header = bytearray(whole)
        header[12:24] = bytes(12)
        yield Upload(f"{kind} with zeros in its header", bytes(header), UNUSABLE)
    yield Upload("png of width 0", _png(0, 4), UNUSABLE)
    yield Upload("png of height 0", _png(4, 0), UNUSABLE)
    yield Upload("png of too little data", _png(40, 40, rows=bytes(10)), UNUSABLE)
    yield Upload("png whose data are no zlib", _png(4, 4, data=b"not compressed"), UNUSABLE)
    yield Upload("png with a wrong checksum", encoded(scene())[:-30] + bytes(4) + encoded(scene())[-26:], UNUSABLE)
    yield Upload("png without data", _chunks((b"IHDR", struct.pack(">IIBBBBB", 4, 4, 8, 2, 0, 0, 0))), UNUSABLE)
    yield Upload("png of an impossible depth", _png(4, 4, depth=7), UNUSABLE)
    yield Upload("webp whose length lies", b"RIFF" + b"\xff\xff\xff\x7f" + encoded(scene(), "WEBP")[8:], UNUSABLE)


def _no_images() -> Iterator[Upload]:
    yield Upload("nothing", b"", UNUSABLE)
    yield Upload("one byte", b"\xff", WRONG_TYPE)
    yield Upload("zeros", bytes(10_000), WRONG_TYPE)
    yield Upload("noise", np.random.default_rng(0).bytes(10_000), WRONG_TYPE)
    yield Upload("text", b"hello" * 100, WRONG_TYPE)
    yield Upload("svg", b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>', WRONG_TYPE)
    yield Upload("html", b"<html><img src=http://192.0.2.1/></html>", WRONG_TYPE)
    yield Upload("url", b"http://192.0.2.1/image.png", WRONG_TYPE)
    yield Upload("pickle", b"\x80\x04\x95\x1c\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix", WRONG_TYPE)
    yield Upload("zip", b"PK\x03\x04" + bytes(100), WRONG_TYPE)
    yield Upload("pdf", b"%PDF-1.7\n" + bytes(100), WRONG_TYPE)
    yield Upload("postscript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", WRONG_TYPE)
    yield Upload("wave file", b"RIFF\x24\0\0\0WAVEfmt " + bytes(100), UNUSABLE)
    for kind in ("GIF", "BMP", "TIFF", "PPM", "ICO", "TGA", "JPEG2000"):
        yield Upload(f"an image, but {kind}", encoded(scene(32, 32), kind), WRONG_TYPE)
    yield Upload("jpeg's first bytes", b"\xff\xd8\xff", UNUSABLE)
    yield Upload("png's first bytes", b"\x89PNG\r\n\x1a\n", UNUSABLE)
    yield Upload("webp's first bytes", b"RIFF\0\0\0\0WEBP", UNUSABLE)


def _bombs() -> Iterator[Upload]:
    yield Upload(
        "png of 30000 x 30000 in few bytes", _png(30_000, 30_000, data=zlib.compress(bytes(10**6), 9)), TOO_LARGE
    )
    yield Upload("png of 2147483647 x 2147483647", _png(2**31 - 1, 2**31 - 1), TOO_LARGE)
    yield Upload("png of 10000 x 10000", _png(10_000, 10_000), TOO_LARGE)
    yield Upload("png of 65535 x 1", _png(65_535, 1, rows=b"\0" + bytes(3 * 65_535)), TOO_LARGE)
    yield Upload("jpeg of 65500 x 1", encoded(np.zeros((1, 65_500, 3), np.uint8), "JPEG"), TOO_LARGE)
    yield Upload("jpeg of 1 x 65500", encoded(np.zeros((65_500, 1, 3), np.uint8), "JPEG"), TOO_LARGE)
    yield Upload("webp of 16383 x 16383", _webp_header(16_383, 16_383), TOO_LARGE)
    rows = 4 * (b"\0" + bytes(12))
    yield Upload("png with 50 MB behind its pixels", _png(4, 4, rows=rows + bytes(50 * 2**20)), FINE)
    text = b"comment\0\0" + zlib.compress(bytes(80 * 2**20), 9)
    yield Upload("png with a comment of 80 MB", _png(4, 4, rows=rows, comment=text), UNUSABLE)
    yield Upload("jpeg of thousands of scans", _many_scans(4000, 3000), UNUSABLE)
    yield Upload("large jpeg of 100 scans", _many_scans(4000, 90), UNUSABLE)
    yield Upload("small jpeg of 100 scans", _many_scans(40, 90), FINE)


def _animated() -> Iterator[Upload]:
    frames = [Image.fromarray(scene(32, 32, number)) for number in range(3)]
    for kind in ("PNG", "WEBP"):
        yield Upload(f"animated {kind}", _saved(frames[0], kind, save_all=True, append_images=frames[1:]), UNUSABLE)
    yield Upload("jpeg of several pictures", _saved(frames[0], "MPO", save_all=True, append_images=frames[1:]), FINE)


def _with_metadata() -> Iterator[Upload]:
    for orientation in (*range(9), 9, 65_535):
        exif = Image.Exif()
        exif[0x0112] = orientation
        yield Upload(f"jpeg with orientation {orientation}", encoded(scene(32, 40), "JPEG", exif=exif), FINE)
    yield Upload("jpeg with EXIF that is none", encoded(scene(), "JPEG", exif=b"Exif\0\0" + b"\xff" * 500), FINE)
    circular = b"Exif\0\0II*\0\x08\0\0\0" + b"\x01\0\x69\x87\x04\0\x01\0\0\0\x08\0\0\0" + b"\x08\0\0\0"
    yield Upload("jpeg with EXIF that points to itself", encoded(scene(), "JPEG", exif=circular), FINE)


def _saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _png(
    width: int,
    height: int,
    *,
    depth: int = 8,
    rows: bytes = b"",
    data: bytes | None = None,
    comment: bytes | None = None,
) -> bytes:
    """Return a PNG of this size by its header, whatever its rows (each begins with its filter, 0) or data are."""
    header = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    between = [] if comment is None else [(b"zTXt", comment)]
    return _chunks(
        (b"IHDR", header), *between, (b"IDAT", zlib.compress(rows) if data is None else data), (b"IEND", b"")
    )


def _chunks(*chunks: tuple[bytes, bytes]) -> bytes:
    written = b"\x89PNG\r\n\x1a\n"
    for kind, data in chunks:
        written += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return written


def _webp_header(width: int, height: int) -> bytes:
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    extended = b"VP8X" + struct.pack("<I", 10) + bytes(4) + size
    lossless = b"VP8L" + struct.pack("<I", 5) + b"\x2f" + ((width - 1) | (height - 1) << 14).to_bytes(4, "little")
    body = b"WEBP" + extended + lossless + b"\0"
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _many_scans(side: int, number: int) -> bytes:
    """Return a progressive JPEG whose last scan comes again and again: each costs a pass over all of its pixels."""
    whole = _saved(Image.new("RGB", (side, side)), "JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:-2] + whole[last:-2] * number + whole[-2:]
