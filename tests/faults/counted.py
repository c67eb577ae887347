"""A training command whose first worker notes its steps in a file: `python -m tests.faults.counted LOG streets ...`."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fcn_core.data.batches import Batch
from fcn_core.training import Training
from jobs import _train


def counting(log: str) -> Callable[[dict[str, Any]], Exception | None]:
    """Return what workers do, with a line in `log` for each step."""

    def work(config: dict[str, Any]) -> Exception | None:
        take_step = Training.take_step

        def taken(training: Training, batches: list[Batch]) -> None:
            take_step(training, batches)
            if training.runtime.rank == 0:
                with Path(log).open("a") as file:
                    file.write(f"{training.step}\n")

        Training.take_step = taken  # type: ignore[method-assign,assignment]
        return _train._worker(config)

    return work


if __name__ == "__main__":
    log = sys.argv.pop(1)
    _train._worker = counting(log)  # type: ignore[assignment]
    _train.main(8)
