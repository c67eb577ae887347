"""Sweeps: what is refused before anything starts, and the real command on a Ray of its own."""

import json
import os
import re
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from fcn_core.checkpoint import RunFolder
from fcn_core.evaluation import Evaluation
from jobs import _sweep
from jobs._alone import alone
from jobs._cli import Launch
from jobs._console import Console
from jobs._space import Choice
from jobs._study import Key
from jobs._sweep import main, slots_of
from tests.jobs.commands import Refused, processes_of
from tests.jobs.sweeping import ONE_NUMBER, SETTINGS, asked, finish, report_in, run_of, start, study, trained
from tests.jobs.test_train import assert_nothing_left

pytestmark = pytest.mark.timeout(900)


def test_a_setting_joins_the_search_as_it_is_typed() -> None:
    typed = ["--search", "optim.momentum=0.9,0.95,0.99", "--search=model.stride=", "--search", "loss.dice=0..0.5"]
    space = asked(*typed, "--search=optim.clip_norm=null,5", "--search=data.flip=true,false").space
    assert space.dimensions["optim.momentum"] == Choice(values=(0.9, 0.95, 0.99))
    assert space.dimensions["optim.clip_norm"] == Choice(values=(None, 5))
    assert space.dimensions["data.flip"] == Choice(values=(True, False))
    assert "model.stride" not in space.names
    assert space.names[0] == "optim.learning_rate"


def test_how_and_how_long_a_sweep_is_carried_out_does_not_change_it() -> None:
    other = ["--workers=2", "--storage=elsewhere", "--budget-minutes=3", "--trials=40", "--concurrent-trials=9"]
    assert asked(*other).sweep_id == asked().sweep_id
    assert asked("--seeds=2").sweep_id != asked().sweep_id


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--search=optim.lerning_rate=1,2", "no setting 'optim.lerning_rate' to search; settings are name, seed"),
        ("--search=optim.learning_rate=1..0.1", "a range goes from a lower to a higher number, not from 1 to 0.1"),
        ("--search=optim.learning_rate=log:0..1", "a logarithmic range needs numbers above 0, not 0"),
        ("--search=optim.momentum", "--search 'optim.momentum' must be NAME=VALUES"),
        ("--search=optim.momentum=0.9,1.5", "optim.momentum: Input should be less than 1"),
        ("--search=optim.epochs=2..4", "optim.epochs takes whole numbers"),
        ("--search=data.kind=camvid,voc", "data.kind cannot be searched"),
        ("--staged --search=model.stride=8,16", "a staged sweep sets model.stride, at_once and start_from itself"),
        ("--staged --search=model.at_once=true,false", "a staged sweep sets model.stride"),
        ("--staged --scheduler=asha", "asha compares runs of equal length"),
        ("--scheduler=median --search=optim.epochs=2,4", "median compares runs of equal length"),
        ("--method=pbt --scheduler=asha", "a population is neither staged nor stopped early"),
        ("--method=pbt --staged", "a population is neither staged nor stopped early"),
        ("--method=pbt --search=model.stride=8,16", "model.stride cannot change while streets-sweep trains"),
        ("--metric=iou.bus", "no metric 'iou.bus': there are mean_iou, iou.sky"),
        ("--promote=best --finalists=0", "promote takes the best evaluated run"),
        ("--promote=best --data.folds=2", "promote takes the best evaluated run"),
        ("--data.folds=2 --data.fold=1", "a sweep runs all folds: leave out data.fold"),
        (" ".join([*ONE_NUMBER, "--search=optim.learning_rate="]), "nothing is searched"),
        ("--search=optim.batch_size=8,9 --workers=2", "optim.batch_size 9 does not divide over 2 workers"),
        ("--search=optim.batch_size=8,48", "24 training samples do not fill one batch of optim.batch_size 48"),
        (f"--name={'a' * 50} --staged", "name: String should match pattern"),
        ("--workers=5", "batch_size 12 does not divide over 5 workers"),
        ("--workers=2 --gpu-share=0.5", "workers of one run cannot share a GPU"),
        ("--trials=0", "trials: Input should be greater than or equal to 1 (given: '0')"),
        ("--concurrent-trials=0", "concurrent_trials: Input should be greater than or equal to 1"),
        ("--seeds=0", "seeds: Input should be greater than or equal to 1"),
        ("--method=grid", "method: Input should be 'even', 'tpe' or 'pbt' (given: 'grid')"),
        ("--scheduler=hyperband", "scheduler: Input should be 'none', 'asha' or 'median'"),
        ("--budget-minutes=0", "budget_minutes: Input should be greater than 0"),
        ("--serach=a=1,2", "no setting 'serach=a=1,2'; did you mean search"),
    ],
)
def test_what_the_user_can_mend_gets_one_line_at_once(
    arguments: str, message: str, refused: Refused, tmp_path: Path
) -> None:
    assert message in refused(main, "streets", *SETTINGS, "--storage", tmp_path / "lab", *arguments.split())
    assert not (tmp_path / "lab" / "sweeps").exists()


