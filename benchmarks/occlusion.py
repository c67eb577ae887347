"""How fast occlusion is beside its peers, as ratios of CPU time; above 1 ours is the faster.

    python benchmarks/occlusion.py                                      # ResNet-18 and VGG16, 5184 positions
    python benchmarks/occlusion.py --only layer3,conv4_3 --rounds 5

One unit at one position of each layer, images of 224x224 pixels, random weights, one thread. Arms alternate (A B C D,
D C B A, ...), and each ratio is the median over rounds, so a machine that drifts does not decide. Ours does the whole
grid; the others do some positions of it, and their time is scaled to all:

captum  Captum's Occlusion, its forward function ending at the layer
plain   replicas through the network as it is, in batches, as far as the layer
fused   the same with BatchNorm folded, convolution, sum and ReLU fused, weights packed, channels last

`work` is the multiplications of the plain way over ours; `equal` is the largest difference from the plain way over the
largest activation.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from captum import attr
from rich.console import Console
from rich.table import Column, Table
from torch import Tensor, nn
from torchvision.models import resnet18, vgg16

from fcn_core.receptive_field.convolution import Convolution
from fcn_core.receptive_field.incremental import Incremental
from fcn_core.receptive_field.intervals import Window
from fcn_core.receptive_field.occlusion import Maps, Occlusion, Site, fill_image

SIZE = (224, 224)
OCCLUSION = Occlusion()
STARTS = OCCLUSION.starts(SIZE[0])
POSITIONS = len(STARTS) ** 2


class Case(NamedTuple):
    """A unit's position in a layer."""

    network: str
    layer: str
    row: int
    """And column."""


CASES = {
    "layer1": Case("resnet18", "layer1", 28),
    "layer2": Case("resnet18", "layer2", 14),
    "layer3": Case("resnet18", "layer3", 7),
    "layer4": Case("resnet18", "layer4", 3),
    "layer4 corner": Case("resnet18", "layer4", 0),
    "conv3_3": Case("vgg16", "features.14", 28),
    "conv4_3": Case("vgg16", "features.21", 14),
    "conv5_3": Case("vgg16", "features.28", 7),
}


