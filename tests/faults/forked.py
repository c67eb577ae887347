"""Two gloo workers that are killed at a chosen moment, a step or an operation on files, and started again to the end.

Run as a script: it imports torch once and forks, so that an attempt takes a second. Forking wants a process that has
not computed yet, which a test runner is not.
"""

import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import distributed

from fcn_core.runtime import DistributedRuntime
from fcn_core.training import Training
from tests.tiny import changed, train

RUN = changed({"optim.epochs": 2, "optim.ema_decay": 0.9})
"""Six steps: saved after 2, 3 (an epoch's end, scored), 4 and 6; of the newest one is kept."""
STEPS, SAVE_EVERY = 6, 2
BEFORE, RESTORED = 2, 5
"""A save is that after the second step or what follows it; a restore is that of a run killed after its fifth step."""
KILLED = "killed"
OPERATIONS = ("open", "os.", "tempfile.", "shutil.")


class Kill(NamedTuple):
    """The moment at which a worker kills itself."""

    rank: int
    operation: int | None = None
    """Counted from 1 in this attempt."""
    step: int | None = None


class Noted(NamedTuple):
    """An operation on the files of the run."""

    step: int
    """The last that was taken in this attempt."""
    name: str
    path: str


def attempt(folder: Path, kill: Kill | None) -> tuple[list[int], list[list[Noted]]]:
    """Run two workers; return how each ended, as `os.waitstatus_to_exitcode` has it, and what each did to files."""
    group = folder.with_suffix(".group")
    group.unlink(missing_ok=True)
    children = [_fork(partial(_work, rank, folder, group, kill)) for rank in range(2)]
    codes: dict[int, int] = {}
    while len(codes) < len(children):
        pid, status = os.wait()
        codes[pid] = os.waitstatus_to_exitcode(status)
        # Who waits for a worker that was killed may wait for the longest time that is set.
        for other in children:
            if codes[pid] != 0 and other not in codes:
                os.kill(other, signal.SIGKILL)
    notes = [[Noted(*json.loads(line)) for line in _log(folder, rank).read_text().splitlines()] for rank in range(2)]
    return [codes[pid] for pid in children], notes


def run(folder: Path, kills: list[Kill]) -> int:
    """Carry a run out to its end through these kills, and return how many steps were taken in all."""
    taken = 0
    for kill in [*kills, None]:
        codes, notes = attempt(folder, kill)
        expected = -signal.SIGKILL if kill else 0
        assert codes[kill.rank if kill else 0] == expected, (kill, codes)
        assert kill is None or notes[kill.rank][-1].name == KILLED, (kill, notes)
        taken += sum(note.name == "step" for note in notes[0])
    return taken


def moments(folder: Path) -> list[list[Kill]]:
    """Return the kills that cover each operation on files of the first saves, and of a restore by either worker."""
    _, (ours, _) = attempt(folder.with_suffix(".noted"), None)
    first = next(place for place, note in enumerate(_operations(ours)) if note.step >= BEFORE)
    last = max(place for place, note in enumerate(_operations(ours)) if note.step <= BEFORE + 2)
    saves = [[Kill(0, operation=place + 1)] for place in range(first, last + 1)]
    attempt(folder.with_suffix(".resumed"), Kill(0, step=RESTORED))
    _, notes = attempt(folder.with_suffix(".resumed"), None)
    restores = []
    for rank, noted in enumerate(notes):
        before = next(place for place, note in enumerate(noted) if note.name == "step")
        restores += [[Kill(0, step=RESTORED), Kill(rank, operation=place + 1)] for place in range(before)]
    return saves + restores


def _operations(notes: list[Noted]) -> list[Noted]:
    return [note for note in notes if note.name != "step"]


def _log(folder: Path, rank: int) -> Path:
    return folder.with_suffix(f".{rank}.log")


def _fork(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        # A worker whose other was killed fails too, as it should.
        logging.getLogger(__name__).debug("failed", exc_info=True)
    finally:
        os._exit(code)


def _work(rank: int, folder: Path, group: Path, kill: Kill | None) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{group}", rank=rank, world_size=2)
    with _log(folder, rank).open("w", buffering=1) as log:
        _Moments(folder, log.write, kill if kill and kill.rank == rank else None).watch()
        train(RUN, folder, DistributedRuntime("cpu", rank, 2), save_every=SAVE_EVERY, keep_last=1)
    distributed.destroy_process_group()


class _Moments:
    """Counts steps and operations on the files of a run in this process, and ends it at the one that is asked for."""

    def __init__(self, folder: Path, write: Callable[[str], object], kill: Kill | None) -> None:
        self._folder = f"{folder}/"
        self._write = write
        self._kill = kill
        self._operations = 0
        self._step = 0

    def watch(self) -> None:
        sys.addaudithook(self._operation)
        take_step = Training.take_step

        def taken(training: Training, *arguments: object) -> None:
            take_step(training, *arguments)  # type: ignore[arg-type]
            self._step = training.step
            self._note("step", "")
            if self._kill and training.step == self._kill.step:
                self._end()

        Training.take_step = taken  # type: ignore[method-assign,assignment]

    def _operation(self, event: str, arguments: tuple[object, ...]) -> None:
        if not event.startswith(OPERATIONS) or not arguments or not str(arguments[0]).startswith(self._folder):
            return
        self._operations += 1
        self._note(event, str(arguments[0]).removeprefix(self._folder))
        if self._kill and self._operations == self._kill.operation:
            self._end()

    def _end(self) -> None:
        self._note(KILLED, "")
        os.kill(os.getpid(), signal.SIGKILL)

    def _note(self, name: str, path: str) -> None:
        self._write(json.dumps([self._step, name, path]) + "\n")


def main() -> None:
    place, every = Path(sys.argv[1]), int(sys.argv[2])
    place.mkdir(exist_ok=True)
    whole = run(place / "whole", [])
    assert whole == STEPS, whole
    chosen = moments(place / "moments")
    for number, kills in list(enumerate(chosen))[::every]:
        taken = run(place / f"killed-{number}", kills)
        told = {"folder": f"killed-{number}", "kills": kills, "taken": taken, "of": len(chosen)}
        sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
