"""What a run is: one frozen, validated, serialisable value.

A variant of a run is `override(run, {"optim.learning_rate": 1e-5})`, which validates again. `run_id` is the name and a
hash of the whole value, so that the same settings are the same run wherever and whenever they are started.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

VOID: Literal[255] = 255
"""The label of pixels that carry no class, in every mask inside this software."""

Stride = Annotated[Literal[8, 16, 32], BeforeValidator(lambda value: int(value) if str(value).isdigit() else value)]
Trunk = Literal["vgg16", "vgg16_bn", "resnet18", "resnet34", "resnet50"]


class Value(BaseModel):
    """A frozen pydantic model that refuses unknown fields, NaN and infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


class Streets(Value):
    """Size of the built-in drawn street scenes."""

    num_train: int = Field(256, ge=1, description="training scenes")
    num_val: int = Field(40, ge=1, description="validation scenes")
    height: int = Field(96, ge=32, le=2048, description="pixels")
    width: int = Field(128, ge=32, le=2048, description="pixels")
    seed: int = Field(0, ge=0, description="scenes are a pure function of this seed and their index")


class Data(Value):
    """Where samples come from and how they are augmented."""

    kind: Literal["streets", "camvid", "folder", "voc", "sbd"] = Field(
        "streets", description="how samples are laid out"
    )
    path: str | None = Field(None, description="folder or fsspec URL (s3://bucket/camvid); streets needs none")
    train_split: str = Field("train", description="split to train on")
    val_split: str = Field("val", description="split to validate on")
    folds: int | None = Field(
        None,
        ge=2,
        le=100,
        description="k-fold: both splits together are parted by video sequence, and each part is validated on once",
    )
    fold: int | None = Field(None, ge=0, description="the part to validate on, from 0; all in turn if left out")
    scale: float = Field(
        1.0, gt=0, le=4, description="the network sees images resized by this; scores are at the image's own size"
    )
    crop: tuple[int, int] | None = Field(
        None, description="(height, width) of training crops after scaling; void where there is no image"
    )
    zoom: tuple[float, float] = Field((1.0, 1.0), description="range of the random scale of a training image")
    flip: bool = Field(True, description="flip training images left to right at random")
    colour: float = Field(
        0.0, ge=0, le=1, description="strength of the random change of brightness, contrast, saturation and hue"
    )
    audit: Literal["fail", "leave_out", "warn"] = Field(
        "fail",
        description="what bad samples do: stop the run, be left out, or be used as far as they can be read",
    )
    streets: Streets = Field(Streets(), description="size of the built-in data set")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.kind == "streets" and self.path is not None:
            raise ValueError(
                "the data set 'streets' is drawn, not read: leave out path, or name a kind: camvid, folder, voc, sbd"
            )
        if self.kind != "streets" and self.path is None:
            raise ValueError(
                f"the data set '{self.kind}' needs a path: a folder or a URL such as s3://bucket/{self.kind}"
            )
        if self.fold is not None and self.fold >= (self.folds or 0):
            raise ValueError(f"fold {self.fold} is none of the {self.folds or 0} folds: set folds, and fold below it")
        if not 0 < self.zoom[0] <= self.zoom[1] <= 8:
            raise ValueError(f"zoom is a range (low, high) with 0 < low <= high <= 8, not {self.zoom}")
        if self.crop is not None and min(self.crop) < 1:
            raise ValueError(f"crop is (height, width) in pixels, at least 1 each, not {self.crop}")
        if self.zoom != (1.0, 1.0) and self.crop is None:
            raise ValueError(
                "zoom changes the size of training images, so it needs a crop: set crop to (height, width)"
            )
        return self


