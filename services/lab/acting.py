"""The routes about jobs: those that act want a token that may act."""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import TypeAdapter, ValidationError

from fcn_core.registry.version import Name
from services._problems import Problem, declared
from services.lab.jobs import commands
from services.lab.reading import ABSENT, ERRORS
from services.lab.schemas import Commands, JobDetails, JobList, LogPart, Promotion, Submission
from services.lab.service import Actor, Reader, TheLab

jobs = APIRouter(tags=["jobs"])
health = APIRouter(tags=["health"])
_CLUSTER = declared(502)
_ACTING = ABSENT | _CLUSTER | declared(403, 408, 413, 504)
_NAME: TypeAdapter[str] = TypeAdapter(Name)


@jobs.get("/v1/commands", summary="What can be submitted", responses=ERRORS)
def list_commands(_: Reader) -> Commands:
    """Return the commands; `python jobs/NAME.py --help` says what each takes."""
    return Commands(commands=[*commands()])


@jobs.get("/v1/jobs", summary="Jobs of the cluster", responses=ERRORS | _CLUSTER)
def list_jobs(lab: TheLab, _: Reader) -> JobList:
    """Return the commands that were submitted here or elsewhere, newest first."""
    return JobList(jobs=lab.jobs.all())


@jobs.get("/v1/jobs/{job_id}", summary="A job", responses=ABSENT | _CLUSTER)
def show_job(job_id: str, lab: TheLab, _: Reader) -> JobDetails:
    """Return a job and its status."""
    return lab.jobs.find(job_id)


@jobs.get("/v1/jobs/{job_id}/log", summary="The log of a job, to follow it", responses=ABSENT | _CLUSTER)
def show_log(job_id: str, lab: TheLab, _: Reader, offset: Annotated[int, Query(ge=0)] = 0) -> LogPart:
    """Return what it printed from an offset on, with its status; ask again from `next`."""
    return lab.jobs.log(job_id, offset)


@jobs.post("/v1/jobs", status_code=201, summary="Submit a command", responses=_ACTING)
def submit(submission: Submission, lab: TheLab, actor: Actor) -> JobDetails:
    """Look at the arguments as the command itself does, and start it on the cluster."""
    return lab.jobs.submit(submission.command, submission.arguments, actor)


@jobs.post("/v1/jobs/{job_id}/stop", status_code=202, summary="Stop a job", responses=_ACTING)
def stop(job_id: str, lab: TheLab, actor: Actor) -> JobDetails:
    """Ask a job to end. Submitted again, a command goes on from what is stored."""
    return lab.jobs.stop(job_id, actor)


@jobs.post("/v1/promotions", status_code=201, summary="Promote a run", responses=_ACTING)
def promote(promotion: Promotion, lab: TheLab, actor: Actor) -> JobDetails:
    """Start the job that asks the gate; its verdict is in `packed` of the run and in the model, once there is one."""
    try:
        model = _NAME.validate_python(promotion.model)
    except ValidationError as error:
        raise Problem(422, f"no name of a model: {promotion.model!r}") from error
    if promotion.evaluation not in lab.runs.details(promotion.run_id).evaluations:
        raise Problem(409, f"{promotion.run_id} has no evaluation {promotion.evaluation}: submit evaluate")
    force = ["--force", promotion.force] if promotion.force else []
    arguments = [promotion.run_id, "--model", model, "--evaluation", promotion.evaluation, *force]
    return lab.jobs.submit("promote", arguments, actor)


@health.get("/healthz", summary="Whether the service lives", responses=declared(500))
async def live() -> dict[str, str]:
    """Answer."""
    return {"status": "ok"}


@health.get("/readyz", summary="Whether the service can answer", responses=declared(500, 503))
def ready(lab: TheLab) -> dict[str, str]:
    """Answer if the storage can be listed."""
    lab.runs.check()
    return {"status": "ok"}
