"""Sweeps so small that a test can carry them out."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fcn_core.checkpoint import RunFolder
from jobs._cli import read_job
from jobs._metric import Metric
from jobs._study import Outcome, Place, Study, Sweep
from jobs._sweep import SweepCommand, asked_for
from tests.jobs.commands import ROOT

SETTINGS = [
    "--data.streets.num_train=24",
    "--data.streets.num_val=4",
    "--model.width=0.06",
    "--model.fc_channels=8",
    "--optim.batch_size=12",
    "--optim.epochs=2",
]
ONE_NUMBER = [
    "--search=loss.dice=",
    "--search=model.upsampling=",
    "--search=optim.weight_decay=",
    "--search=model.stride=",
]
"""Leaves only the learning rate."""
QUICK = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1"}
"""Where an epoch takes a blink, its report waits for the next look."""


def asked(*arguments: str) -> Sweep:
    command, job = read_job(SweepCommand, ["streets", *SETTINGS, *arguments])
    return asked_for(command, job.run)


def study(place: Path, *arguments: str, trials: int) -> Study:
    """Return what is known of a sweep."""
    sweep = asked(*arguments)
    kept, metric = Place(f"{place}/sweeps/{sweep.sweep_id}"), Metric(last=sweep.by_last_epoch)
    return Study(sweep, kept, f"{place}/runs", trials, metric)


def start(place: Path, environment: Mapping[str, str], *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "jobs/sweep.py", "streets", *SETTINGS, "--storage", str(place), *more]
    ours = {**environment, **QUICK}
    return subprocess.Popen(command, cwd=ROOT, env=ours, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(place: Path, environment: Mapping[str, str], *more: str, code: int = 0) -> str:
    process = start(place, environment, *more)
    printed, _ = process.communicate()
    assert process.returncode == code, printed
    assert "Traceback" not in printed
    return printed


def report_in(place: Path) -> dict[str, Any]:
    (url,) = (place / "sweeps").glob("*/sweep.json")
    found: dict[str, Any] = json.loads(url.read_text())
    return found


def run_of(place: Path, outcome: Outcome) -> RunFolder:
    return RunFolder(f"{place}/runs/{outcome.run_id}")


def trained(place: Path, outcome: Outcome) -> dict[str, int]:
    """Return when each file of training was written."""
    folder = place / "runs" / outcome.run_id
    files = [folder / "run.json", folder / "epochs.jsonl", *folder.glob("checkpoints/*/*")]
    return {str(path): path.stat().st_mtime_ns for path in files}
