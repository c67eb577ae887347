"""How often a run was taken up again, and why: `restarts.jsonl` in its folder."""
# Ray gives its objects no types.
# ruff: noqa: ANN401

# What is pickled here our own driver reads.
import pickle  # nosec B403
from datetime import UTC, datetime
from typing import Any, NamedTuple

from ray.exceptions import RayActorError
from ray.train import TrainingFailedError
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError, WorkerHealthCheckTimeoutError
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2.api.exceptions import ControllerError, PreemptionError, WorkerGroupError

from fcn_core import storage
from fcn_core.checkpoint import RunFolder
from fcn_core.settings import Value
from fcn_core.training import Progress
from jobs._cli import last_line
from jobs._metrics import Started

RESTARTS = "restarts.jsonl"
COMMAND = "the command was started again"


class Restart(Value):
    """One line of restarts.jsonl."""

    restart: int
    """Counted from 1."""
    time: str
    """When workers began to train again, UTC."""
    cause: str
    resumed_at: int
    """The step."""
    steps_again: int | None
    """Steps that had been done before and are done again, as far as the first worker had told; None: nobody knows,
    since the command itself had ended."""


class Lost(NamedTuple):
    """The workers have to be started again."""

    cause: str


class Restarts:
    """The record of one run, kept by its driver from what comes over the board."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self.before = read_restarts(folder)
        self.now: list[Restart] = []
        """Of this command."""
        self._cause = COMMAND if folder.steps() else None
        self._furthest: int | None = None

    def note(self, item: object) -> None:
        """Take note of something that was on the board.

        Raises:
            OSError: it could not be written; the next note writes it too.
        """
        match item:
            case Progress():
                self._furthest = max(item.step, self._furthest or 0)
            case Lost():
                self._cause = self._cause or item.cause
                self._furthest = self._furthest or 0
            case Started():
                self._began(item.step)
            case _:
                return

    def _began(self, step: int) -> None:
        cause, furthest = self._cause, self._furthest
        self._cause, self._furthest = None, step
        if cause is None:
            return
        again = None if furthest is None else max(0, furthest - step)
        number = len(self.before) + len(self.now) + 1
        time = datetime.now(UTC).isoformat(timespec="seconds")
        self.now.append(Restart(restart=number, time=time, cause=cause, resumed_at=step, steps_again=again))
        lines = "".join(one.model_dump_json() + "\n" for one in [*self.before, *self.now])
        storage.write_bytes(storage.join(self._folder.url, RESTARTS), lines.encode())


class TellRestarts(ControllerCallback):  # type: ignore[misc] # Ray's classes have no types here.
    """Tells the board why workers have to be started again.

    Args:
        board: handle of the driver's `jobs._board.Board`.
        timeout_s: longest that workers wait for each other.
    """

    def __init__(self, board: Any, timeout_s: int) -> None:
        self._board = board
        self._timeout_s = timeout_s

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:  # noqa: ARG002
        """Tell of the error that the new state has, if any."""
        error = getattr(current_state, "training_failed_error", None)
        if error is not None and not current_state.is_terminal():
            self._board.put.remote(pickle.dumps(Lost(cause_of(error, self._timeout_s))))


def read_restarts(folder: RunFolder) -> list[Restart]:
    """Return how often the run in a folder was taken up again."""
    try:
        lines = storage.read_bytes(storage.join(folder.url, RESTARTS)).decode().splitlines()
    except FileNotFoundError:
        return []
    return [Restart.model_validate_json(line) for line in lines]


def describe(restarts: list[Restart]) -> str:
    """Return restarts in one line."""
    told = [f"{one.cause}, {_again(one)}" for one in restarts]
    return f"restarted {len(restarts)} time{'s' if len(restarts) != 1 else ''}: " + "; ".join(told)


def cause_of(error: TrainingFailedError, timeout_s: int) -> str:
    """Return in one line why training failed: of what all workers raised, that which is no consequence of the rest."""
    match error:
        case PreemptionError():
            ranks = ", ".join(str(rank) for rank in error.preemption_info.preempted_ranks)
            return f"preempted: the node of worker {ranks} is drained"
        case ControllerError(controller_failure=WorkerGroupStartupTimeoutError() as failure):
            return f"the cluster has no room for {failure.num_workers} workers"
        case WorkerGroupError():
            rank, first = min(error.worker_failures.items(), key=lambda one: (_consequence(one[1]), one[0]))
            return f"worker {rank} {_what(first, timeout_s)}"
        case _:
            return last_line(error)


def _again(restart: Restart) -> str:
    again = "what was done since then" if restart.steps_again is None else f"{restart.steps_again} steps"
    return f"resumed at step {restart.resumed_at}, {again} done again"


def _cause(error: Exception) -> Exception:
    return getattr(error, "health_check_failure", error)


def _consequence(error: Exception) -> int:
    """Return 0 for a worker that was lost or has a fault of its own, more for one that suffers from another's."""
    error = _cause(error)
    text = str(error).lower()
    if isinstance(error, RayActorError | WorkerHealthCheckTimeoutError):
        return 0
    if "gloo" not in text:
        return 1
    return 2 if "timed out" in text else 3


def _what(error: Exception, timeout_s: int) -> str:
    error = _cause(error)
    if isinstance(error, RayActorError):
        return f"was preempted: {error}" if error.preempted else "died: its process or its node was lost"
    if isinstance(error, WorkerHealthCheckTimeoutError):
        return f"did not answer for {timeout_s} s (timeout_s)"
    if _consequence(error) == 2:
        return f"waited for another for {timeout_s} s (timeout_s): that one hangs or is too slow"
    if _consequence(error) == 3:
        return "lost its connection to another, whose process or node is gone"
    return f"failed: {last_line(error)}"
