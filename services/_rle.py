"""Run lengths of masks, compressed as COCO does it; pycocotools reads them."""

import numpy as np
from numpy.typing import NDArray


def encode_classes(labels: NDArray[np.uint8]) -> dict[int, str]:
    """Return for each label in a map (H, W) the `counts` of COCO's compressed run-length encoding of its pixels."""
    flat = labels.T.ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    ends = np.append(starts[1:], flat.size)
    values = flat[starts]
    found = {}
    for label in np.unique(values):
        own = values == label
        edges = np.concatenate([[0], np.stack([starts[own], ends[own]], 1).ravel(), [flat.size]])
        counts = np.diff(edges)
        # Runs alternate between without and with the label, the first may be empty, the last not.
        found[int(label)] = _compress(counts if counts[-1] else counts[:-1])
    return found


def decode(counts: str, height: int, width: int) -> NDArray[np.bool_]:
    """Return the mask (H, W) that `counts` describe.

    Raises:
        ValueError: they do not describe one of this size.
    """
    digits = np.frombuffer(counts.encode(), np.uint8).astype(np.int64) - 48
    last = np.flatnonzero(digits & 32 == 0)
    first = np.concatenate([[0], last[:-1] + 1]) if last.size else last
    place = np.arange(digits.size) - np.repeat(first, np.diff(np.append(first, digits.size)))
    deltas = np.add.reduceat((digits & 31) << (5 * place), first) if first.size else first
    deltas = np.where(digits[last] & 16, deltas - (1 << (5 * (last - first + 1))), deltas)
    runs = deltas.copy()
    # A run is the difference to the one before the last, from the fourth on.
    runs[1::2], runs[2::2] = np.cumsum(deltas[1::2]), np.cumsum(deltas[2::2])
    if runs.sum() != height * width or (runs < 0).any():
        raise ValueError(f"the run lengths do not describe a mask of {height} x {width} pixels")
    return np.repeat(np.arange(runs.size) % 2 == 1, runs).reshape(width, height).T


def _compress(counts: NDArray[np.int64]) -> str:
    """Write runs as COCO's text: differences to the one before the last, in groups of 5 bits, low ones first."""
    rest = counts.copy()
    rest[3:] -= counts[1:-2]
    alive = np.ones(rest.size, np.bool_)
    characters, used = [], []
    while alive.any():
        group = rest & 31
        rest = rest >> 5
        more = np.where(group & 16, rest != -1, rest != 0)
        characters.append(group + 32 * more + 48)
        used.append(alive)
        alive = alive & more
    return bytes(np.stack(characters, 1)[np.stack(used, 1)].astype(np.uint8)).decode()
