"""What the strides of FCN-32s, 16s and 8s cost on a data set before any network is trained."""

import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from pydantic_settings import CliPositionalArg

from fcn_core import storage
from fcn_core.ceiling import best_through_grid, through_grid
from fcn_core.data.base import Dataset
from fcn_core.data.catalogue import open_split
from fcn_core.experiments import EXPERIMENTS
from fcn_core.metrics.confusion import confusion
from fcn_core.metrics.rules import Rule, scores
from fcn_core.settings import override
from jobs._cli import Settings, exit_codes, read
from jobs._console import Console
from jobs._scores import number, table

MOST_STRIDE = 256
WAYS = {"average": through_grid, "search": best_through_grid}


class CeilingCommand(Settings):
    """Bring the truth of a data set to the 1/32, 1/16 and 1/8 grid and back: what a stride costs by itself.

    "average" gives each unit of the grid the share of every class in its cell and interpolates bilinearly. A network
    can exaggerate shares, and so do better; "search" looks for the scores on the grid that fit the truth best, and
    takes about a second an image.
    """

    experiment: CliPositionalArg[str] = Field(description=f"whose data: one of {', '.join(EXPERIMENTS)}")
    data: str | None = Field(None, description="folder or URL of the data")
    splits: list[str] = Field(["train", "val"], min_length=1, description="which splits")
    strides: list[int] = Field([32, 16, 8], min_length=1, description=f"pixels, up to {MOST_STRIDE}")
    way: Literal["average", "search"] = Field("average", description="how scores on the grid are found")
    every: int = Field(1, ge=1, description="take every n-th image only")


def main() -> None:
    """Carry out the measurement."""
    command = read(CeilingCommand, sys.argv[1:])
    with exit_codes(), Console() as console:
        ceiling(command, console)


def ceiling(command: CeilingCommand, console: Console) -> None:
    """Measure and print the ceilings of all splits.

    Raises:
        ValueError: an experiment or setting is wrong.
        FileNotFoundError: data are not there.
    """
    if command.experiment not in EXPERIMENTS:
        raise ValueError(f"no experiment {command.experiment!r}; experiments are {', '.join(EXPERIMENTS)}")
    wrong = [stride for stride in command.strides if not 1 <= stride <= MOST_STRIDE]
    if wrong:
        raise ValueError(f"strides are pixels from 1 to {MOST_STRIDE}, not {wrong[0]}")
    run = EXPERIMENTS[command.experiment]()
    torch.set_num_threads(1)  # Images go over threads; more in each would only contend.
    if command.data is not None:
        run = override(run, {"data.path": storage.absolute(command.data)})
    if run.data.path is not None:
        storage.check_access(run.data.path)
    for split in command.splits:
        dataset = open_split(run.data, split)
        indexes = range(0, len(dataset.names), command.every)
        found = measure(dataset, indexes, command.strides, command.way, console)
        shown = table([f"1/{stride}" for stride in command.strides])
        shown.title = (
            f"{run.data.kind} {split}, {len(indexes)} images: IoU of the truth through the grid, {command.way}"
        )
        shown.caption = Rule().describe(len(dataset.classes), "no network")
        all_scores = [scores(matrices) for matrices in found]
        for label, name in enumerate(dataset.classes.names):
            shown.add_row(name, *(number(one.class_iou[label]) for one in all_scores))
        shown.add_section()
        shown.add_row("mean IoU", *(number(one.mean_iou) for one in all_scores))
        shown.add_row("pixel accuracy", *(number(one.pixel_accuracy) for one in all_scores))
        console.rich.print(shown)


def measure(
    dataset: Dataset, indexes: Sequence[int], strides: Sequence[int], way: str, console: Console
) -> NDArray[np.int64]:
    """Return confusion matrices (S, C + 1, C) of the truth brought through the grid of each stride."""
    num_classes = len(dataset.classes)

    def of_image(index: int) -> NDArray[np.int64]:
        mask = dataset.read(index).mask
        through = torch.from_numpy(np.stack([WAYS[way](mask, stride, num_classes) for stride in strides]))
        found: NDArray[np.int64] = confusion(through, torch.from_numpy(mask).expand_as(through), num_classes).numpy()
        return found

    total = np.zeros((len(strides), num_classes + 1, num_classes), np.int64)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done, matrices in enumerate(pool.map(of_image, indexes), start=1):
            total += matrices
            console.count("image", done, len(indexes))
    console.done()
    return total
