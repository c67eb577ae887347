"""What the service says in JSON."""

import hashlib
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from services import _rle

EXAMPLE_MODEL = {"name": "streets", "version": 3, "weights": hashlib.sha256(b"test").hexdigest()}


def _example(**values: object) -> ConfigDict:
    return {"json_schema_extra": {"example": cast("Any", values)}}


class ModelIdentity(BaseModel):
    """What answered."""

    model_config = _example(**EXAMPLE_MODEL)

    name: str
    version: int
    weights: str = Field(description="SHA-256 of the weights")


class RunLengths(BaseModel):
    """A mask in COCO's compressed run-length encoding, as pycocotools reads it."""

    size: tuple[int, int] = Field(description="height and width")
    counts: str

    def mask(self) -> NDArray[np.bool_]:
        """Return it as an array (H, W).

        Raises:
            ValueError: the counts do not describe a mask of this size.
        """
        return _rle.decode(self.counts, *self.size)


class ClassFound(BaseModel):
    """What was found of one class."""

    label: int = Field(description="its value in masks")
    name: str
    colour: tuple[int, int, int] = Field(description="RGB, 0 to 255")
    share: float = Field(description="of the pixels, 0 to 1")
    confidence: float | None = Field(description="mean probability over its pixels; null where it has none")
    rle: RunLengths | None = Field(description="its pixels; null where it has none")


class Segmentation(BaseModel):
    """What was found in one image, at its size after EXIF rotation."""

    model_config = _example(
        model=EXAMPLE_MODEL,
        width=4,
        height=2,
        classes=[
            {
                "label": 0,
                "name": "road",
                "colour": [128, 64, 128],
                "share": 0.5,
                "confidence": 0.93,
                "rle": {"size": [2, 4], "counts": "044"},
            }
        ],
    )

    model: ModelIdentity
    width: int
    height: int
    classes: list[ClassFound] = Field(description="all classes, by label")


class Segmentations(BaseModel):
    """What was found in several images, in their order."""

    images: list[Segmentation]


class ModelDescription(BaseModel):
    """A version that is served."""

    name: str
    version: int
    weights: str = Field(description="SHA-256 of the weights")
    champion: bool = Field(description="whether it answers where no version is named")
    network: str
    classes: list[str]
    colours: list[tuple[int, int, int]] = Field(description="RGB, by label")
    preprocessing: str
    scale: float = Field(description="images are resized by this before the network sees them")
    inference: str
    rule: str = Field(description="how the scores count")
    split: str = Field(description="what it was evaluated on")
    mean_iou: float | None = Field(description="0 to 1")
    mean_iou_interval: tuple[float | None, float | None] = Field(description="95 %, over images")
    class_iou: list[float | None] = Field(description="by label")


class ModelList(BaseModel):
    """What is served, the champion first."""

    models: list[ModelDescription]
    refused: list[str] = Field(description="why versions that became champion are not served")


class FieldFile(BaseModel):
    """A file that is kept of a look at units."""

    name: str
    size: int = Field(description="bytes")
    sha256: str
    media_type: str


class FieldDescription(BaseModel):
    """A look at what units of a network see: numbers are in the file `numbers.json`."""

    model_config = _example(
        id="streets-conv4_3-2units-9f86d08188",
        model="streets",
        weights="a run",
        layer="conv4_3",
        units=[1, 7],
        images="streets val",
        num_images=40,
        files=[{"name": "conv4_3-1.png", "size": 81920, "sha256": 64 * "0", "media_type": "image/png"}],
    )

    id: str
    model: str
    weights: str = Field(description="which, as people call them")
    layer: str
    units: list[int]
    images: str = Field(description="which the units were looked at with")
    num_images: int
    files: list[FieldFile]


class FieldList(BaseModel):
    """What was looked at."""

    receptive_fields: list[str] = Field(description="ids, sorted")


class Health(BaseModel):
    """That the service is there."""

    status: Literal["ok"] = "ok"


class TensorMetadata(BaseModel):
    """An input or output, after the Open Inference Protocol."""

    name: str
    datatype: str
    shape: list[int] = Field(description="-1: any")


class OipModel(BaseModel):
    """A model, after the Open Inference Protocol."""

    name: str
    versions: list[str]
    platform: str = "fcn-lab"
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class OipServer(BaseModel):
    """The service, after the Open Inference Protocol."""

    name: str = "fcn-lab"
    version: str
    extensions: list[str] = []


class OipLive(BaseModel):
    """Whether the service lives, after the Open Inference Protocol."""

    live: bool


class OipReady(BaseModel):
    """Whether the service is ready, after the Open Inference Protocol."""

    ready: bool
