"""A sweep as a job on a cluster: what it leaves and shows, and the same when its driver is killed again and again."""

import json
import re
import signal
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from fcn_core import storage
from jobs._metrics import RUN
from jobs._study import Key, Outcome
from tests.jobs.commands import ROOT, Head, ray_head
from tests.jobs.sweeping import QUICK, SETTINGS, asked, finish, report_in, run_of, start, study, trained
from tests.jobs.test_train import assert_nothing_left
from tests.tiny import assert_same_bits

FOUR = ["--trials=4", "--finalists=1"]
KILLS = 10
PRIVATE = 2
"""Kills of a driver with a Ray of its own, which goes with it; the others join a cluster that stays."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class Whole(NamedTuple):
    """A sweep never stopped."""

    place: Path
    shown: set[str]
    """The runs that Ray's Train page named."""
    told: dict[tuple[str, str], list[float]]
    """All values of each metric, by what it tells of."""


@pytest.fixture(scope="module")
def head(environment: dict[str, str]) -> Iterator[Head]:
    with tempfile.TemporaryDirectory(prefix="fcn") as name:
        # Such short runs would be over before Ray exports what they tell, every 10 s.
        ours = {"RAY_TMPDIR": name, "HOME": name, "RAY_metrics_report_interval_ms": "500"}
        with ray_head({**environment, **QUICK, **ours}) as started:
            yield started
        assert_nothing_left(Path(name))


