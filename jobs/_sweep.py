"""Sweeps: many runs over a space of settings, chosen by a search and cut short by a scheduler."""

import json
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from fcn_core import storage
from fcn_core.data.audit import Audit
from fcn_core.data.batches import Order
from fcn_core.data.catalogue import open_train_val
from fcn_core.registry.version import Name
from fcn_core.settings import Run, override
from jobs._alone import LOCK, alone
from jobs._cli import Command, Job, Launch, Resources, RunFailedError, as_yaml, exit_codes, read_job
from jobs._console import Console
from jobs._evaluate import command_for
from jobs._metric import MEAN_IOU, metric_of
from jobs._population import changeable, check_changeable
from jobs._promote import PromoteCommand, promote_run
from jobs._ray import check_reach, cluster, grown, resources_per_worker, room_for
from jobs._space import as_searches, default_space, with_searches
from jobs._study import Member, Place, Status, Study, Sweep
from jobs._sweep_board import SweepBoard
from jobs._sweep_report import report_sweep
from jobs._train import check


def _as_typed(parts: list[object]) -> list[object]:
    """Undo that pydantic-settings reads true, false and null among what it parted at commas."""
    return [part if isinstance(part, str) else json.dumps(part) for part in parts]


class SweepCommand(Command):
    """Search learning rates, skip configurations and any other settings: many training runs, side by side.

    The same command again goes on: finished trials are not run again, and the others resume where they were. With more
    trials it adds to them, but for pbt, where the size of the population makes another sweep.
    """

    stride_of_job = 8

    trials: int = Field(12, ge=1, description="points of the space that are tried")
    seeds: int = Field(1, ge=1, description="runs of each point, with seeds from `seed` on; their mean counts")
    search: Annotated[list[str], BeforeValidator(_as_typed)] = Field(
        [],
        description="NAME=VALUES: a,b,c or low..high or log:low..high; nothing leaves the setting out of the search",
    )
    method: Literal["even", "tpe", "pbt"] = Field(
        "even",
        description="even: a low-discrepancy random search; tpe: Optuna's, which learns from finished trials; pbt: a "
        "population of as many members as trials, where bad ones go on from good ones with settings changed a little",
    )
    metric: str = Field(MEAN_IOU, description="what trials are judged by: mean_iou, or iou.CLASS")
    scheduler: Literal["none", "asha", "median"] = Field("none", description="what ends trials that do badly early")
    grace_epochs: int = Field(3, ge=1, description="epochs before a scheduler may end a trial")
    generation_epochs: int = Field(3, ge=1, description="epochs after which the members of a population are compared")
    budget_minutes: float | None = Field(None, gt=0, description="stop after so long; the same command goes on later")
    staged: bool = Field(
        False,
        description="each trial trains FCN-32s, 16s and 8s from it, and 8s at once for as long as 32s and 8s together",
    )
    concurrent_trials: int | None = Field(
        None,
        ge=1,
        description="trials at once, at most; a cluster that holds fewer is given time to grow. "
        "By default as many as it holds when the sweep starts",
    )
    finalists: int = Field(3, ge=0, description="best trials that are evaluated, for intervals")
    promote: Name | None = Field(
        None, description="model whose next version the best run becomes, and its champion if the gate passes"
    )


def main() -> None:
    """Carry out a sweep."""
    command, job = read_job(SweepCommand, sys.argv[1:])
    if job.print_config:
        print(as_yaml(job), end="")
        return
    with exit_codes(), Console() as console:
        sweep(command, job, console)


