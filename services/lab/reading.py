"""The routes that tell what is stored."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from fcn_core.comparison import Comparison
from fcn_core.evaluation import Report
from services._problems import Problem, declared
from services.lab.schemas import (
    History,
    ModelDetails,
    Models,
    RunDetails,
    RunList,
    RunSummary,
    SettingDifferences,
    SweepDetails,
    SweepList,
    Who,
)
from services.lab.service import Reader, TheLab

ERRORS = declared(401, 421, 422, 500, 503)
ABSENT = ERRORS | declared(404, 409)
_PNG: dict[int | str, dict[str, Any]] = {
    200: {"description": "A picture", "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}}
}
MOST_COMPARED = 8
Sort = Literal["score", "validation", "started", "name", "epochs"]
Two = Annotated[list[str], Query(alias="run", min_length=2, max_length=MOST_COMPARED, description="run_id, repeated")]
Evaluation = Annotated[str, Query(max_length=100, description="name of an evaluation: val, test, val-tta")]

runs = APIRouter(tags=["runs"])
others = APIRouter(tags=["sweeps and models"])


@runs.get("/v1/runs", summary="Runs, the best first", responses=ERRORS)
def list_runs(  # noqa: PLR0913 -- each a parameter of the query.
    lab: TheLab,
    _: Reader,
    evaluation: Evaluation = "val",
    sort: Sort = "score",
    *,
    ascending: bool = False,
    search: Annotated[str, Query(max_length=100, description="part of the run_id or the network")] = "",
    data: Annotated[str, Query(max_length=50, description="kind of the data set")] = "",
    finished: bool | None = None,
    offset: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> RunList:
    """Return a page of the runs that fit the filters, with the score of one of their evaluations."""
    found = lab.runs.all(evaluation)
    fit = [
        one
        for one in found.runs
        if search.lower() in f"{one.run_id} {one.network}".lower()
        and data in ("", one.data)
        and finished in (None, one.finished)
    ]
    return RunList(
        total=len(fit),
        runs=_sorted(fit, sort, ascending=ascending)[offset : offset + limit],
        data=sorted({one.data for one in found.runs}),
        evaluations=sorted({name for one in found.runs for name in one.evaluations}),
        damaged=found.damaged,
    )


@runs.get("/v1/runs/{run_id}", summary="A run", responses=ABSENT)
def show_run(run_id: str, lab: TheLab, _: Reader) -> RunDetails:
    """Return settings, epochs, scores with their rule, restarts, figures, and what was packed of it."""
    return lab.runs.details(run_id).model_copy(update={"packed": lab.models.packed(run_id)})


@runs.get("/v1/runs/{run_id}/epochs", summary="The epochs of a run, to follow it", responses=ABSENT)
def show_epochs(run_id: str, lab: TheLab, _: Reader, after: Annotated[int, Query(ge=0)] = 0) -> History:
    """Return the epochs after one, as they are at this moment."""
    return lab.runs.history(run_id, after)


@runs.get("/v1/runs/{run_id}/evaluations/{name}", summary="An evaluation of a run", responses=ABSENT)
def show_evaluation(run_id: str, name: str, lab: TheLab, _: Reader) -> Report:
    """Return all scores, by class with their intervals, and the rule."""
    return lab.runs.report(run_id, name)


@runs.get(
    "/v1/runs/{run_id}/figures/{figure:path}",
    summary="A figure of a run",
    response_class=Response,
    responses=ABSENT | _PNG,
)
def show_figure(run_id: str, figure: str, lab: TheLab, _: Reader) -> Response:
    """Return curves, predictions or a figure of an evaluation, as the run's `figures` name them."""
    return Response(lab.runs.figure(run_id, figure), media_type="image/png")


@runs.get("/v1/differences", summary="The settings in which runs differ", responses=ABSENT)
def show_differences(lab: TheLab, _: Reader, run: Two) -> SettingDifferences:
    """Return each setting that is not the same in all of the runs."""
    return lab.runs.differences(_distinct(run))


@runs.get("/v1/comparisons", summary="Evaluated runs on the same images", responses=ABSENT)
def show_comparison(lab: TheLab, _: Reader, run: Two, evaluation: Evaluation = "val") -> Comparison:
    """Return scores, and the paired difference of each to the first with its interval; seeds are pooled."""
    return lab.runs.compare(_distinct(run), evaluation)


@others.get("/v1/sweeps", summary="Sweeps", responses=ERRORS)
def list_sweeps(lab: TheLab, _: Reader) -> SweepList:
    """Return all sweeps."""
    return SweepList(sweeps=lab.sweeps.all())


@others.get("/v1/sweeps/{sweep_id}", summary="A sweep", responses=ABSENT)
def show_sweep(sweep_id: str, lab: TheLab, _: Reader) -> SweepDetails:
    """Return its trials, the best first, and its report once there is one."""
    return lab.sweeps.details(sweep_id)


@others.get(
    "/v1/sweeps/{sweep_id}/figures/{figure:path}",
    summary="A figure of a sweep",
    response_class=Response,
    responses=ABSENT | _PNG,
)
def show_sweep_figure(sweep_id: str, figure: str, lab: TheLab, _: Reader) -> Response:
    """Return a figure, as the sweep's `figures` name them."""
    return Response(lab.sweeps.figure(sweep_id, figure), media_type="image/png")


@others.get("/v1/models", summary="Models", responses=ERRORS)
def list_models(lab: TheLab, _: Reader) -> Models:
    """Return all models with their versions, what the gate found of them, and the log of champions."""
    return Models(models=lab.models.all())


@others.get("/v1/models/{name}", summary="A model", responses=ABSENT)
def show_model(name: str, lab: TheLab, _: Reader) -> ModelDetails:
    """Return its versions, what the gate found of them, and the log of champions."""
    return lab.models.model(name)


@others.get("/v1/whoami", summary="Who asks", responses=ERRORS)
def who_am_i(request: Request, lab: TheLab, reader: Reader) -> Who:
    """Return the name of the token and whether it may act."""
    try:
        lab.access.actor(request)
    except Problem:
        return Who(name=reader, may_act=False)
    return Who(name=reader, may_act=True)


def _distinct(run_ids: list[str]) -> list[str]:
    found = [*dict.fromkeys(run_ids)]
    if len(found) < 2:
        raise Problem(422, "give at least two runs")
    return found


def _sorted(found: list[RunSummary], sort: Sort, *, ascending: bool) -> list[RunSummary]:
    """Return runs in order; those that have nothing to be sorted by come last."""
    keys: dict[Sort, Callable[[RunSummary], Any]] = {
        "score": lambda one: one.score and one.score.value,
        "validation": lambda one: one.validation,
        "started": lambda one: one.started,
        "name": lambda one: one.run_id,
        "epochs": lambda one: one.epochs,
    }
    key = keys[sort]
    there = [one for one in found if key(one) is not None]
    return sorted(there, key=key, reverse=not ascending) + [one for one in found if key(one) is None]