def test_a_storage_that_cannot_be_used_gets_one_line_at_once(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    message = refused(main, "streets", *SETTINGS, "--storage", "s3://nowhere/lab")
    assert message.startswith("error: cannot use s3://nowhere/lab: Unable to locate credentials")


def test_two_processes_do_not_carry_out_the_same_sweep(refused: Refused, tmp_path: Path) -> None:
    name = asked().sweep_id
    with alone(f"{tmp_path}/sweeps/{name}", "", print):
        message = refused(main, "streets", *SETTINGS, "--storage", tmp_path)
    assert message.startswith(f"error: sweep {name} goes on in process {os.getpid()} on ")


@pytest.mark.parametrize(
    ("nodes", "launch", "slots"),
    [
        ([{"CPU": 2.0}], Launch(), 2),
        ([{"CPU": 2.0}], Launch(workers=2), 1),
        ([{"CPU": 3.0}], Launch(cpus_per_worker=2), 1),
        ([{"CPU": 3.0}, {"CPU": 3.0}], Launch(cpus_per_worker=2), 2),
        ([{"CPU": 16.0, "GPU": 1.0}, {"CPU": 16.0}], Launch(), 1),
        ([{"CPU": 16.0, "GPU": 1.0}, {"CPU": 16.0}], Launch(device="cpu"), 32),
        ([{"CPU": 4.0, "GPU": 8.0}], Launch(workers=2), 2),
        ([{"CPU": 16.0, "GPU": 2.0}], Launch(gpu_share=0.25), 8),
    ],
)
def test_as_many_trials_are_started_at_once_as_the_nodes_hold(
    nodes: Sequence[dict[str, float]], launch: Launch, slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More would wait for CPUs that each other holds."""
    dead = {"Alive": False, "Resources": {"CPU": 64.0}}
    whole: dict[str, float] = {}
    for node in nodes:
        whole = {name: whole.get(name, 0) + node.get(name, 0) for name in {*whole, *node}}
    monkeypatch.setattr("ray.cluster_resources", lambda: whole)
    monkeypatch.setattr("ray.nodes", lambda: [dead, *({"Alive": True, "Resources": node} for node in nodes)])
    with Console() as console:
        found, device = slots_of(launch, None, console)
        # A Ray of our own does not grow.
        assert [slots_of(launch, most, console)[0] for most in (1, slots, slots + 1)] == [1, slots, slots]
    on_gpus = launch.device != "cpu" and any("GPU" in node for node in nodes)
    assert (found, device) == (slots, "cuda" if on_gpus else "cpu")


@pytest.mark.parametrize(("comes", "slots"), [(4.0, 2), (1.0, 1), (64.0, 3)])
def test_a_joined_cluster_is_given_time_to_grow(comes: float, slots: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not come is done without, and more than was asked for is not used."""
    nodes, asked_for = [{"Alive": True, "Resources": {"CPU": 2.0}}], []

    def grown(times: int, workers: int, *_: object) -> bool:
        asked_for.append((times, workers))
        nodes[0]["Resources"] = {"CPU": comes}
        return False

    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.setattr("ray.nodes", lambda: nodes)
    monkeypatch.setattr(_sweep, "grown", grown)
    with Console() as console:
        assert slots_of(Launch(workers=2), 1, console)[0] == 1
        assert asked_for == []
        assert slots_of(Launch(workers=2), 3, console)[0] == slots
    assert asked_for == [(3, 2)]


@pytest.mark.parametrize(
    ("launch", "message"),
    [
        (Launch(workers=5), "5 workers ask for 1 CPU each; Ray has 2 CPU, 2 CPU on 2 nodes"),
        (Launch(cpus_per_worker=3), "1 workers ask for 3 CPU each; Ray has 2 CPU, 2 CPU on 2 nodes"),
        (Launch(device="cuda"), "1 workers ask for 1 CPU and 1 GPU each; Ray has 2 CPU/0 GPU, 2 CPU/0 GPU on 2 nodes"),
    ],
)
def test_workers_that_can_never_fit_are_refused(launch: Launch, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 4.0, "memory": 1e9})
    monkeypatch.setattr("ray.nodes", lambda: [{"Alive": True, "Resources": {"CPU": 2.0, "memory": 5e8}}] * 2)
    with Console() as console, pytest.raises(ValueError, match=message):
        slots_of(launch, None, console)


ASHA = ["--scheduler=asha", "--grace-epochs=1", "--optim.epochs=4", "--finalists=0", *ONE_NUMBER]


@pytest.mark.slow
def test_what_is_stopped_early_stays_stopped_and_what_is_interrupted_is_not_taken_for_stopped(
    environment: dict[str, str], ray_folder: Path, tmp_path: Path
) -> None:
    """Halves of the learning rates learn nothing at all."""
    asha = [*ASHA, "--search=optim.learning_rate=0.003,1e-12"]
    process = start(tmp_path, environment, *asha, "--trials=4")
    while not list(tmp_path.glob("runs/*/epochs.jsonl")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate()
    assert process.returncode == 130, printed
    assert printed.splitlines()[-1].startswith("interrupted")
    assert "Traceback" not in printed
    assert_nothing_left(ray_folder)
    assert study(tmp_path, *asha, trials=4).outcomes == {}
    printed = finish(tmp_path, environment, *asha, "--trials=4", "--budget-minutes=0.01")
    assert "4 runs have not ended: the same command goes on with them" in printed
    assert study(tmp_path, *asha, trials=4).outcomes == {}
    finish(tmp_path, environment, *asha, "--trials=4")
    first = study(tmp_path, *asha, trials=4)
    assert first.remaining == 0
    stopped = [outcome for outcome in first.outcomes.values() if outcome.status == "stopped"]
    assert stopped
    for outcome in first.outcomes.values():
        assert (outcome.epochs < 4) == (outcome.status == "stopped")
        assert len(run_of(tmp_path, outcome).read_epochs()) == outcome.epochs
    finish(tmp_path, environment, *asha, "--trials=5")
    second = study(tmp_path, *asha, trials=5)
    assert second.remaining == 0
    assert {key: second.outcomes[key] for key in first.outcomes} == first.outcomes
    for outcome in stopped:
        assert len(run_of(tmp_path, outcome).read_epochs()) == outcome.epochs


@pytest.mark.slow
def test_a_trial_whose_process_dies_gives_back_its_cpus_and_is_trained_to_the_end(
    environment: dict[str, str], ray_folder: Path, tmp_path: Path
) -> None:
    """Its workers had every CPU that there is."""
    two = ["--trials=2", "--workers=2", "--finalists=0", "--optim.epochs=8"]
    process = start(tmp_path, environment, *two, "--wait-for-nodes-s=120")
    while not list(tmp_path.glob("runs/*/epochs.jsonl")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    # One works, and one waits for its place.
    for pid in trials_of(ray_folder):
        os.kill(pid, signal.SIGKILL)
    (begun,) = [RunFolder(str(path.parent)) for path in tmp_path.glob("runs/*/epochs.jsonl")]
    assert len(begun.read_epochs()) < 8
    printed, _ = process.communicate()
    assert process.returncode == 0, printed
    done = study(tmp_path, *two, trials=2)
    assert [outcome.status for outcome in done.outcomes.values()] == ["finished"] * 2
    for outcome in done.outcomes.values():
        assert [epoch.epoch for epoch in run_of(tmp_path, outcome).read_epochs()] == list(range(1, 9))
    assert_nothing_left(ray_folder)


def trials_of(ray_folder: Path) -> list[int]:
    """Return the ids of the processes of trials."""
    found = [pid for pid, line in processes_of(ray_folder).items() if "ImplicitFunc" in line]
    assert found, processes_of(ray_folder).values()
    return found


@pytest.mark.slow
def test_stages_start_from_one_32s_and_what_failed_is_tried_again(environment: dict[str, str], tmp_path: Path) -> None:
    staged = ["--staged", "--trials=1", "--finalists=0"]
    known = study(tmp_path, *staged, trials=1)
    first = known.next()
    assert first is not None
    assert first != "wait"
    folder = RunFolder(f"{tmp_path}/runs/{first.run.run_id}")
    folder.write_run({"audit": {"train": {"digest": "another"}, "val": {"digest": "another"}}})
    printed = finish(tmp_path, environment, *staged, code=1)
    assert f"3 runs failed, among them {first.run.run_id}: the data changed since run" in printed.splitlines()[-1]
    failed = study(tmp_path, *staged, trials=1)
    assert failed.outcomes.keys() == {Key(0, stage="at_once")}
    before = trained(tmp_path, failed.outcomes[Key(0, stage="at_once")])
    (tmp_path / "runs" / first.run.run_id / "run.json").unlink()
    finish(tmp_path, environment, *staged)
    done = study(tmp_path, *staged, trials=1)
    assert [done.outcomes[Key(0, stage=stage)].epochs for stage in ("32s", "16s", "8s", "at_once")] == [2, 2, 2, 4]
    assert trained(tmp_path, done.outcomes[Key(0, stage="at_once")]) == before
    assert len(list((tmp_path / "runs").iterdir())) == 4
    for stage, start_from in (("16s", folder.url), ("8s", folder.url), ("at_once", None)):
        facts = run_of(tmp_path, done.outcomes[Key(0, stage=stage)]).read_run()
        assert facts is not None
        assert facts["settings"]["model"]["start_from"] == start_from


@pytest.mark.slow
def test_folds_are_an_objective_and_a_run_that_diverges_does_not_end_the_sweep(
    environment: dict[str, str], tmp_path: Path
) -> None:
    folds = ["--data.folds=2", "--trials=2", "--optim.method=sgd", *ONE_NUMBER]
    folds.append("--search=optim.learning_rate=0.01,1e30")
    printed = finish(tmp_path, environment, *folds)
    done = study(tmp_path, *folds, trials=2)
    assert done.remaining == 0
    good, bad = sorted(done.points, key=lambda number: done.points[number]["optim.learning_rate"])
    assert [done.outcomes[Key(bad, fold=fold)].status for fold in (0, 1)] == ["diverged"] * 2
    assert re.search(r"diverged after 1 epochs, mean_iou .* \(.*not finite at step 2 of 2", printed)
    assert (done.score(bad), done.scores(bad)) == (0.0, [0.0, 0.0])
    last = [run_of(tmp_path, done.outcomes[Key(good, fold=fold)]).read_epochs()[-1] for fold in (0, 1)]
    assert done.scores(good) == [epoch.scores.mean_iou for epoch in last]
    (finalist,) = report_in(tmp_path)["finalists"]
    assert finalist["number"] == good
    parts = [
        Evaluation.read(tmp_path / "runs" / run_id / "evaluations" / "val-steplast" / "evaluation.npz")
        for run_id in finalist["runs"]
    ]
    names = [name for part in parts for name in part.names]
    assert len(set(names)) == len(names) == 28
    merged = np.concatenate([part.confusion for part in parts]).sum(axis=0)
    union = merged[:-1].sum(axis=0) + merged[:-1].sum(axis=1) - merged.diagonal()
    assert finalist["score"]["value"] == pytest.approx((merged.diagonal() / union)[union > 0].mean())


@pytest.mark.slow
def test_a_population_goes_on_where_it_was_and_its_best_member_becomes_champion(
    environment: dict[str, str], tmp_path: Path
) -> None:
    pbt = ["--method=pbt", "--trials=2", "--generation-epochs=1", "--finalists=1", "--promote=streets"]
    process = start(tmp_path, environment, *pbt)
    while not list(tmp_path.glob("sweeps/*/outcomes/*.json")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    process.kill()
    process.communicate()
    printed = finish(tmp_path, environment, *pbt)
    done = study(tmp_path, *pbt, trials=2)
    assert done.remaining == 0
    assert {outcome.status for outcome in done.outcomes.values()} == {"finished"}
    assert "champion     streets/1: the gate passed" in printed
    report = report_in(tmp_path)
    assert [one["stage"] for one in report["generations"]] == ["e001", "e001", "e002", "e002"]
    (worst,) = [one["number"] for one in report["generations"][2:] if one["parent"] != one["number"]]
    first, second = ([done.outcomes[Key(number, stage=stage)] for number in (0, 1)] for stage in done.sweep.stages)
    assert (first[worst].score or 0) <= (first[1 - worst].score or 0)
    for outcome in second:
        folder, parent = run_of(tmp_path, outcome), run_of(tmp_path, first[1 - worst])
        assert [epoch.epoch for epoch in folder.read_epochs()] == [2]
        facts = folder.read_run()
        assert facts is not None
        assert facts["settings"]["optim"]["continue_from"] == parent.url
    best = max(second, key=lambda outcome: outcome.score or 0)
    version = json.loads((tmp_path / "models" / "streets" / "1" / "model.json").read_text())
    assert version["run_id"] == best.run_id