def sweep(command: SweepCommand, job: Job, console: Console) -> str:
    """Run the trials of a sweep, and return the URL of its folder.

    Raises:
        ValueError: a setting, the space or the data are wrong, or another process carries out the sweep.
        RunFailedError: a trial failed, or the cluster can never hold one.
    """
    # Trials have another working directory.
    root = storage.absolute(job.launch.storage)
    asked, launch = asked_for(command, job.run), job.launch.model_copy(update={"storage": root})
    _check(asked, command)
    classes = open_train_val(asked.run.data)[0].classes
    metric = metric_of(asked.metric, classes, last=asked.by_last_epoch)
    url = storage.join(root, "sweeps", asked.sweep_id)
    console.say(f"sweep {asked.sweep_id} in {url}")
    console.say(
        f"to watch     tensorboard --logdir {storage.join(root, 'ray', asked.sweep_id)}  (pip install tensorboard)"
    )
    for place in (root, asked.run.data.path):
        if place is not None:
            storage.check_access(place)
    audits = _audit(asked, launch, console)
    with alone(url, f"sweep {asked.sweep_id}", console.say):
        study = Study(asked, Place(url), storage.join(root, "runs"), command.trials, metric)
        if study.outcomes:
            console.say(f"{len(study.outcomes)} runs of this sweep have ended before")
        is_over = study.remaining == 0
        if not is_over:
            with cluster(launch):
                check_reach(storage.join(url, LOCK))
                _run_trials(study, launch, audits, command, console)
        # On a new Ray: runs that a budget cut off have left their CPUs taken in the old one.
        with nullcontext() if is_over else cluster(launch):
            report = report_sweep(study, url, launch, command.finalists, console)
            if command.promote is not None:
                _promote(study, report.best_run, command.promote, launch, console)
    _check_outcomes(study, console)
    return url


def asked_for(command: SweepCommand, run: Run) -> Sweep:
    """Return the sweep around a run that a command asks for."""
    run = override(run, {"name": f"{run.name.removesuffix('-fcn8s')}-sweep"})
    space, is_population = default_space(run), command.method == "pbt"
    stride = {"model.stride": ""} if command.staged else {}
    return Sweep(
        run=run,
        space=with_searches(changeable(space) if is_population else space, stride | as_searches(command.search)),
        method=command.method,
        metric=command.metric,
        population=command.trials if is_population else None,
        generation_epochs=command.generation_epochs if is_population else None,
        scheduler=command.scheduler,
        grace_epochs=command.grace_epochs,
        seeds=command.seeds,
        staged=command.staged,
    )


def _check(asked: Sweep, command: SweepCommand) -> None:
    """Let everything that can fail from settings alone fail now."""
    names, run = asked.space.names, asked.run
    if asked.staged and any(name in names for name in ("model.stride", "model.at_once", "model.start_from")):
        raise ValueError(
            "a staged sweep sets model.stride, at_once and start_from itself: leave them out of the search"
        )
    _check_method(asked)
    if run.data.fold is not None:
        raise ValueError("a sweep runs all folds: leave out data.fold")
    if command.promote is not None and (run.data.folds is not None or command.finalists == 0):
        raise ValueError("promote takes the best evaluated run of one network: leave out data.folds, and finalists 0")
    if not names and command.trials > 1:
        raise ValueError("nothing is searched, so that all trials are the same: give --search, or --trials 1")
    asked.space.check(run)
    for point in asked.space.corners():
        for key in asked.keys(command.trials - 1)[: len(asked.stages)]:
            asked.run_of(key, point, None)


def _check_method(asked: Sweep) -> None:
    """Refuse ways to search and to stop early that do not go together."""
    if asked.population is not None:
        if asked.staged or asked.scheduler != "none":
            raise ValueError("a population is neither staged nor stopped early: leave out staged and scheduler")
        check_changeable(asked.space, asked.run)
    if asked.scheduler != "none" and (asked.staged or "optim.epochs" in asked.space.names):
        raise ValueError(
            f"{asked.scheduler} compares runs of equal length, epoch by epoch: "
            "leave out the scheduler, or staged and optim.epochs"
        )


def _audit(asked: Sweep, launch: Launch, console: Console) -> list[Audit]:
    """Return the audit of each fold, or of all data; let what the data cannot be trained with fail now."""
    run = asked.run
    folds = [override(run, {"data.fold": fold}) for fold in range(run.data.folds)] if run.data.folds else [run]
    audits = [check(one, launch, console) for one in folds]
    for optim in {override(run, point).optim for point in asked.space.corners()}:
        for audited in audits:
            kept = len(audited.train.kept)
            Order(run.seed, kept, optim.batch_size, optim.accumulate, 0, launch.workers).check()
    return audits


def _check_outcomes(study: Study, console: Console) -> None:
    """Say what is left to do, and raise if that is because runs failed."""
    if study.remaining:
        console.say(f"{study.remaining} runs have not ended: the same command goes on with them")
    failed = [outcome for outcome in study.outcomes.values() if outcome.status == "failed"]
    if failed:
        raise RunFailedError(f"{len(failed)} runs failed, among them {failed[0].run_id}: {failed[0].reason}")


