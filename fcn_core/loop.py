"""The training loop."""

import time
from collections.abc import Iterator
from typing import Protocol

import torch

from fcn_core.checkpoint import Epoch
from fcn_core.data.base import Dataset
from fcn_core.data.batches import Batch
from fcn_core.metrics.confusion import confusion
from fcn_core.metrics.rules import Scores, scores
from fcn_core.predict import Predictor
from fcn_core.training import PreemptedError, Progress, Training

HEED_EVERY_IMAGES = 8
"""Validation asks so often whether a worker must leave."""


class Save(Protocol):
    """Publishes checkpoints; every worker calls it, at the same steps."""

    def __call__(self, training: Training, finished: Epoch | None = None) -> None:
        """Begin to publish the state, and tell the runtime of the epoch that it finishes once it is published."""
        ...

    def look(self) -> None:
        """Take note of what has been published or failed since; returns at once."""
        ...


def train(
    training: Training, batches: Iterator[list[Batch]], val: Dataset, save: Save, save_every: int | None = None
) -> None:
    """Train to the end of the run, from wherever `training` stands.

    Args:
        training: changed in place.
        batches: this worker's batches of each step from `training.step` on.
        val: this worker's share of the validation set, scored after each epoch.
        save: publishes checkpoints.
        save_every: save also within an epoch, after so many steps.

    Raises:
        NonFiniteLossError: the loss diverged; what was saved before is good.
        PreemptedError: a worker had notice to leave; where training stands is saved.
    """
    try:
        while training.step < training.last_step or training.unscored:
            start, steps = time.perf_counter(), 0
            if not training.unscored:
                steps = _train_epoch(training, batches, save, save_every)
            trained = time.perf_counter()
            result = validate(training, val)
            epoch = Epoch(
                epoch=training.step // training.steps_per_epoch,
                step=training.step,
                train_loss=float(training.losses.mean()),
                learning_rate=training.learning_rate,
                scores=result,
                images_per_s=steps * training.run.optim.batch_size / (trained - start),
                seconds=time.perf_counter() - start,
            )
            training.epochs.append(epoch)
            training.losses.zero_()
            training.unscored = False
            save(training, epoch)
    except PreemptedError:
        save(training)
        raise


def validate(training: Training, share: Dataset) -> Scores:
    """Score the weights that would be saved on the shares of all workers, each image alone and at its own size.

    Raises:
        PreemptedError: a worker had notice to leave.
    """
    runtime, run = training.runtime, training.run
    num_classes = len(share.classes)
    total = torch.zeros(num_classes + 1, num_classes, dtype=torch.int64, device=runtime.device)
    predictor = Predictor(training.network, share.classes, run.model, run.data.scale, training.numerics)
    # Shares differ by a sample at most.
    all_samples = int(runtime.sum_over_workers(torch.tensor(len(share.names), device=runtime.device)))
    if training.average is not None:
        training.average.swap()
    try:
        for index in range(-(-all_samples // runtime.workers)):
            if index % HEED_EVERY_IMAGES == 0:
                notice = torch.tensor(runtime.has_notice(), dtype=torch.int64, device=runtime.device)
                training.heed(runtime.sum_over_workers(notice))
            if index < len(share.names):
                sample = share.read(index)
                truth = torch.from_numpy(sample.mask).to(runtime.device)
                total += confusion(predictor.labels(sample.image)[None], truth[None], num_classes)[0]
    finally:
        if training.average is not None:
            training.average.swap()
    return scores(runtime.sum_over_workers(total).cpu())


def _train_epoch(training: Training, batches: Iterator[list[Batch]], save: Save, save_every: int | None) -> int:
    """Train to the end of the epoch and return the number of steps taken."""
    first, runtime = training.step, training.runtime
    end = (first // training.steps_per_epoch + 1) * training.steps_per_epoch
    # Looking at the loss makes the host wait for the device; on the CPU it has waited already.
    look_every = 20 if runtime.device.type == "cuda" else 1
    start = time.perf_counter()
    while training.step < end:
        training.take_step(next(batches))
        if training.step % look_every == 0 or training.step == end:
            training.check()
            save.look()
            training.unscored = training.step == end
            runtime.show(_progress(training, (training.step - first) / (time.perf_counter() - start)))
            training.heed(training.notices)
        if save_every and training.step % save_every == 0 and training.step < end:
            training.check()
            save(training)
    return training.step - first


def _progress(training: Training, steps_per_s: float) -> Progress:
    last = (training.step - 1) % training.steps_per_epoch
    return Progress(
        epoch=(training.step - 1) // training.steps_per_epoch + 1,
        epochs=training.run.optim.last_epoch,
        step=training.step,
        steps=training.last_step,
        loss=float(training.losses[last]),
        images_per_s=steps_per_s * training.run.optim.batch_size,
    )
