"""What an experiment service is: one frozen, validated value, from arguments and the environment."""

import difflib
import os
from collections.abc import Mapping
from typing import Any

from pydantic import AliasChoices, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "FCN_EXPERIMENTS_"


class Experiments(BaseSettings):
    """Where experiments are kept, and where jobs run.

    `FCN_EXPERIMENTS_CLUSTER=http://head:8265` in the environment, `serve run services.experiments:build storage=lab`,
    or `args:` of a Serve configuration; the latter two win.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", populate_by_name=True)

    storage: str = Field(
        "results",
        validation_alias=AliasChoices("storage", "FCN_STORAGE"),
        description="folder or URL (s3://bucket/lab) below which runs/, sweeps/ and models/ lie; FCN_STORAGE",
    )
    tokens: str | None = Field(
        None,
        validation_alias=AliasChoices("tokens", "FCN_SERVE_TOKENS"),
        description="file or URL of tokens, those of the segmentation service; FCN_SERVE_TOKENS",
    )
    cluster: str | None = Field(
        None, description="URL of the dashboard of the cluster that jobs run on; left out: the one the service runs on"
    )
    max_body_bytes: int = Field(64 * 2**10, ge=1024, description="of a request")
    max_log_bytes: int = Field(256 * 2**10, ge=1024, description="of the log of a job, in one answer")
    deadline_s: float = Field(30, gt=0, description="longest that the cluster may be silent when it is asked")
    refresh_s: float = Field(2, gt=0, description="how old the list of what is stored may be")
    refresh_tokens_s: float = Field(10, gt=0, description="how often to look for changed tokens")


def read_settings(arguments: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> Experiments:
    """Return the settings that arguments and environment ask for.

    Raises:
        ValueError: one is unknown or does not fit; the message says which.
    """
    names = [f"{PREFIX}{name.upper()}" for name in Experiments.model_fields if name not in ("storage", "tokens")]
    for variable in environment:
        if variable.startswith(PREFIX) and variable not in names:
            near = difflib.get_close_matches(variable, names, n=3, cutoff=0.5)
            raise ValueError(f"no setting for the environment variable {variable}: {' or '.join(near or names)}?")
    return Experiments(**arguments)
