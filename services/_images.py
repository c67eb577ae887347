"""Images out of what strangers send: within limits, judged by content, upright."""

import io

import numpy as np
from PIL import Image

from fcn_core.data.decode import SampleError, decode_image
from fcn_core.data.pictures import UPRIGHT, Pixels
from services._problems import Problem
from services._settings import Serving

FORMATS = ("JPEG", "PNG", "WEBP")
USUAL_SCANS, MAX_SCANS = 12, 100
"""Of a JPEG. Each passes over all pixels: a megabyte can hold thousands. Cameras and encoders write 1 to 12, so that
these are allowed at any size; a small image may have more, as long as all together pass over no more pixels."""


def decode(contents: bytes, settings: Serving, name: str = "the image") -> Pixels:
    """Return the pixels (H, W, 3) uint8 RGB of an image file, turned upright as its EXIF orientation says.

    Args:
        contents: of the file.
        settings: `max_pixels` and `max_side` hold before anything is decoded.
        name: what messages call it.

    Raises:
        Problem: it is no image (415), too large (413), or cannot be used (422).
    """
    if not contents:
        raise Problem(422, f"{name} is empty (0 bytes)")
    _check_header(contents, settings, name)
    try:
        file = decode_image(contents, name)
    except SampleError as error:
        raise Problem(415 if error.kind == "format" else 422, f"{name} {error.reason}") from error
    return np.ascontiguousarray(UPRIGHT[file.orientation](file.pixels))


def _check_header(contents: bytes, settings: Serving, name: str) -> None:
    """Refuse by what the header says. What cannot be read here is for `decode_image` to explain."""
    try:
        with Image.open(io.BytesIO(contents), formats=FORMATS) as image:
            width, height = image.size
            frames = getattr(image, "n_frames", 1) if image.format in ("PNG", "WEBP") else 1
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Problem(413, f"{name} has far more pixels than the limit, {settings.max_pixels}") from error
    except Exception:
        # Decoders raise whatever they run into in a damaged file.
        return
    if width * height > settings.max_pixels or max(width, height) > settings.max_side:
        limit = f"{settings.max_pixels} pixels and {settings.max_side} along a side"
        raise Problem(413, f"{name} has {width} x {height} pixels, the limits are {limit}: scale it down or cut it up")
    if frames > 1:
        raise Problem(422, f"{name} is animated ({frames} frames): send one picture")
    # Within compressed data the byte 0xff is always followed by another than this.
    most = min(MAX_SCANS, USUAL_SCANS * settings.max_pixels // max(1, width * height))
    if contents.startswith(b"\xff\xd8") and contents.count(b"\xff\xda") > most:
        raise Problem(422, f"{name} is a JPEG of more than {most} scans: save it anew")
