"""What a service is: one frozen, validated value, from arguments and the environment."""

import difflib
import os
from collections.abc import Mapping
from typing import Any, Literal, Self, TypeVar

from pydantic import AliasChoices, Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from fcn_core.models.fcn import COARSEST
from fcn_core.registry.version import Name

TOKENS = "FCN_SERVE_TOKENS"
MOST_PIXELS = 89_478_485
"""Of an image that Pillow opens without a warning."""


class ServiceSettings(BaseSettings):
    """What every service has to be told, in `FCN_STORAGE` and `FCN_SERVE_TOKENS` if not by name."""

    storage: str = Field(
        "results",
        validation_alias=AliasChoices("storage", "FCN_STORAGE"),
        description="folder or URL (s3://bucket/lab) below which runs/, sweeps/ and models/ lie; FCN_STORAGE",
    )
    tokens: str | None = Field(
        None,
        validation_alias=AliasChoices("tokens", TOKENS),
        description=f"file or URL of tokens (python -m services.tokens); none only on a loopback address; {TOKENS}",
    )


_Settings = TypeVar("_Settings", bound=ServiceSettings)


class Serving(ServiceSettings):
    """Which model is served, and within which limits. Each limit is one of a replica.

    `FCN_SERVE_MODEL=streets` in the environment, `serve run services.segmentation:build model=streets`, or `args:` of
    a Serve configuration; the latter two win.
    """

    model_config = SettingsConfigDict(env_prefix="FCN_SERVE_", frozen=True, extra="forbid", populate_by_name=True)

    model: Name | None = Field(None, description="which model; may be left out where there is one only")
    versions: tuple[int, ...] = Field(
        (), description="versions that can be asked for by number, beside the champion: [1, 2]"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU for each replica if there are any")
    tile: int = Field(
        1024,
        ge=COARSEST,
        multiple_of=COARSEST,
        description="images of more pixels than a square of this side are computed in tiles of this side",
    )
    max_body_bytes: int = Field(16 * 2**20, ge=1, description="of a request")
    max_pixels: int = Field(16 * 2**20, ge=1, le=MOST_PIXELS, description="of an image")
    max_side: int = Field(8192, ge=1, description="pixels of the longer side of an image")
    max_images: int = Field(8, ge=1, description="of a request to /v1/segment:batch")
    max_waiting: int = Field(16, ge=1, description="images between the end of their upload and that of their answer")
    receive_s: float = Field(10, gt=0, description="longest that the upload of a request may take")
    deadline_s: float = Field(
        30, gt=0, description="longest from the end of an upload to its answer, and until that is read"
    )
    rate_per_s: float | None = Field(None, gt=0, description="images per second of each token, in the mean")
    refresh_s: float = Field(10, gt=0, description="how often to look for a new champion and for changed tokens")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.max_images > self.max_waiting:
            raise ValueError(f"max_images {self.max_images} could never be admitted: max_waiting is {self.max_waiting}")
        return self


def read_settings(
    kind: type[_Settings], arguments: Mapping[str, Any], environment: Mapping[str, str] = os.environ
) -> _Settings:
    """Return the settings that arguments and environment ask for.

    Raises:
        ValueError: one is unknown or does not fit; the message says which.
    """
    prefix = kind.model_config["env_prefix"]
    own = (name for name, field in kind.model_fields.items() if field.validation_alias is None)
    names = [f"{prefix}{name.upper()}" for name in own]
    for variable in environment:
        if variable.startswith(prefix) and variable not in [*names, TOKENS]:
            near = difflib.get_close_matches(variable, [*names, TOKENS], n=3, cutoff=0.5)
            raise ValueError(f"no setting for the environment variable {variable}: {' or '.join(near or names)}?")
    return kind(**arguments)
