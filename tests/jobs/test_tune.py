"""What Tune does not see to, on a Ray of its own."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

from jobs import _tune
from tests.jobs.commands import ROOT

# As a trial and its worker: the worker takes SIGTERM for a notice, and would go on.
STOPPED = """
import os, signal, sys, time
from types import SimpleNamespace

from jobs._cli import Resources
from jobs._ray import cluster

class Worker:
    def write(self, path):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            with open(path, "a") as file:
                file.write(".")

class Trial:
    def start(self, path):
        from ray.util.placement_group import placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        group = placement_group([{"CPU": 1}])
        there = PlacementGroupSchedulingStrategy(group)
        self.worker = ray.remote(Worker).options(num_cpus=1, scheduling_strategy=there).remote()
        self.writing = self.worker.write.remote(path)

with cluster(Resources()):
    import ray
    from jobs._tune import end_workers

    paths = sys.argv[1:]
    trials = [ray.remote(Trial).options(num_cpus=0).remote() for _ in paths]
    for trial, path in zip(trials, paths):
        ray.get(trial.start.remote(path))
        while not os.path.exists(path):
            time.sleep(0.1)
    end_workers(SimpleNamespace(temporary_state=SimpleNamespace(ray_actor=trials[0])))
    before = [os.path.getsize(path) for path in paths]
    time.sleep(1)
    after = [os.path.getsize(path) for path in paths]
    taken = ray.cluster_resources()["CPU"] - ray.available_resources()["CPU"]
    print([one == other for one, other in zip(before, after)], taken)
"""


@pytest.mark.timeout(300)
def test_the_workers_of_a_stopped_trial_and_no_others_have_ended(environment: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-c", STOPPED, f"{tmp_path}/0", f"{tmp_path}/1"]
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["[True, False] 1.0"]), done.stderr


@pytest.mark.parametrize(("epoch", "calls"), [(3, ["end_workers", "ended"]), (4, ["ended"])])
def test_the_workers_of_a_trial_that_is_stopped_early_end_before_its_outcome_is_read(
    epoch: int, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(_tune, "end_workers", lambda _: seen.append("end_workers"))
    member = SimpleNamespace(run=SimpleNamespace(run_id="run", optim=SimpleNamespace(last_epoch=4)))
    watch = _tune.Watch(MagicMock(by_trial={"id": member}), MagicMock(), lambda *_: seen.append("ended"), MagicMock())
    watch.on_trial_complete(1, [], SimpleNamespace(trial_id="id", last_result={"epoch": epoch}))
    assert seen == calls
