"""What an experiment service is: one frozen, validated value, from arguments and the environment."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services._settings import ServiceSettings


class Experiments(ServiceSettings):
    """Where experiments are kept, and where jobs run.

    `FCN_EXPERIMENTS_CLUSTER=http://head:8265` in the environment, `serve run services.experiments:build storage=lab`,
    or `args:` of a Serve configuration; the latter two win.
    """

    model_config = SettingsConfigDict(env_prefix="FCN_EXPERIMENTS_", frozen=True, extra="forbid", populate_by_name=True)

    cluster: str | None = Field(
        None, description="URL of the dashboard of the cluster that jobs run on; left out: the one the service runs on"
    )
    max_body_bytes: int = Field(64 * 2**10, ge=1024, description="of a request")
    max_log_bytes: int = Field(256 * 2**10, ge=1024, description="of the log of a job, in one answer")
    deadline_s: float = Field(30, gt=0, description="longest that the cluster may be silent when it is asked")
    patience_s: float = Field(5, gt=0, description="longest that the storage may be silent when it is asked")
    refresh_s: float = Field(2, gt=0, description="how old the list of what is stored may be")
    refresh_tokens_s: float = Field(10, gt=0, description="how often to look for changed tokens")
