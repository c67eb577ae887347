"""Which failures end a run, and which are waited out."""

from ray.train import FailureConfig
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.failure_handling import FailureDecision
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError, WorkerGroupError

from jobs._trainer import Failures

NO_ROOM = ControllerError(WorkerGroupStartupTimeoutError(2))
LOST = WorkerGroupError("a worker died", {0: RuntimeError()})
BEYOND = ControllerError(ValueError())
"""What no other try mends."""


def decisions(*errors: TrainingFailedError) -> list[bool]:
    failures = Failures(FailureConfig(max_failures=10, controller_failure_limit=3))
    return [failures.make_decision(error) == FailureDecision.RETRY for error in errors]


def test_workers_may_be_waited_for_again_once_they_have_worked() -> None:
    assert decisions(*[NO_ROOM] * 4) == [True, True, True, False]
    assert all(decisions(*[NO_ROOM] * 3, LOST, *[NO_ROOM] * 3, LOST, *[NO_ROOM] * 3))
    assert decisions(*[NO_ROOM] * 3, LOST, *[NO_ROOM] * 4)[-1] is False


def test_what_no_other_try_mends_ends_the_run() -> None:
    assert decisions(BEYOND) == [False]
    assert decisions(*[LOST] * 11) == [True] * 10 + [False]
