import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed
from torch.multiprocessing.spawn import spawn

from fcn_core import checkpoint, storage
from fcn_core import fit as fit_module
from fcn_core.checkpoint import RunFolder
from fcn_core.data.batches import LoaderSettings, Order, training_batches
from fcn_core.data.catalogue import open_dataset
from fcn_core.runtime import DistributedRuntime, LocalRuntime
from fcn_core.settings import Run
from fcn_core.training import NonFiniteLossError, Progress
from tests.tiny import TINY, assert_same_bits, assert_same_state, audit_of, changed, numbers, train

STEPS = 9


class Stopped(Exception):  # noqa: N818
    pass


class StopsAt(LocalRuntime):
    def __init__(self, step: int) -> None:
        super().__init__()
        self.stop = step

    def show(self, progress: Progress) -> None:
        if progress.step == self.stop:
            raise Stopped


@pytest.fixture(scope="module")
def never_stopped(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return train(TINY, tmp_path_factory.mktemp("never_stopped"))


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_resuming_equals_never_stopping(step: int, never_stopped: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        train(TINY, tmp_path, StopsAt(step), save_every=2)
    assert_same_bits(train(TINY, tmp_path, save_every=2), never_stopped)


def test_resuming_equals_never_stopping_with_moving_average_adamw_and_accumulation(tmp_path: Path) -> None:
    run = changed({"optim.method": "adamw", "optim.ema_decay": 0.9, "optim.accumulate": 2, "loss.dice": 0.5})
    with pytest.raises(Stopped):
        train(run, tmp_path / "stopped", StopsAt(5), save_every=2)
    assert_same_bits(train(run, tmp_path / "stopped", save_every=2), train(run, tmp_path / "whole"))


def test_a_run_killed_again_and_again_equals_one_never_stopped(never_stopped: RunFolder, tmp_path: Path) -> None:
    for step in (2, 5, 8):
        child = _child(tmp_path, step)
        assert child.returncode == -signal.SIGKILL, child.stderr
    assert _child(tmp_path, STEPS + 1).returncode == 0
    assert_same_bits(RunFolder(str(tmp_path)), never_stopped)


def test_a_finished_run_is_not_trained_again(never_stopped: RunFolder) -> None:
    before = never_stopped.steps()
    train(TINY, never_stopped.url, StopsAt(1))
    assert never_stopped.steps() == before


def test_going_on_from_another_run_with_its_settings_equals_never_stopping(
    never_stopped: RunFolder, tmp_path: Path
) -> None:
    first = train(changed({"optim.stop_epoch": 1}), tmp_path / "first")
    assert [epoch.epoch for epoch in first.read_epochs()] == [1]
    second = train(changed({"optim.continue_from": first.url}), tmp_path / "second")
    assert [epoch.epoch for epoch in second.read_epochs()] == [2, 3]
    assert numbers(second) == numbers(never_stopped)[1:]
    assert_same_state(second, never_stopped)


def test_a_run_that_goes_on_from_another_is_resumed_where_it_was(never_stopped: RunFolder, tmp_path: Path) -> None:
    run = changed({"optim.continue_from": never_stopped.checkpoint(3), "optim.learning_rate": 1e-4})
    with pytest.raises(Stopped):
        train(run, tmp_path / "stopped", StopsAt(7))
    assert_same_bits(train(run, tmp_path / "stopped"), train(run, tmp_path / "whole"))


@pytest.mark.parametrize("method", ["sgd", "adamw"])
def test_what_goes_on_from_another_run_takes_its_own_rates(method: str, tmp_path: Path) -> None:
    begun = {"optim.method": method}
    first = train(changed(begun | {"optim.stop_epoch": 1}), tmp_path / "first")
    settings = {"optim.continue_from": first.url, "optim.learning_rate": 1e-2, "optim.weight_decay": 0.5}
    second = train(changed(begun | settings | {"optim.momentum": 0.1}), tmp_path / "second")
    group = checkpoint.read(second.newest())[0].state["optimizer"]["param_groups"][0]
    assert group["weight_decay"] == 0.5
    assert (group["momentum"] if method == "sgd" else group["betas"][0]) == 0.1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optim.method": "adamw"}, "optim.method and optim.ema_decay must be as there"),
        ({"optim.ema_decay": 0.9}, "optim.method and optim.ema_decay must be as there"),
        ({"optim.epochs": 1}, "it ended at step 9, and this run at 3: raise optim.epochs"),
        ({"optim.batch_size": 2}, "an epoch has 3 steps there and 7 here: use the same batches"),
        ({"model.stride": 16}, "another network was trained there: make model.stride agree"),
    ],
)
def test_what_cannot_go_on_from_another_run_says_why(
    settings: dict[str, Any], message: str, never_stopped: RunFolder, tmp_path: Path
) -> None:
    run = changed({"optim.epochs": 5} | settings | {"optim.continue_from": never_stopped.url})
    with pytest.raises(ValueError, match=r"optim\.continue_from") as refusal:
        train(run, tmp_path)
    assert message in str(refusal.value)


