"""How fast training is beside its peers, as ratios of speeds; above 1 ours is the faster.

    python benchmarks/train.py                  # everything, on the built-in scenes
    python benchmarks/train.py --data PATH      # on CamVid at half size
    python benchmarks/train.py --only step,data --pairs 9

Arms alternate (A B B A) and each ratio is the median over pairs, so a machine that drifts does not decide. The parts:

step   our step against a plain PyTorch loop on the same network, batches and optimiser
data   our step on real samples, read and augmented on the way, against the same step on tensors that are there already
ray    our loop on two workers of Ray Train against the same loop under plain DistributedDataParallel, after epoch 1
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import torch
from torch import distributed, nn
from torch.multiprocessing.spawn import spawn
from torch.nn import functional

from fcn_core.checkpoint import RunFolder
from fcn_core.compute import decide, make_deterministic
from fcn_core.data.audit import Audit, audit
from fcn_core.data.base import Dataset
from fcn_core.data.batches import Batch, LoaderSettings, Order, training_batches
from fcn_core.data.catalogue import open_dataset
from fcn_core.experiments import camvid_half, streets
from fcn_core.fit import Keep, fit
from fcn_core.losses import SegmentationLoss
from fcn_core.models.fcn import FCN
from fcn_core.models.preprocessing import mean_colour, preprocess
from fcn_core.runtime import DistributedRuntime, LocalRuntime
from fcn_core.settings import VOID, Run, override
from fcn_core.training import Training
from jobs._cli import Job, Launch
from jobs._console import Console
from jobs._ray import KEEP_MEMORY
from jobs._train import run_job

Arm = Callable[[], float]
"""Runs once and returns images per second."""


def main() -> None:
    """Print the ratios."""
    as_workers = {"OMP_NUM_THREADS": "1"} | KEEP_MEMORY
    if not as_workers.items() <= os.environ.items():
        # Both arms as the job's workers run; a process reads these when it starts.
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | as_workers)  # noqa: S606
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder of CamVid")
    parser.add_argument("--only", default="step,data,ray", help="parts, separated by commas")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="steps of an arm of the parts step and data")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    run = streets() if options.data is None else override(camvid_half(), {"data.path": options.data})
    run = override(run, {"optim.learning_rate": 1e-4})
    arms = {
        "step": lambda: step_arms(run, options.device, options.steps),
        "data": lambda: data_arms(run, options.device, options.steps),
        "ray": lambda: ray_arms(run),
    }
    print(f"{run.name} on {options.device}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for part in options.only.split(","):
        ours, theirs = arms[part]()
        ratios, speeds = compare(ours, theirs, options.pairs)
        print(
            json.dumps(
                {"part": part, "ratio": round(statistics.median(ratios), 4), "ratios": ratios, "images_per_s": speeds}
            )
        )


def compare(ours: Arm, theirs: Arm, pairs: int) -> tuple[list[float], list[float]]:
    """Return the ratio of speeds of each pair, and the median speed of each arm; the first round does not count."""
    ours()
    theirs()
    speeds: list[tuple[float, float]] = []
    for pair in range(pairs):
        if pair % 2:
            other, own = theirs(), ours()
        else:
            own, other = ours(), theirs()
        speeds.append((own, other))
    return [round(own / other, 4) for own, other in speeds], [
        round(statistics.median(arm), 2) for arm in zip(*speeds, strict=True)
    ]


def step_arms(run: Run, device: str, steps: int) -> tuple[Arm, Arm]:
    """Our step, and that of a plain loop, over the same batches kept in memory."""
    batches = list(real_batches(run, device, 4))
    training = make_training(run, device)
    make_deterministic(run.compute, run.seed)
    network = FCN(run.model, len(dataset_of(run).classes)).to(device)
    return (
        timed(lambda i: training.take_step(batches[i % 4]), run, device, steps),
        timed(plain_step(run, network, batches), run, device, steps),
    )


def plain_step(run: Run, network: nn.Module, batches: list[list[Batch]]) -> Callable[[int], None]:
    """Return what a person would write without a library: no checks, no exact normalisation, no repeatable dropout."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=run.optim.learning_rate, fused=True)
    network.train()
    device = next(network.parameters()).device
    numerics = decide(run.compute, device)
    network.to(memory_format=numerics.memory_format)
    wrapped = torch.compile(network) if numerics.compile else network

    def step(index: int) -> None:
        batch = batches[index % len(batches)][0]
        images = preprocess(batch.images.to(device), run.model.preprocessing).contiguous(
            memory_format=numerics.memory_format
        )
        with numerics.autocast():
            scores = wrapped(images)
        loss = functional.cross_entropy(scores.float(), batch.masks.to(device).long(), ignore_index=VOID)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def data_arms(run: Run, device: str, steps: int) -> tuple[Arm, Arm]:
    """Our step on samples as they come from the data set, and on one batch that is there already."""
    training = make_training(run, device)
    stream = real_batches(run, device, 10**6)
    kept = next(stream)
    return (
        timed(lambda _: training.take_step(next(stream)), run, device, steps),
        timed(lambda _: training.take_step(kept), run, device, steps),
    )


