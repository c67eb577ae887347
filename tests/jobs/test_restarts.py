"""The record of restarts: what is kept, and how causes are told apart."""

from pathlib import Path

import pytest
from ray.exceptions import RayActorError
from ray.train import TrainingFailedError
from ray.train.v2._internal.exceptions import (
    WorkerGroupStartupTimeoutError,
    WorkerHealthCheckFailedError,
    WorkerHealthCheckTimeoutError,
)
from ray.train.v2.api.exceptions import ControllerError, PreemptionError, WorkerGroupError
from ray.train.v2.api.preemption import PreemptionInfo

from fcn_core.checkpoint import RunFolder
from fcn_core.training import Progress
from jobs._metrics import Started
from jobs._restarts import Lost, Restarts, cause_of, describe, read_restarts

DIED = WorkerHealthCheckFailedError("A worker health check failed.", RayActorError("ab", "The actor died."))
PEER = RuntimeError("[gloo/transport/tcp/pair.cc:545] Read error [127.0.0.1]:7908: Connection reset by peer.")
HUNG = RuntimeError(
    "[gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 20000ms for recv operation to complete"
)
LEFT = RayActorError(error_msg="stopped at step 7 of 9, which is saved", preempted=True)


def progress(step: int) -> Progress:
    return Progress(epoch=1, epochs=2, step=step, steps=20, loss=1.0, images_per_s=1.0)


def test_each_restart_is_kept_with_its_cause_and_what_it_cost(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path))
    first = Restarts(folder)
    for item in (
        Started(2, 0),
        progress(1),
        progress(7),
        Lost("a worker died"),
        Lost("no room"),
        Started(2, 6),
        progress(9),
    ):
        first.note(item)
    (restart,) = read_restarts(folder)
    assert (restart.restart, restart.cause, restart.resumed_at, restart.steps_again) == (1, "a worker died", 6, 1)
    (tmp_path / "checkpoints" / "00000008").mkdir(parents=True)
    second = Restarts(folder)
    for item in (Started(2, 8), progress(9), Lost("a node died"), Started(2, 8)):
        second.note(item)
    kept = read_restarts(folder)
    assert [(one.restart, one.resumed_at, one.steps_again) for one in kept] == [(1, 6, 1), (2, 8, None), (3, 8, 1)]
    assert kept[1].cause == "the command was started again"
    assert describe(second.now) == (
        "restarted 2 times: the command was started again, resumed at step 8, what was done since then done again; "
        "a node died, resumed at step 8, 1 steps done again"
    )


def test_a_run_that_was_never_stopped_has_no_record(tmp_path: Path) -> None:
    restarts = Restarts(RunFolder(str(tmp_path)))
    for item in (Started(2, 0), progress(9), "a message"):
        restarts.note(item)
    assert not restarts.now
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (WorkerGroupError("", {0: PEER, 1: DIED}), "worker 1 died: its process or its node was lost"),
        (WorkerGroupError("", {0: PEER, 2: HUNG}), "worker 2 waited for another for 20 s (timeout_s): that one hangs"),
        (WorkerGroupError("", {0: PEER, 1: ValueError("bad\nworse")}), "worker 1 failed: worse"),
        (WorkerGroupError("", {0: PEER, 1: TimeoutError("the storage timed out")}), "worker 1 failed: the storage"),
        (WorkerGroupError("", {0: PEER, 1: LEFT}), "worker 1 was preempted: stopped at step 7 of 9, which is saved"),
        (WorkerGroupError("", {1: WorkerHealthCheckTimeoutError("x"), 0: HUNG}), "worker 1 did not answer for 20 s"),
        (PreemptionError(PreemptionInfo(None, {"ab": [0, 1]})), "preempted: the node of worker 0, 1 is drained"),
        (ControllerError(WorkerGroupStartupTimeoutError(2)), "the cluster has no room for 2 workers"),
        (ControllerError(ValueError("what\nwhy")), "why"),
    ],
)
def test_of_what_workers_raise_the_cause_is_told(error: TrainingFailedError, cause: str) -> None:
    assert cause_of(error, 20).startswith(cause)
