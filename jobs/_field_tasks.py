"""What a worker does for receptive fields: the strongest activations of some images, occlusion or removal in one."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import OutOfMemoryError, Tensor, inference_mode

from fcn_core.data.decode import SampleError
from fcn_core.data.pictures import Pictures
from fcn_core.receptive_field.activations import Top, activations
from fcn_core.receptive_field.effective import effective_field
from fcn_core.receptive_field.graph import trace
from fcn_core.receptive_field.incremental import Incremental
from fcn_core.receptive_field.minimal import (
    ImageJudge,
    Minimal,
    PixelJudge,
    filling,
    minimal_image,
    segments_of,
)
from fcn_core.receptive_field.occlusion import Discrepancy, Maps, Occlusion, Site, discrepancies
from fcn_core.receptive_field.subject import Subject
from fcn_core.receptive_field.units import Geometry
from jobs._crew import Arrays

INCREMENTAL = "only what an occluder can change, exactly"


class How(NamedTuple):
    """How images are occluded."""

    occlusion: Occlusion
    plain: bool
    """Whether the network is run anew for each position."""
    effective: bool
    """Whether gradients are wanted too."""


class Lens:
    """A layer of a network, and the images that it is looked at with."""

    def __init__(self, subject: Subject, pictures: Pictures, layer: str, device: str = "cpu") -> None:
        self.subject, self.pictures, self.layer, self.device = subject, pictures, layer, device
        self.geometry = Geometry(subject.network, layer)

    def on(self, device: str) -> "Lens":
        """Return the same on a device."""
        subject = self.subject._replace(network=self.subject.network.to(device))
        return Lens(subject, self.pictures, self.layer, device)

    def seen(self, index: int) -> NDArray[np.uint8]:
        """Return what the network sees of an image, (H, W, 3) uint8 RGB, or raise a SampleError."""
        return self.subject.view.of(self.pictures.read(index))

    def tensor(self, index: int) -> Tensor:
        """Return the network's input (1, 3, H, W), or raise a SampleError."""
        return self.subject.tensor(self.seen(index), self.device)

    def map(self, index: int) -> Tensor:
        """Return the layer's map (C, h, w) of an image.

        Raises:
            SampleError: the image cannot be read.
            ValueError: the network cannot take it, or its map cannot be used.
        """
        image = self.tensor(index)
        with self._naming(index, image):
            return activations(self.subject.network, [self.layer], image[0])[self.layer]

    @contextmanager
    def _naming(self, index: int, image: Tensor) -> Iterator[None]:
        try:
            yield
        except OutOfMemoryError:
            raise
        except (RuntimeError, AssertionError, ValueError) as error:
            size, reason = " x ".join(map(str, image.shape[-2:])), str(error).strip().splitlines()[0]
            raise ValueError(f"{self.pictures.names[index]}, {size} pixels: {reason}") from error


def strongest(lens: Lens, start: int, stop: int, most: int) -> Arrays:
    """Return `Top` of the images from `start` to `stop`, counted from `start`; `broken` says what could not be read."""
    found, broken = [], []
    for index in range(start, stop):
        try:
            found.append(Top.of(index - start, lens.map(index), most))
        except SampleError as error:
            broken.append(str(error))
    top = {name: np.asarray(value) for name, value in Top.merge(found)._asdict().items()} if found else {}
    return top | {"broken": np.array(broken, np.str_)}


def top_of(part: Arrays, start: int) -> Top | None:
    """Return what `strongest` found, with indexes of the whole set; None where no image could be read."""
    if "most" not in part:
        return None
    top = Top(int(part["most"]), *(part[name] for name in Top._fields[1:]))
    return top._replace(seen=top.seen + start, images=top.images + start)


def occlude(lens: Lens, index: int, sites: Sequence[Site], how: How) -> Arrays:
    """Return, for each of S sites in an image, how the occluder at each position changes the unit.

    Returns:
        falls (S, rows, columns) float32; extents (2,) of the layer's map; way, a sentence on how it was computed; and
        gradients (S, H, W) float32 if they are wanted and the network can be followed.
    """
    image, (_, *extents) = lens.tensor(index), lens.map(index).shape
    found, way = _discrepancies(lens, image, sites, how)
    arrays = {
        "falls": np.stack([one.falls.numpy() for one in found]).astype(np.float32),
        "extents": np.array(extents),
        "way": np.array(way),
    }
    size = (image.shape[-2], image.shape[-1])
    if how.effective and lens.geometry.field(size) is not None:
        graph = trace(lens.subject.network, lens.layer, size=size)
        fields = [effective_field(graph, image, (site.row, site.column), site.unit) for site in sites]
        arrays["gradients"] = np.stack(fields).astype(np.float32)
    return arrays


def remove(lens: Lens, index: int, settings: Minimal, label: int | None) -> Arrays:
    """Return the minimal image: segments, kept, order, scores, lost and label; nothing where the class is not there."""
    seen = lens.seen(index)
    image = lens.subject.tensor(seen, lens.device)
    with inference_mode():
        try:
            judge: Any = (
                PixelJudge.of(lens.subject.network, image, settings.score, label)
                if lens.subject.dense
                else ImageJudge.of(lens.subject.network, image, settings.score)
            )
        except ValueError:
            return {"label": np.array(-1)}
    segments = segments_of(seen, settings)
    found = minimal_image(image, segments, filling(image, settings), judge, settings.batch_size)
    arrays = {name: np.asarray(value) for name, value in found._asdict().items()}
    return arrays | {"segments": segments, "label": np.array(judge.label)}


def _discrepancies(lens: Lens, image: Tensor, sites: Sequence[Site], how: How) -> tuple[list[Discrepancy], str]:
    network = lens.subject.network
    if how.plain:
        return discrepancies(Maps(network, lens.layer), image, sites, how.occlusion), "the plain way, as asked for"
    occluder, reason = _occluder(lens, (image.shape[-2], image.shape[-1]))
    if occluder is None:
        return discrepancies(Maps(network, lens.layer), image, sites, how.occlusion), f"the plain way: {reason}"
    return occluder.discrepancies(image, sites, how.occlusion), INCREMENTAL


@lru_cache(maxsize=2)
def _occluder(lens: Lens, size: tuple[int, int]) -> tuple[Incremental | None, str]:
    """Return what computes again only what changes, for images of a size; or why it cannot. It copies the weights."""
    try:
        return Incremental(lens.subject.network, lens.layer, size), ""
    except ValueError as error:
        return None, str(error)
