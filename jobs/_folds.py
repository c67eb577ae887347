"""Grouped k-fold: a run for each part of the data, and the score of all parts together."""

from fcn_core import storage
from fcn_core.checkpoint import RunFolder
from fcn_core.settings import override
from jobs._cli import Job
from jobs._console import Console
from jobs._evaluate import command_for, evaluate_folds
from jobs._report import report
from jobs._runs import find_run
from jobs._scores import show
from jobs._train import run_facts, run_job


def train_folds(job: Job, console: Console) -> None:
    """Train the runs of all folds one after the other, and score each on the part that it was not trained on.

    Raises:
        ValueError: as `run_job`, or there are fewer sequences than folds.
    """
    run, launch = job.run, job.launch
    url = storage.join(storage.absolute(launch.storage), "runs", run.run_id)
    fold_runs = [
        override(run, {"data.fold": fold, "name": f"{run.name}-fold{fold}"}) for fold in range(run.data.folds or 0)
    ]
    for fold_run in fold_runs:
        report(*run_job(Job(fold_run, launch), console), fold_run, console)
    RunFolder(url).write_run(run_facts(run) | {"folds": [fold_run.run_id for fold_run in fold_runs]})
    command = command_for(url, launch)
    made = evaluate_folds(find_run(url, launch.storage), command, console)
    show(made.report, console)
    console.say(f"everything   {made.url}")
    console.say(f"next         python jobs/compare.py {url} ANOTHER_K_FOLD_RUN")
