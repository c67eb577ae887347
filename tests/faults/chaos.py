"""Kills at random while a run on the street scenes goes on, then proves that not a bit is lost: `make chaos MINUTES=5`.

Workers, raylets and drivers get SIGKILL, one at a time, after a random number of steps; where the command ends with
them it is started again. At the end weights, optimiser, scores and every logged loss must equal, bit by bit, those of
the same run by two workers of torch.distributed that nobody stops.
"""

import argparse
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from fcn_core import storage
from fcn_core.checkpoint import RunFolder
from jobs._restarts import read_restarts
from tests.faults.running import Command, raylets, train_without_ray, workers
from tests.jobs.commands import left_of
from tests.tiny import assert_same_bits

SETTINGS = [
    "streets",
    "--data.streets.height=32",
    "--data.streets.width=48",
    "--data.streets.num_train=96",
    "--data.streets.num_val=8",
    "--model.width=0.06",
    "--model.fc_channels=8",
    "--optim.batch_size=12",
]
STEPS_OF_EPOCH = 8
SAVE_EVERY = 4
EPOCHS_A_MINUTE = 40
"""More than a run gets through that loses most of its time to restarts."""
KINDS = ("worker", "worker", "raylet", "driver")
MOST_STEPS = 40
"""Between kills."""


class Kill(NamedTuple):
    """What was killed and what it cost."""

    kind: str
    steps_again: int
    seconds: float
    """To the next step."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--minutes", type=float, default=5, help="time during which something is killed again and again"
    )
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of what is killed and when")
    asked = parser.parse_args()
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"seed {asked.seed}: kills for {asked.minutes:g} minutes")
    epochs = max(4, round(asked.minutes * EPOCHS_A_MINUTE))
    settings = [*SETTINGS, f"--optim.epochs={epochs}"]
    # Sockets have short paths.
    with tempfile.TemporaryDirectory(prefix="fcn") as name:
        place = Path(name)
        (place / "whole").mkdir()
        whole = train_without_ray(settings, place / "whole")
        kills, folder = rage(settings, place, asked.minutes, random.Random(asked.seed), console)  # noqa: S311 -- no secret.
        console.print(table(kills))
        restarts = read_restarts(folder)
        console.print(f"{len(restarts)} restarts in the run's own record")
        assert_same_bits(folder, whole)
        for step in folder.steps():
            storage.verify(folder.checkpoint(step))
    console.print(f"the same bits as never stopped: {epochs} epochs, {epochs * STEPS_OF_EPOCH} steps")


def rage(
    settings: Sequence[str], place: Path, minutes: float, chance: random.Random, console: Console
) -> tuple[list[Kill], RunFolder]:
    """Kill until the time is over or the run is, let it end, and return the kills and the run's folder."""
    name = str(place)
    (place / "lab").mkdir()
    environment = os.environ | {"HOME": name, "RAY_TMPDIR": name, "FCN_CACHE": f"{name}/cache", "PYTHONUNBUFFERED": "1"}
    arguments = [*settings, f"--save-every={SAVE_EVERY}", "--max-failures=1000000"]
    kills: list[Kill] = []
    command = Command(place / "lab", environment, *arguments)
    progressed(command, 1)
    begun = time.monotonic()
    while time.monotonic() - begun < 60 * minutes:
        if not progressed(command, len(command.steps) + chance.randint(1, MOST_STEPS)):
            break
        kind = chance.choice(KINDS)
        if not kill(kind, command, place, chance):
            continue
        at = time.monotonic()
        if kind != "worker":
            command.process.wait(120)
            # Workers outlive their driver by two or three seconds, in which they go on.
            quiet(place)
        before = len(command.steps)
        if kind != "worker":
            command = Command(place / "lab", environment, *arguments)
        if not progressed(command, before + 1):
            break
        steps = command.steps
        kills.append(Kill(kind, max(steps[:before]) - steps[before] + 1, time.monotonic() - at))
        console.print(f"{kind} killed after {max(steps[:before])} steps, {kills[-1].steps_again} done again")
    check(kills, (time.monotonic() - begun) / 60, minutes)
    return kills, end(command, place)


def check(kills: Sequence[Kill], lasted: float, minutes: float) -> None:
    """Refuse a run in which nothing was killed, or not for as long as was asked."""
    if not kills:
        sys.exit("error: nothing was killed: give more minutes")
    if lasted < minutes:
        sys.exit(f"error: the run was over after {lasted:.1f} of {minutes:g} minutes: raise EPOCHS_A_MINUTE")


def end(command: Command, place: Path) -> RunFolder:
    """Let a command end, and refuse one that did more again than since a save, or that leaves something."""
    folder = command.end()
    quiet(place)
    if (most := max(command.repeats, default=0)) > SAVE_EVERY:
        sys.exit(f"error: {most} steps were done again after a kill, though each {SAVE_EVERY} are saved")
    return folder


def progressed(command: Command, steps: int) -> bool:
    """Wait until so many steps were taken in all, and tell whether the command still runs."""
    while len(command.steps) < steps:
        if command.process.poll() is not None:
            if command.process.returncode != 0:
                sys.exit(f"error: the command ended by itself: {command.lines[-1:]}")
            return False
        time.sleep(0.05)
    return True


def kill(kind: str, command: Command, place: Path, chance: random.Random) -> bool:
    """Kill one process of a kind, and tell whether there was one."""
    found = {"worker": workers, "raylet": raylets}.get(kind, lambda _: [command.process.pid])(place)
    try:
        os.kill(chance.choice(sorted(found)), signal.SIGKILL)
    except (IndexError, ProcessLookupError):
        return False
    return True


def quiet(place: Path) -> None:
    """Wait until nothing is left of a command, for at most 30 s."""
    deadline = time.monotonic() + 30
    while left := left_of(place):
        if time.monotonic() > deadline:
            sys.exit(f"error: left after 30 s: {left}")
        time.sleep(0.5)


def table(kills: Sequence[Kill]) -> Table:
    """Return what was killed and what it cost."""
    shown = Table("killed", "times", "steps done again", "at most", "seconds to the next step")
    for kind in dict.fromkeys(KINDS):
        of = [kill for kill in kills if kill.kind == kind]
        if of:
            steps = [kill.steps_again for kill in of]
            seconds = statistics.median(kill.seconds for kill in of)
            shown.add_row(kind, str(len(of)), str(sum(steps)), str(max(steps)), f"{seconds:.0f}")
    return shown


if __name__ == "__main__":
    main()
