"""A training command whose second worker dies while it is set up: `python -m tests.faults.stillborn LOG TIMES ...`.

LOG gets a letter for each of its deaths, TIMES at most.
"""

import os
import signal
import sys
from pathlib import Path

import ray.train
from ray.train.v2._internal.execution.callback import WorkerCallback

from jobs import _runtime, _train


class Stillborn(WorkerCallback):  # type: ignore[misc] # Ray's classes have no types here.
    """Kills the second worker, where others wait for it."""

    def __init__(self, log: str, times: int) -> None:
        self.log = log
        self.times = times

    def after_init_train_context(self) -> None:
        log = Path(self.log)
        died = len(log.read_text()) if log.exists() else 0
        if ray.train.get_context().get_world_rank() == 1 and died < self.times:
            log.write_text("x" * (died + 1))
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    log, times = sys.argv.pop(1), int(sys.argv.pop(1))
    _runtime.HeedSigterm = lambda: Stillborn(log, times)  # type: ignore[misc,assignment]
    _train.main(8)