class Arms:
    """The four ways for one case; each returns the seconds of CPU time for all positions."""

    def __init__(self, case: Case, network: nn.Module, batch: int) -> None:
        self.image = torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(0))
        self.fill = fill_image(self.image, OCCLUSION)
        self.maps = Maps(network, case.layer)
        with torch.inference_mode():
            unit = int(self.maps(self.image)[0, :, case.row, case.row].argmax())  # Not one that is 0 throughout.
        self.site = Site(unit, case.row, case.row)
        self.incremental = Incremental(network, case.layer, SIZE)
        self.batch = batch
        done, plain = self.incremental.macs([self.site], OCCLUSION)
        self.work = plain / done

    def ours(self) -> float:
        """Do the whole grid, again and again for a second at least."""
        times: list[float] = []
        while sum(times) < 1:
            times.append(cpu_time(self._occlude))
        return statistics.median(times)

    def _occlude(self) -> None:
        (self.found,) = self.incremental.discrepancies(self.image, [self.site], OCCLUSION)

    def captum(self) -> float:
        """Do as many positions of a larger occluder: its stride may not exceed its size."""
        side = int(self.batch**0.5)
        window = (3, SIZE[0] // side, SIZE[1] // side)
        occlusion = attr.Occlusion(lambda images: self._unit(self.maps(images)))
        asked = {"sliding_window_shapes": window, "strides": window, "perturbations_per_eval": side**2}
        seconds = cpu_time(lambda: occlusion.attribute(self.image, baselines=self.fill, **asked))
        return seconds * POSITIONS / side**2

    def plain(self) -> float:
        """Do one batch of positions."""
        return cpu_time(lambda: self._unit(self.maps(self.replicas()))) * POSITIONS / self.batch

    def fused(self) -> float:
        """Do one batch of positions."""
        return cpu_time(lambda: self._unit(self._fused(self.replicas()))) * POSITIONS / self.batch

    def difference(self) -> float:
        """Return the largest difference of a batch of positions from the plain way, over the largest activation."""
        with torch.inference_mode():
            maps, values = self.maps(self.image), self._unit(self.maps(self.replicas()))
        ours = torch.stack([self.found.falls[row, column] for row, column in self.places()])
        return float((ours - (self._unit(maps) - values)).abs().max() / maps.abs().max())

    def places(self) -> list[tuple[int, int]]:
        """Return positions that are spread over the grid."""
        return [divmod(index * POSITIONS // self.batch, len(STARTS)) for index in range(self.batch)]

    def replicas(self) -> Tensor:
        """Return the image with the occluder at these positions."""
        images = self.image.repeat(self.batch, 1, 1, 1)
        for replica, (row, column) in zip(images, self.places(), strict=True):
            top, left = STARTS[row], STARTS[column]
            window = (slice(None), slice(top, top + OCCLUSION.size), slice(left, left + OCCLUSION.size))
            replica[window] = self.fill[0][window]
        return images

    def _unit(self, maps: Tensor) -> Tensor:
        return maps[:, self.site.unit, self.site.row, self.site.column]

    def _fused(self, images: Tensor) -> Tensor:
        """Return the activations of whole images by the same steps as ours."""
        made = {0: images.contiguous(memory_format=torch.channels_last)}
        for step in self.incremental.steps:
            inputs = [made[source] for source in step.inputs]
            if isinstance(step.compute, Convolution):
                rows, columns = (sight for sight in step.sees[0] if isinstance(sight, Window))
                convolution = replace(step.compute, stride=(rows.step, columns.step))
                made[step.output] = convolution(inputs, padding=(-rows.start, -columns.start))
            else:
                made[step.output] = self.incremental.graph.nodes[step.output].run(*inputs)
        return made[self.incremental.target]


def cpu_time(run: Callable[[], object]) -> float:
    """Return the seconds of CPU time that a call takes."""
    start = time.process_time()
    with torch.inference_mode():
        run()
    return time.process_time() - start


def compare(arms: Arms, rounds: int) -> list[list[float]]:
    """Return the times of ours, Captum's, the plain way and the fused one, round by round; a first one is left out."""
    order: list[Callable[[], float]] = [arms.ours, arms.captum, arms.plain, arms.fused]
    for arm in order[1:]:
        arm()
    times = []
    for number in range(rounds):
        turn = order if number % 2 == 0 else order[::-1]
        taken = {arm: arm() for arm in turn}
        times.append([taken[arm] for arm in order])
    return times


def main() -> None:
    """Print a table."""
    if os.environ.get("OMP_NUM_THREADS") != "1":
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"OMP_NUM_THREADS": "1"})  # noqa: S606
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(CASES), help="layers, separated by commas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=16, help="positions of the other arms")
    options = parser.parse_args()
    torch.manual_seed(0)
    networks = {"resnet18": resnet18(weights=None).eval(), "vgg16": vgg16(weights=None).eval()}
    names = ("ours, s", "over captum", "over plain", "over fused", "work", "over fused / work", "equal")
    table = Table("layer", *(Column(name, justify="right") for name in names))
    console = Console(width=120)
    for name in options.only.split(","):
        case = CASES[name]
        arms = Arms(case, networks[case.network], options.batch)
        times = compare(arms, options.rounds)
        ratios = [[taken[arm] / taken[0] for taken in times] for arm in (1, 2, 3)]
        captum, plain, fused = (statistics.median(ratio) for ratio in ratios)
        spread = "; ".join(f"{min(ratio):.1f} to {max(ratio):.1f}" for ratio in ratios)
        console.print(f"{name} at ({case.row}, {case.row}): {spread}")
        own = statistics.median(taken[0] for taken in times)
        numbers = [f"{own:.3f}", *(f"{ratio:.1f}" for ratio in (captum, plain, fused, arms.work))]
        table.add_row(name, *numbers, f"{fused / arms.work:.2f}", f"{arms.difference():.1e}")
    console.print(f"torch {torch.__version__}, {torch.get_num_threads()} thread", table, sep="\n")


if __name__ == "__main__":
    main()