def ray_arms(run: Run) -> tuple[Arm, Arm]:
    """Our loop on two workers of Ray Train, and on two processes of torch.distributed."""
    run = override(run, {"optim.epochs": 4})
    audited = audit(dataset_of(run), open_dataset(run.data, run.data.val_split), "fail")
    return lambda: under_ray(run), lambda: under_ddp(run, audited)


def under_ray(run: Run) -> float:
    """Train with the job and return its speed after the first epoch."""
    with tempfile.TemporaryDirectory() as folder, Console() as console:
        return speed(run_job(Job(run, Launch(workers=2, storage=folder), False), console)[0])


def under_ddp(run: Run, audited: Audit) -> float:
    """Train in two processes and return their speed after the first epoch."""
    with tempfile.TemporaryDirectory() as folder:
        spawn(_ddp_worker, args=(run, audited, folder), nprocs=2)
        return speed(f"{folder}/run")


def speed(url: str) -> float:
    """Return the images per second of a run after its first epoch, from the times of its epochs."""
    epochs = RunFolder(url).read_epochs()[1:]
    return statistics.median(epoch.images_per_s for epoch in epochs)


def _ddp_worker(rank: int, run: Run, audited: Audit, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    fit(run, f"{folder}/run", audited, DistributedRuntime("cpu", rank, 2), loader=LoaderSettings(), keep=Keep())
    distributed.destroy_process_group()


def timed(step: Callable[[int], None], run: Run, device: str, steps: int) -> Arm:
    """Return an arm that takes `steps` steps."""

    def arm() -> float:
        start = time.perf_counter()
        for index in range(steps):
            step(index)
        if device != "cpu":
            torch.cuda.synchronize()
        return steps * run.optim.batch_size / (time.perf_counter() - start)

    return arm


def make_training(run: Run, device: str) -> Training:
    """Return our training of a run, at its start."""
    make_deterministic(run.compute, run.seed)
    num_classes = len(dataset_of(run).classes)
    numerics = decide(run.compute, torch.device(device))
    network = FCN(run.model, num_classes).to(device).to(memory_format=numerics.memory_format)
    loss = SegmentationLoss(run.loss, torch.ones(num_classes, device=device), run.optim.batch_size)
    return Training(run, network, loss, LocalRuntime(device), numerics, steps_per_epoch=10**6)


def real_batches(run: Run, device: str, steps: int) -> Iterator[list[Batch]]:
    """Return the run's own batches."""
    dataset = dataset_of(run)
    order = Order(run.seed, len(dataset.names), run.optim.batch_size, run.optim.accumulate)
    loader = LoaderSettings(pin_memory=device != "cpu")
    return training_batches(dataset, run.data, order, range(steps), mean_colour(run.model.preprocessing), loader)


def dataset_of(run: Run) -> Dataset:
    """Return the training set."""
    return open_dataset(run.data, run.data.train_split)


if __name__ == "__main__":
    main()