def _promote(study: Study, run_id: str | None, model: str, launch: Launch, console: Console) -> None:
    """Let the best run through the gate, once all have ended.

    Raises:
        RunFailedError: no run is worth it, or the gate does not let it pass.
    """
    if study.remaining:
        console.say(f"nothing is promoted as {model} before all runs have ended")
        return
    if run_id is None:
        raise RunFailedError(f"nothing is promoted as {model}: no trial ended well")
    evaluation = command_for(run_id, launch, study.sweep.judged_step).folder
    resources = {name: getattr(launch, name) for name in Resources.model_fields}
    entry = promote_run(PromoteCommand(run=run_id, model=model, evaluation=evaluation, **resources), console)
    console.say(f"champion     {model}/{entry.version}: {entry.reason}")


def _run_trials(study: Study, launch: Launch, audits: Sequence[Audit], command: SweepCommand, console: Console) -> None:
    import ray
    from ray import tune

    from jobs._tune import METRIC, Suggestions, Watch, open_slots, scheduler, train_member

    most = command.concurrent_trials and min(command.concurrent_trials, study.remaining)
    at_once, device = slots_of(launch, most, console)
    # Decided once: a trial that finds no GPU any more waits for one instead of training on CPUs.
    launch = launch.model_copy(update={"device": device})
    runs, slots = len(study.sweep.keys(0)), open_slots(at_once)
    console.say(f"{command.trials} trials of {runs} runs; {at_once} at once, each on {launch.workers} workers")
    board, troubles = SweepBoard(study, console), list[Exception]()

    def next_member() -> Member | Literal["wait"] | None:
        if troubles:
            raise troubles[0]
        member = study.next()
        if isinstance(member, Member):
            board.started(member)
        return member

    def ended(member: Member, status: Status | None, reason: str) -> None:
        try:
            study.ended(member, status, reason)
        except Exception as error:
            # Raised here, Tune would only print it.
            troubles.append(error)
        board.ended(member)

    suggestions = Suggestions(next_member)
    # Every start has a folder of its own: what goes on is told by the sweep's folder, not by Tune's pickles.
    name = f"{datetime.now(UTC):%Y%m%d%H%M%S}"
    ray_folder = storage.join(storage.absolute(launch.storage), "ray", study.sweep.sweep_id)
    # The trial itself only waits for its workers: it needs no CPU, and is lost with the sweep's own node alone.
    here = {f"node:{ray.util.get_node_ip_address()}": 0.001}
    tuner = tune.Tuner(
        tune.with_resources(
            tune.with_parameters(train_member, launch=launch, audits=audits, metric=study.metric, slots=slots), here
        ),
        tune_config=tune.TuneConfig(
            metric=METRIC,
            mode="max",
            search_alg=suggestions,
            scheduler=scheduler(study.sweep.scheduler, study.sweep.run.optim.epochs, study.sweep.grace_epochs),
            num_samples=-1,
            # One more, which waits with its process ready.
            max_concurrent_trials=at_once + 1,
            time_budget_s=command.budget_minutes and 60 * command.budget_minutes,
            trial_dirname_creator=lambda trial: suggestions.by_trial[trial.trial_id].run.run_id,
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=ray_folder,
            # Of trials whose node was lost; whatever else fails is reported by the trial, and not tried again.
            failure_config=tune.FailureConfig(max_failures=launch.max_failures),
            callbacks=[Watch(suggestions, board.epoch, ended, slots)],
            verbose=0,
        ),
    )
    with board:
        tuner.fit()
    if troubles:
        raise troubles[0]


def slots_of(launch: Launch, most: int | None, console: Console) -> tuple[int, Literal["cpu", "cuda"]]:
    """Return how many trials the cluster holds at once, `most` if it grows to that, and on what they train.

    Raises:
        ValueError: not even one; the message says what the cluster has.
    """
    asked = resources_per_worker(launch, console.say)
    if most is not None and "RAY_ADDRESS" in os.environ and room_for(asked) < most * launch.workers:
        # What does not come in time is done without.
        grown(most, launch.workers, asked, launch.wait_for_nodes_s, console.say)
    holds = max(1, room_for(asked) // launch.workers)
    return min(holds, most or holds), "cuda" if "GPU" in asked else "cpu"