class Model(Value):
    """A fully convolutional network."""

    trunk: Trunk = Field("vgg16", description="the classifier that was made convolutional")
    stride: Stride = Field(
        8, description="32: FCN-32s, no skip; 16: FCN-16s, skip from pool4; 8: FCN-8s, skips from pool4 and pool3"
    )
    geometry: Literal["same", "reference"] = Field(
        "same", description="'same' padding, or pad 100 and crop as the published VGG16 networks do"
    )
    upsampling: Literal["fixed", "learned", "learned_but_last"] = Field(
        "learned_but_last", description="which transposed convolutions learn; all start bilinear"
    )
    width: float = Field(1.0, gt=0, le=4, description="multiplies the channels of the trunk")
    fc_channels: int = Field(4096, ge=1, description="channels of fc6 and fc7 of a VGG16 trunk")
    dropout: float = Field(
        0.5, ge=0, lt=1, description="after fc6 and fc7, or before the score layer of a ResNet trunk"
    )
    at_once: bool = Field(
        False, description="scale pool4 by 0.01 and pool3 by 0.0001 before their score layers (8s trained at once)"
    )
    weights: str | None = Field(
        None,
        description="'imagenet' (torchvision's), or a file or URL of such a state dict, .pth or .safetensors",
    )
    preprocessing: Literal["torchvision", "caffe"] = Field(
        "torchvision", description="what the weights expect of an image"
    )
    start_from: str | None = Field(
        None,
        description="checkpoint or run folder or URL whose layers are taken over (staged training, 32s to 16s to 8s)",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.geometry == "reference" and not self.trunk.startswith("vgg16"):
            raise ValueError(f"the reference geometry is that of VGG16; with trunk {self.trunk} use geometry 'same'")
        if self.weights is not None and self.width != 1:
            raise ValueError(f"weights fit width 1 only, not {self.width}: leave out weights or set width to 1")
        if self.weights is not None and self.start_from is not None:
            raise ValueError("give weights (of a classifier) or start_from (of an FCN), not both")
        return self


class Loss(Value):
    """Weighted sum of pixel cross-entropy and soft Dice."""

    cross_entropy: float = Field(1.0, ge=0, description="weight of the cross-entropy over labelled pixels")
    dice: float = Field(0.0, ge=0, description="weight of the soft Dice loss over labelled pixels, per image")
    reduction: Literal["mean", "sum"] = Field(
        "mean", description="cross-entropy over the labelled pixels of the global batch"
    )
    class_weights: Literal["none", "median_frequency", "enet"] = Field(
        "none", description="weights of classes in the cross-entropy, from the training set's frequencies"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.cross_entropy == 0 and self.dice == 0:
            raise ValueError("cross_entropy and dice are both 0: nothing to learn from")
        return self


class Optim(Value):
    """Optimisation: everything from gradient to weights."""

    method: Literal["sgd", "adamw"] = Field(
        "sgd", description="SGD doubles the learning rate of biases and does not decay them"
    )
    learning_rate: float = Field(1e-3, gt=0, description="peak learning rate")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of SGD, or the first beta of AdamW")
    weight_decay: float = Field(5e-4, ge=0, description="of weights; biases and BatchNorm scales have none")
    schedule: Literal["poly", "cosine", "fixed"] = Field("poly", description="poly: (1 - step / steps) ** 0.9")
    warmup_steps: int = Field(0, ge=0, description="steps of linear warm-up")
    epochs: int = Field(50, ge=1, description="passes over the training set")
    batch_size: int = Field(8, ge=1, description="images per step, over all workers")
    accumulate: int = Field(1, ge=1, description="forward passes per step on each worker")
    clip_norm: float | None = Field(None, gt=0, description="largest norm of the gradient")
    ema_decay: float | None = Field(
        None, gt=0, lt=1, description="decay of the moving average of weights that is validated and kept"
    )
    continue_from: str | None = Field(
        None,
        description="run (its newest checkpoint) or checkpoint from whose weights, optimiser state and step training "
        "goes on, with these settings",
    )
    stop_epoch: int | None = Field(
        None, ge=1, description="epoch after which the run ends, though the schedule is that of all epochs"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size {self.batch_size} does not divide into accumulate {self.accumulate} equal parts"
            )
        if self.last_epoch > self.epochs:
            raise ValueError(f"stop_epoch {self.stop_epoch} is behind the last of {self.epochs} epochs: leave it out")
        return self

    @property
    def last_epoch(self) -> int:
        """The epoch with which the run ends, counted from 1."""
        return self.stop_epoch or self.epochs


class Compute(Value):
    """How the numbers are computed; 'auto' is bf16, channels last and compiled on CUDA, and none of these elsewhere."""

    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="bf16: autocast; weights and sums stay in fp32"
    )
    channels_last: bool | Literal["auto"] = Field("auto", description="memory layout NHWC")
    compile: bool | Literal["auto"] = Field("auto", description="torch.compile the network")
    deterministic: bool = Field(
        True, description="only algorithms that give the same bits again; resume is exact with it"
    )


class Run(Value):
    """Everything that decides the numbers of a run, and nothing else."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")] = Field(
        "run", description="what people call it"
    )
    seed: int = Field(0, ge=0, lt=2**31, description="of initial weights, data order, augmentation and dropout")
    data: Data = Field(Data(), description="data set and augmentation")
    model: Model = Field(Model(), description="network")
    loss: Loss = Field(Loss(), description="loss")
    optim: Optim = Field(Optim(), description="optimisation")
    compute: Compute = Field(Compute(), description="precision and layout")

    @property
    def run_id(self) -> str:
        """The name and ten hexadecimal digits of the SHA-256 of the settings."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return f"{self.name}-{hashlib.sha256(canonical.encode()).hexdigest()[:10]}"


class Classes(Value):
    """The classes of a data set, in the order of their labels."""

    names: tuple[str, ...] = Field(min_length=1, max_length=VOID)
    colours: tuple[tuple[int, int, int], ...]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.colours) != len(self.names):
            raise ValueError(f"{len(self.names)} class names but {len(self.colours)} colours")
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"class names repeat: {', '.join(self.names)}")
        if any(not 0 <= level <= 255 for colour in self.colours for level in colour):
            raise ValueError("colours are RGB levels from 0 to 255")
        return self

    def __len__(self) -> int:
        return len(self.names)


def override(run: Run, changes: Mapping[str, Any]) -> Run:
    """Return `run` with settings replaced by dotted name, validated again.

    >>> override(Run(), {"optim.learning_rate": 1e-5}).optim.learning_rate
    1e-05

    Raises:
        KeyError: a name is no setting; the message lists those that are.
        pydantic.ValidationError: a value does not fit.
    """
    values = run.model_dump()
    for dotted, value in changes.items():
        *parents, leaf = dotted.split(".")
        group: Any = values
        for parent in parents:
            group = group.get(parent) if isinstance(group, dict) else None
        if not isinstance(group, dict) or leaf not in group:
            raise KeyError(f"no setting {dotted!r}; settings are {', '.join(setting_names(run))}")
        group[leaf] = value
    return Run.model_validate(values)


def setting_names(value: Value, prefix: str = "") -> list[str]:
    """Return the dotted names of all settings below `value`."""
    names: list[str] = []
    for name in type(value).model_fields:
        child = getattr(value, name)
        names += setting_names(child, f"{prefix}{name}.") if isinstance(child, Value) else [f"{prefix}{name}"]
    return names


def setting(value: Value, name: str) -> object:
    """Return a setting by its dotted name."""
    found: object = value
    for part in name.split("."):
        found = getattr(found, part)
    return found
