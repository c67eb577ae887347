"""What a sweep costs beside its trials, and trials beside training: wall time over (times of all / trials at once).

    python benchmarks/sweep.py                                      # six trials of the built-in scenes
    python benchmarks/sweep.py --trials 2 --epochs 1 --scenes 24    # the smallest

1 would be trials side by side without a gap, and without anything but training. Start-up (audit, Ray) is told apart,
and so is the report with the evaluation of the best trial. Of each run: when it began, how long it took, and how much
of that was training.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.table import Column, Table

from fcn_core.checkpoint import RunFolder
from jobs._cli import read_job
from jobs._console import Console
from jobs._study import Outcome, Place
from jobs._sweep import SweepCommand, sweep


class Span(NamedTuple):
    """A run of a sweep, in seconds since the command began."""

    name: str
    began: float
    ended: float
    training: float
    """Training and validation, without saving."""


def main() -> None:
    """Print a table and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--scenes", type=int, default=64, help="training scenes")
    parser.add_argument("--workers", type=int, default=1, help="of each trial")
    options = parser.parse_args()
    settings = {
        "trials": options.trials,
        "workers": options.workers,
        "optim.epochs": options.epochs,
        "data.streets.num_train": options.scenes,
        "data.streets.num_val": 8,
        "finalists": 1,
    }
    with tempfile.TemporaryDirectory() as folder, Console() as console:
        arguments = ["streets", f"--storage={folder}", *(f"--{name}={value}" for name, value in settings.items())]
        command, job = read_job(SweepCommand, arguments)
        began = time.time()
        url = sweep(command, job, console)
        console.rich.print(*tables(spans(Path(url), began), time.time() - began), sep="\n")


def spans(folder: Path, began: float) -> list[Span]:
    """Return when the runs of a sweep began and ended, from the times of their files."""
    runs = folder.parents[1] / "runs"
    return sorted(
        (_span(runs / outcome.run_id, folder / "outcomes" / f"{outcome.key.name}.json", outcome, began))
        for outcome in Place(str(folder)).outcomes().values()
    )


def _span(run: Path, noted: Path, outcome: Outcome, began: float) -> Span:
    training = sum(epoch.seconds for epoch in RunFolder(str(run)).read_epochs())
    first, last = (path.stat().st_mtime - began for path in (run / "run.json", noted))
    return Span(outcome.key.name, first, last, training)


def tables(runs: Sequence[Span], wall: float) -> tuple[Table, Table]:
    """Return the times of each run and of the whole."""
    each = Table("run", *(Column(name, justify="right") for name in ("began, s", "took, s", "training, s", "other, s")))
    for run in runs:
        took = run.ended - run.began
        each.add_row(run.name, *(f"{number:.1f}" for number in (run.began, took, run.training, took - run.training)))
    first, last = min(run.began for run in runs), max(run.ended for run in runs)
    slots = max(sum(other.began <= run.began < other.ended for other in runs) for run in runs)
    training = sum(run.training for run in runs)
    whole = Table("whole", Column("", justify="right"))
    whole.add_row("start-up, s", f"{first:.1f}")
    whole.add_row("trials, s", f"{last - first:.1f}")
    whole.add_row("report, s", f"{wall - last:.1f}")
    whole.add_row("trials at once", f"{slots} on {os.cpu_count()} CPUs")
    times = sum(run.ended - run.began for run in runs)
    whole.add_row("trials / (time of each / at once)", f"{(last - first) * slots / times:.2f}")
    whole.add_row("trials / (training of each / at once)", f"{(last - first) * slots / training:.2f}")
    return each, whole


if __name__ == "__main__":
    main()