@pytest.fixture(scope="module")
def whole(head: Head, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    place = tmp_path_factory.mktemp("whole")
    with ThreadPoolExecutor() as threads:
        arguments = ["streets", *SETTINGS, "--storage", str(place), *FOUR]
        job = threads.submit(head.submit, "jobs/sweep.py", *arguments)
        shown, told = watched(head, job)
        assert job.result().returncode == 0, job.result().stdout + job.result().stderr
    return Whole(place, shown, told)


def test_a_sweep_leaves_all_that_it_promises(whole: Whole, environment: dict[str, str]) -> None:
    report, known = report_in(whole.place), study(whole.place, trials=4)
    assert report["sweep"] == json.loads(asked().model_dump_json())
    assert known.remaining == 0
    assert [Outcome.model_validate(outcome) for outcome in report["outcomes"]] == list(known.outcomes.values())
    assert {int(number): point for number, point in report["points"].items()} == known.points
    assert len({json.dumps(point) for point in known.points.values()}) == 4
    best = max(known.outcomes.values(), key=lambda outcome: outcome.score or 0)
    assert [finalist["number"] for finalist in report["finalists"]] == [best.number]
    for outcome in known.outcomes.values():
        folder = run_of(whole.place, outcome)
        assert (outcome.status, outcome.epochs, len(folder.read_epochs())) == ("finished", 2, 2)
        storage.verify(folder.checkpoint(folder.steps()[-1]))
    printed = finish(whole.place, environment, *FOUR)
    assert "4 runs of this sweep have ended before" in printed
    assert "at once" not in printed
    assert report_in(whole.place) == report
    (logs,) = re.findall(r"tensorboard --logdir (\S+)", printed)
    for outcome in known.outcomes.values():
        assert list(Path(logs).glob(f"*/{outcome.run_id}/events.out.tfevents.*"))
    low, high = (100 * report["finalists"][0]["score"][end] for end in ("low", "high"))
    assert re.search(rf"^ +{best.number} .* {low:.1f} to {high:.1f} ", printed, re.MULTILINE), printed


def test_dashboards_show_its_trials(whole: Whole) -> None:
    known, told = study(whole.place, trials=4), whole.told
    runs = {outcome.run_id for outcome in known.outcomes.values()}
    assert whole.shown == runs
    of_runs: dict[str, list[float]] = defaultdict(list)
    for (name, run), values in told.items():
        if run in runs:
            of_runs[name] += values
    # Of one so short not all is told: what it sets last is gone with its process.
    assert {*of_runs} == {f"ray_{name}" for name in RUN}
    for run in runs:
        assert told["ray_fcn_train_running", run][0] == 1
    assert max(of_runs["ray_fcn_train_workers"]) == 1
    assert max(of_runs["ray_fcn_train_restarts"]) == 0
    assert 0 < max(of_runs["ray_fcn_train_mean_iou"]) <= 1
    assert 1 <= max(of_runs["ray_fcn_train_epoch"]) <= max(of_runs["ray_fcn_train_steps"])
    sweep = known.sweep.sweep_id
    assert max(told["ray_fcn_sweep_runs", f"{sweep} running"]) >= 1
    assert max(told["ray_fcn_sweep_runs", f"{sweep} finished"]) == 4
    assert max(told["ray_fcn_sweep_runs", f"{sweep} failed"]) == 0
    scores = {outcome.score for outcome in known.outcomes.values()}
    assert max(told["ray_fcn_sweep_best_score", f"{sweep} None"]) in scores


def test_ray_tells_what_the_dashboards_show_of_it(whole: Whole) -> None:
    """GPUs apart, which are not here."""
    asked_for = {name for name in rays_metrics() if "gpu" not in name}
    assert len(asked_for) > 3
    assert asked_for <= {name for name, _ in whole.told}


def changes(place: Path) -> int:
    """Return how much a sweep has left: points, run.json, epochs, checkpoints, outcomes, each on its way too."""
    paths = [*place.glob("sweeps/*/*/*"), *place.glob("runs/*/*"), *place.glob("runs/*/checkpoints/*")]
    return len(paths) + sum(path.read_text().count("\n") for path in place.glob("runs/*/epochs.jsonl"))


def kill_at_work(process: subprocess.Popen[str], place: Path, chance: np.random.Generator) -> None:
    """Kill the driver of a sweep somewhere between the start of its trials and their next two changes, or just then."""
    printed = ""
    assert process.stdout is not None
    while " at once, each on " not in printed:
        line = process.stdout.readline()
        assert line, printed
        printed += line
    enough = changes(place) + chance.integers(3)
    while changes(place) < enough and process.poll() is None:
        time.sleep(0.005)
    time.sleep(0.5 * chance.random() ** 2)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it was over too soon"


def test_a_sweep_that_is_killed_again_and_again_ends_as_if_never_stopped(
    whole: Whole, head: Head, environment: dict[str, str], ray_folder: Path, tmp_path: Path
) -> None:
    chance = np.random.default_rng(1)
    noted: dict[Key, Outcome] = {}
    files: dict[str, int] = {}
    joining = {**head.environment, "RAY_ADDRESS": head.gcs}
    for kill in range(KILLS):
        kill_at_work(start(tmp_path, environment if kill < PRIVATE else joining, *FOUR), tmp_path, chance)
        known = study(tmp_path, trials=4)
        assert {key: known.outcomes[key] for key in noted} == noted
        noted = dict(known.outcomes)
        for outcome in noted.values():
            files = trained(tmp_path, outcome) | files
    assert study(tmp_path, trials=4).remaining
    finish(tmp_path, joining, *FOUR)
    ours, theirs = study(tmp_path, trials=4), study(whole.place, trials=4)
    assert (ours.points, ours.outcomes) == (theirs.points, theirs.outcomes)
    assert len(list((tmp_path / "runs").iterdir())) == 4
    for outcome in ours.outcomes.values():
        assert_same_bits(run_of(tmp_path, outcome), run_of(whole.place, outcome))
    assert {path: Path(path).stat().st_mtime_ns for path in files} == files, "what had ended was trained again"
    assert report_in(tmp_path) == report_in(whole.place)
    assert_nothing_left(ray_folder)


def watched(head: Head, job: Future[Any]) -> tuple[set[str], dict[tuple[str, str], list[float]]]:
    """Return the runs that Ray's Train page names, and all values of each metric by what it tells of."""
    shown: set[str] = set()
    told: dict[tuple[str, str], list[float]] = defaultdict(list)
    while not job.done():
        # Before the first run and after the last there is nothing that could answer.
        with suppress(OSError):
            shown |= {run["name"] for run in head.get("api/train/v2/runs/v1")["train_runs"]}
        with suppress(OSError):
            for sample in head.metrics():
                labels = sample.labels
                whose = labels.get("run") or f"{labels.get('sweep')} {labels.get('state')}"
                told[sample.name, whose].append(sample.value)
        time.sleep(0.5)
    return shown, told


def rays_metrics() -> set[str]:
    folder = ROOT / "infra" / "monitoring"
    texts = [path.read_text() for path in [folder / "alerts.yml", *folder.glob("dashboards/*.json")]]
    return {name for text in texts for name in re.findall(r"ray_node_[a-z_]+", text)}