def test_a_torn_checkpoint_is_passed_over(never_stopped: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        train(TINY, tmp_path, StopsAt(8), save_every=2)
    newest = RunFolder(str(tmp_path)).checkpoint(6)
    weights = Path(newest) / checkpoint.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    assert_same_bits(train(TINY, tmp_path, save_every=2), never_stopped)


def test_what_a_killed_process_left_of_a_checkpoint_is_removed(tmp_path: Path) -> None:
    left = tmp_path / "checkpoints" / ".partial-killed"
    left.mkdir(parents=True)
    (left / checkpoint.WEIGHTS).write_bytes(b"half")
    folder = train(TINY, tmp_path)
    assert not left.exists()
    assert folder.steps() == [3, 6, 9]


@pytest.mark.parametrize("contents", [b"{", b"\xff", b'{"epoch": 1}\n'])
def test_epochs_that_are_damaged_are_written_again(contents: bytes, tmp_path: Path) -> None:
    folder = train(TINY, tmp_path)
    expected = folder.read_epochs()
    storage.write_bytes(f"{folder.url}/epochs.jsonl", contents)
    assert train(TINY, tmp_path).read_epochs() == expected


def test_a_lost_line_of_the_epochs_comes_back(never_stopped: RunFolder) -> None:
    path = Path(never_stopped.url) / "epochs.jsonl"
    lines = path.read_text()
    path.write_text("".join(lines.splitlines(keepends=True)[:-1]))
    train(TINY, never_stopped.url)
    assert path.read_text() == lines


def test_the_best_score_survives_a_resume(tmp_path: Path) -> None:
    # Nothing is learnt, so every epoch scores the same, and the first of equals is the best.
    run = changed({"optim.epochs": 6, "optim.learning_rate": 1e-45, "optim.weight_decay": 0.0})
    with pytest.raises(Stopped):
        train(run, tmp_path, StopsAt(16), keep_last=1)
    folder = train(run, tmp_path, keep_last=1)
    scores = [epoch.scores.mean_iou or 0 for epoch in folder.read_epochs()]
    assert max(scores) == scores[0]
    assert folder.steps() == [3, 18]
    assert folder.best() == folder.checkpoint(3)


def test_steps_after_one_that_is_not_finite_are_held_back_until_somebody_looks() -> None:
    audited = audit_of(TINY)
    data = open_dataset(TINY.data, "train")
    order = Order(TINY.seed, len(data.names), 4, 1)
    training = fit_module._training(TINY, data.classes, audited, LocalRuntime(), order, fresh=True)
    batches = training_batches(data, TINY.data, order, range(9), (0, 0, 0), LoaderSettings())
    training.take_step(next(batches))
    before = {name: value.clone() for name, value in training.network.named_parameters()}
    good = training.loss.class_weights
    training.loss.class_weights = good * float("nan")
    training.take_step(next(batches))
    training.loss.class_weights = good
    training.take_step(next(batches))
    for name, value in training.network.named_parameters():
        assert torch.equal(value, before[name]), name
    with pytest.raises(NonFiniteLossError, match="at step 2 of 9"):
        training.check()


def test_a_run_resumed_on_other_numerics_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(Stopped):
        train(TINY, tmp_path, StopsAt(4))
    state = Path(RunFolder(str(tmp_path)).checkpoint(3))
    RunFolder(str(tmp_path)).checkpoint(3)
    restored = RunFolder(str(tmp_path)).read(3)
    card = checkpoint.Card.model_validate_json((state / checkpoint.CARD).read_text())
    RunFolder(str(tmp_path)).save(card, restored.weights, restored.state | {"computed": "cuda, bf16"})
    with caplog.at_level("INFO"):
        train(TINY, tmp_path)
    assert "began on cuda, bf16, goes on on cpu, fp32" in caplog.text


def test_a_loss_that_is_not_finite_stops_before_the_step_is_applied(tmp_path: Path) -> None:
    run = changed({"optim.learning_rate": 1e30, "optim.clip_norm": None, "optim.warmup_steps": 0})
    with pytest.raises(NonFiniteLossError, match=r"step was not applied; lower optim\.learning_rate .*clip_norm"):
        train(run, tmp_path, save_every=1)
    folder = RunFolder(str(tmp_path))
    for step in folder.steps():
        assert all(torch.isfinite(value).all() for value in folder.read(step).weights.values())


def test_a_summed_loss_that_diverges_names_the_reduction(tmp_path: Path) -> None:
    run = changed({"loss.reduction": "sum", "optim.learning_rate": 1e20, "optim.clip_norm": None})
    with pytest.raises(NonFiniteLossError, match=r"loss\.reduction 'sum'"):
        train(run, tmp_path)


@pytest.mark.parametrize(
    "changes",
    [{}, {"optim.accumulate": 2}, {"loss.dice": 1.0, "loss.class_weights": "enet"}, {"model.trunk": "resnet18"}],
    ids=["plain", "accumulated", "dice and class weights", "resnet"],
)
def test_two_workers_give_the_losses_of_one(changes: dict[str, Any], tmp_path: Path) -> None:
    run = changed({"optim.learning_rate": 0.01, "optim.epochs": 2} | changes)
    one = train(run, tmp_path / "one")
    spawn(_work, args=(run, str(tmp_path / "two"), str(tmp_path / "group")), nprocs=2)
    two = RunFolder(str(tmp_path / "two"))
    for ours, theirs in zip(two.read_epochs(), one.read_epochs(), strict=True):
        assert ours.train_loss == pytest.approx(theirs.train_loss, rel=1e-5)


def test_the_network_learns(tmp_path: Path) -> None:
    run = changed({"optim.epochs": 12, "data.zoom": (1.0, 1.0), "model.width": 0.125, "optim.method": "adamw"})
    epochs = train(run, tmp_path).read_epochs()
    assert epochs[-1].train_loss < 0.6 * epochs[0].train_loss


def test_a_batch_that_does_not_divide_over_the_workers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batch_size 4 does not divide over 3 workers"):
        train(TINY, tmp_path, LocalRuntime(workers=3))


def test_staged_training_starts_from_the_coarser_network(tmp_path: Path) -> None:
    coarse = train(changed({"model.stride": 32}), tmp_path / "coarse")
    changes = {"model.stride": 16, "model.start_from": coarse.url, "optim.learning_rate": 1e-12, "optim.epochs": 1}
    fine = changed(changes)
    weights, _ = checkpoint.load_weights(train(fine, tmp_path / "fine").url)
    for name, value in checkpoint.load_weights(coarse.url)[0].items():
        if name.startswith("trunk.") and name.endswith("weight"):
            torch.testing.assert_close(weights[name], value, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.preprocessing": "caffe"}, "model.preprocessing there are torchvision, here caffe"),
        ({"model.geometry": "reference"}, "model.geometry there are same, here reference"),
    ],
)
def test_staged_training_refuses_a_network_that_expects_something_else(
    change: dict[str, Any], message: str, never_stopped: RunFolder, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        train(changed({"model.start_from": never_stopped.url} | change), tmp_path)


def _work(rank: int, run: Run, folder: str, group: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{group}", rank=rank, world_size=2)
    train(run, folder, DistributedRuntime("cpu", rank, 2))
    distributed.destroy_process_group()


def _child(folder: Path, kill_at: int) -> subprocess.CompletedProcess[str]:
    arguments = json.dumps({"folder": str(folder), "kill_at": kill_at})
    root = str(Path(__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-W", "ignore", __file__, arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


class KilledAt(LocalRuntime):
    def __init__(self, step: int) -> None:
        super().__init__()
        self.kill = step

    def show(self, progress: Progress) -> None:
        if progress.step == self.kill:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    train(TINY, asked["folder"], KilledAt(asked["kill_at"]), save_every=2)
