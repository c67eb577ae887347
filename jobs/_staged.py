"""Staged training: FCN-32s, then 16s from it, then 8s from that; and FCN-8s trained at once beside it."""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from fcn_core import storage
from fcn_core.checkpoint import best_epoch
from fcn_core.settings import Run, override
from jobs._cli import Command, Job, Launch, as_yaml, exit_codes, read_job
from jobs._console import Console, percent
from jobs._curves import draw_curves
from jobs._report import report
from jobs._runs import Target, find_run
from jobs._train import run_job


class StagedCommand(Command):
    """Train FCN-32s, then FCN-16s from it, then FCN-8s from that, as Long, Shelhamer and Darrell (CVPR 2015) did.

    Beside it FCN-8s is trained at once, with scaled skips (PAMI 2017), for as many epochs as the stages have together.
    Settings are those of the first stage, as of jobs/train_fcn32s.py. The same command again resumes.
    """

    stride_of_job = 32

    learning_rate_factor: float = Field(
        1.0,
        gt=0,
        le=1,
        description="multiplies the learning rate from stage to stage; the papers fine-tune a trained trunk with 0.01",
    )
    at_once: bool = Field(True, description="train FCN-8s at once too")


def main() -> None:
    """Carry out a staged training."""
    command, job = read_job(StagedCommand, sys.argv[1:])
    if job.print_config:
        print(as_yaml(job), end="")
        return
    with exit_codes(), Console() as console:
        train_staged(job, command, console)


def train_staged(job: Job, command: StagedCommand, console: Console) -> None:
    """Train the stages one after the other and draw their curves in one figure.

    Raises:
        ValueError: as `run_job`, or the settings are those of several runs or of another first stage.
    """
    if job.run.data.folds is not None and job.run.data.fold is None:
        raise ValueError("a staged training is of one fold: set data.fold beside data.folds")
    if job.run.model.stride != 32:
        raise ValueError(f"stages begin with stride 32, not {job.run.model.stride}: leave out model.stride")
    trained: list[tuple[str, Target]] = []
    run = job.run
    for label, run in _stages(job.run, job.launch, command):
        console.say(f"== {label}")
        url, audited = run_job(Job(run, job.launch), console)
        report(url, audited, run, console)
        trained.append((label, find_run(url, job.launch.storage)))
    folder = storage.join(storage.absolute(job.launch.storage), "comparisons", f"{run.run_id}-staged")
    figure = _draw(trained, folder)
    for label, target in trained:
        best = best_epoch(target.folder.read_epochs())
        score = percent(best.scores.mean_iou) if best else "none"
        console.say(f"{label}: best mean IoU {score}  ({target.url})")
    console.say(f"curves       {figure}")
    urls = " ".join(target.url for _, target in trained)
    console.say(f"next         python jobs/evaluate.py on each, then python jobs/compare.py {urls}")


def _stages(first: Run, launch: Launch, command: StagedCommand) -> Sequence[tuple[str, Run]]:
    """Return the runs with their labels; each stage starts from the best checkpoint of the one before."""
    runs, name = [("FCN-32s", first)], first.name.removesuffix("-fcn32s")
    for stride in (16, 8):
        before = runs[-1][1]
        changes = {
            "name": f"{name}-fcn{stride}s-staged",
            "model.stride": stride,
            "model.weights": None,
            "model.start_from": storage.join(storage.absolute(launch.storage), "runs", before.run_id),
            "optim.learning_rate": before.optim.learning_rate * command.learning_rate_factor,
        }
        runs.append((f"FCN-{stride}s from {before.model.stride}s", override(before, changes)))
    if command.at_once:
        changes = {
            "name": f"{name}-fcn8s-at-once",
            "model.stride": 8,
            "model.at_once": True,
            "optim.epochs": 3 * first.optim.epochs,
        }
        runs.append(("FCN-8s at once", override(first, changes)))
    return runs


def _draw(trained: Sequence[tuple[str, Target]], folder: str) -> str:
    rule = (trained[0][1].folder.read_run() or {}).get("rule", "")
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "validation.png"
        draw_curves({label: [target.folder] for label, target in trained}, path, rule)
        url = storage.join(folder, path.name)
        storage.write_bytes(url, path.read_bytes())
    return url
