"""What the experiment service says in JSON."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from fcn_core.checkpoint import Epoch
from fcn_core.registry.gate import Gate
from fcn_core.registry.store import Entry

MOST_ARGUMENTS, LONGEST_ARGUMENT = 100, 1000


class Headline(BaseModel):
    """A score, never without its rule."""

    value: float | None = Field(description="0 to 1")
    low: float | None = Field(description="of the 95 % interval over images")
    high: float | None
    rule: str = Field(description="how it counts")


class Score(Headline):
    """Mean IoU of an evaluation."""

    num_images: int
    data: str = Field(description="SHA-256 over what was evaluated: scores of other data cannot be compared with it")
    step: int | None = Field(description="of the checkpoint; null for a run of several folds")


class RunSummary(BaseModel):
    """A run as a line of the leaderboard."""

    run_id: str
    name: str
    seed: int
    data: str = Field(description="kind of the data set")
    network: str
    started: str | None = Field(description="when run.json was first written, ISO 8601")
    epochs: int = Field(description="finished")
    of_epochs: int = Field(description="with which the run ends")
    finished: bool
    validation: float | None = Field(description="best mean IoU on validation while it trained, 0 to 1")
    score: Score | None = Field(description="of the evaluation that was asked for; null if there is none")
    evaluations: list[str]


class RunList(BaseModel):
    """Runs of a storage."""

    total: int = Field(description="that fit the filters; `runs` is a page of them")
    runs: list[RunSummary]
    data: list[str] = Field(description="kinds of data sets of all runs")
    evaluations: list[str] = Field(description="names of evaluations of all runs")
    damaged: list[str] = Field(description="folders whose run.json cannot be read")


class Packed(BaseModel):
    """A version of a model that was packed from a run."""

    model: str
    version: int
    champion: bool
    gate: Gate | None = Field(description="what the gate found; null where it was not asked")


class RunDetails(RunSummary):
    """All that is stored of a run."""

    rule: str | None = Field(description="how validation while training counts")
    settings: dict[str, Any] = Field(description="by dotted name")
    versions: dict[str, str] = Field(description="of the software that began it")
    folds: list[str] = Field(description="runs of the folds of a k-fold run")
    history: list[Epoch]
    restarts: list[dict[str, Any]] = Field(description="lines of restarts.jsonl, where they are recorded")
    scores: dict[str, Score] = Field(description="by the name of the evaluation")
    figures: list[str] = Field(description="paths for /v1/runs/{run_id}/figures/{figure}")
    packed: list[Packed]


class History(BaseModel):
    """Epochs of a run, for those who follow it."""

    epochs: list[Epoch]
    of_epochs: int
    finished: bool


class SettingDifference(BaseModel):
    """A setting in which runs differ."""

    name: str
    values: list[Any] = Field(description="of each run, in the order that was asked for")


class SettingDifferences(BaseModel):
    """The settings in which runs differ."""

    runs: list[str]
    settings: list[SettingDifference]
    same: int = Field(description="how many settings are the same")


class Trial(BaseModel):
    """A trial of a sweep."""

    number: int
    point: dict[str, Any] = Field(description="what it sets, by dotted name")
    outcomes: list[dict[str, Any]] = Field(description="of its runs that have ended")
    score: float | None = Field(description="mean over the runs that have ended; null where none has")


class SweepSummary(BaseModel):
    """A sweep as a line of a list."""

    sweep_id: str
    trials: int = Field(description="begun")
    ended: int = Field(description="runs that have ended")
    finished: bool = Field(description="whether the sweep came to its report")
    method: str | None = Field(description="null until then, as what follows")
    metric: str | None
    best_run: str | None
    best: Headline | None


class SweepList(BaseModel):
    """Sweeps of a storage."""

    sweeps: list[SweepSummary]


class SweepDetails(SweepSummary):
    """All that is stored of a sweep."""

    table: list[Trial] = Field(description="trials, the best first")
    report: dict[str, Any] | None = Field(description="sweep.json")
    figures: list[str] = Field(description="paths for /v1/sweeps/{sweep_id}/figures/{figure}")


class VersionSummary(BaseModel):
    """A version of a model."""

    version: int
    run_id: str
    created: datetime
    weights: str = Field(description="SHA-256")
    split: str = Field(description="on which it was evaluated")
    score: Score
    champion: bool
    gate: Gate | None = Field(description="what the gate found; null where it was not asked")


class ModelDetails(BaseModel):
    """A model: its versions and who was champion when."""

    name: str
    champion: int | None
    versions: list[VersionSummary] = Field(description="newest first")
    damaged: list[int] = Field(description="versions that cannot be read")
    log: list[Entry] = Field(description="champions, newest first")


class Models(BaseModel):
    """Models of a storage."""

    models: list[ModelDetails]


class Command(BaseModel):
    """A command that can be submitted."""

    name: str
    summary: str


class Commands(BaseModel):
    """What can be submitted: the files of jobs/."""

    commands: list[Command]


class Submission(BaseModel):
    """A command to be submitted, with arguments as on a command line, except where results are kept."""

    model_config = {
        "json_schema_extra": {
            "example": {"command": "train_fcn8s", "arguments": ["streets", "--workers", "2", "--optim.epochs", "4"]}
        },
        "extra": "forbid",
    }

    command: str = Field(max_length=64)
    arguments: list[str] = Field(default=[], max_length=MOST_ARGUMENTS)


class Promotion(BaseModel):
    """A run that is to become champion of a model."""

    model_config = {"extra": "forbid"}

    run_id: str = Field(max_length=100)
    model: str = Field(max_length=64)
    evaluation: str = Field("val", max_length=100, description="which evaluation the gate looks at")
    force: str | None = Field(
        None, min_length=1, max_length=LONGEST_ARGUMENT,
        description="why it shall be champion though worse than the one there is, or not comparable",
    )  # fmt: skip


Status = Literal["PENDING", "RUNNING", "STOPPED", "SUCCEEDED", "FAILED"]


class JobDetails(BaseModel):
    """A command that was submitted to the cluster."""

    job_id: str
    command: str
    arguments: list[str]
    owner: str | None = Field(description="whose token submitted it; null if it was not submitted here")
    status: Status
    message: str = Field(description="what Ray says of the status, in a line")
    started: datetime | None
    ended: datetime | None
    run_id: str | None = Field(description="of the run that it trains, once its log says so")


class JobList(BaseModel):
    """Jobs of the cluster, newest first."""

    jobs: list[JobDetails]


class LogPart(BaseModel):
    """A part of the log of a job."""

    text: str
    offset: int = Field(description="of its first byte: what comes before was left out if this is more than was asked")
    next: int = Field(description="offset to ask for next")
    job: JobDetails


class Who(BaseModel):
    """Who asks, and what they may do."""

    name: str
    may_act: bool
