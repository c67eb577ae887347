"""Training commands that lose processes, and the same run where nothing is lost."""

import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import distributed
from torch.multiprocessing.spawn import spawn

from fcn_core.checkpoint import RunFolder
from fcn_core.runtime import DistributedRuntime
from fcn_core.settings import Run
from jobs._cli import parse
from tests.jobs.commands import ROOT, processes_of
from tests.tiny import train

PATIENCE_S = 240
started: list[subprocess.Popen[str]] = []
"""The processes of all commands."""


def train_without_ray(settings: Sequence[str], place: Path) -> RunFolder:
    """Train a run to its end, by two workers of torch.distributed."""
    spawn(_work, args=(parse(settings, 8).run, str(place / "run"), str(place / "group")), nprocs=2)
    return RunFolder(str(place / "run"))


def _work(rank: int, run: Run, folder: str, group: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{group}", rank=rank, world_size=2)
    train(run, folder, DistributedRuntime("cpu", rank, 2), keep_last=2)
    distributed.destroy_process_group()


class Command:
    """A training command of two workers in a process of its own.

    Args:
        place: its storage.
        environment: its environment variables.
        settings: its arguments.
        module: `counted`, or another of this folder that is used as it is.
    """

    def __init__(self, place: Path, environment: Mapping[str, str], *settings: str, module: str = "counted") -> None:
        self.log = place / "steps"
        self.lines: list[str] = []
        command = ["-m", f"tests.faults.{module}", str(self.log), *settings, "--workers=2", f"--storage={place}"]
        self.process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env=dict(environment),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        started.append(self.process)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as printed:
            self.lines += (line.rstrip() for line in printed)

    @property
    def steps(self) -> list[int]:
        """The steps that were taken so far, over all commands here."""
        return [int(line) for line in self.log.read_text().split()] if self.log.exists() else []

    @property
    def repeats(self) -> list[int]:
        """How many steps were done again, each time that any were."""
        return [before - after + 1 for before, after in pairwise(self.steps) if after <= before]

    def until(self, happened: Callable[[], object]) -> None:
        """Wait until something has happened."""
        deadline = time.monotonic() + PATIENCE_S
        while not happened():
            assert self.process.poll() is None, self.lines
            assert time.monotonic() < deadline, self.lines
            time.sleep(0.02)

    def until_steps(self, more: int = 5) -> None:
        """Wait until this many further steps are taken."""
        before = len(self.steps)
        self.until(lambda: len(self.steps) >= before + more)

    def said(self, pattern: str) -> bool:
        return any(re.search(pattern, line) for line in self.lines)

    def end(self, code: int = 0) -> RunFolder:
        """Wait for the end, and return the run's folder."""
        assert self.process.wait(PATIENCE_S) == code, self.lines
        self._reader.join(10)
        assert not self.said("Traceback")
        found = next(re.fullmatch(r"run \S+ in (\S+)", line) for line in self.lines if line.startswith("run "))
        assert found
        return RunFolder(found[1])


def workers(ray_folder: Path) -> list[int]:
    return [pid for pid, line in processes_of(ray_folder).items() if "RayTrainWorker" in line]


def raylets(ray_folder: Path) -> list[int]:
    return [pid for pid, line in processes_of(ray_folder).items() if "raylet/raylet " in line]
