"""What each worker does: seed, data, network, optimiser, restore, train.

Call `fit` with a `LocalRuntime` to train without a cluster.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from fcn_core import checkpoint, storage
from fcn_core.checkpoint import Card, Epoch, Restored, RunFolder
from fcn_core.compute import decide, make_deterministic
from fcn_core.data.audit import Audit, class_weights
from fcn_core.data.base import Subset
from fcn_core.data.batches import LoaderSettings, Order, preloaded, training_batches
from fcn_core.data.catalogue import open_train_val
from fcn_core.loop import train
from fcn_core.losses import SegmentationLoss
from fcn_core.models import weights
from fcn_core.models.fcn import FCN
from fcn_core.models.preprocessing import mean_colour
from fcn_core.saving import Saver, together
from fcn_core.settings import Classes, Model, Run
from fcn_core.training import Runtime, Training


class Keep(NamedTuple):
    """Which checkpoints are made and kept; it changes no number."""

    last: int = 2
    """Newest checkpoints kept, beside the best."""
    every_steps: int | None = None
    """Save within epochs too, after so many steps."""


def fit(run: Run, url: str, audit: Audit, runtime: Runtime, *, loader: LoaderSettings, keep: Keep) -> None:
    """Train a run in its folder at `url` to the end, from its newest whole checkpoint or from the start.

    Raises:
        ValueError: the settings do not fit the data, the weights or the number of workers.
        NonFiniteLossError: the loss diverged.
        PreemptedError: a worker had notice to leave; the same call goes on from there.
        OSError: the storage failed for good; a `storage.RefusedError` on every worker.
    """
    make_deterministic(run.compute, run.seed)
    folder = RunFolder(url)
    train_set, val_set = together(runtime, lambda: open_train_val(run.data))
    train_set, val_set = Subset(train_set, audit.train.kept), Subset(val_set, audit.val.kept)
    order = Order(
        run.seed, len(train_set.names), run.optim.batch_size, run.optim.accumulate, runtime.rank, runtime.workers
    )
    order.check()
    restored = _restored(folder, run.run_id, runtime)
    training = _training(run, train_set.classes, audit, runtime, order, fresh=restored is None)
    if restored is not None:
        training.restore(restored)
        together(runtime, lambda: _write_missing(folder, training.epochs) if runtime.rank == 0 else None)
    elif run.optim.continue_from is not None:
        _continue(training, run.optim.continue_from, runtime)
    if training.step == training.last_step and not training.unscored:
        return
    runtime.begin(training.step)
    # Every worker its part, every sample once: a DistributedSampler would repeat some to make the parts equal.
    val_share = Subset(val_set, range(runtime.rank, len(val_set.names), runtime.workers))
    steps = range(training.step, training.last_step)
    fill = mean_colour(run.model.preprocessing)
    # Both read ahead what memory holds: a storage that is away then holds up no step.
    batches = together(runtime, lambda: training_batches(train_set, run.data, order, steps, fill, loader))
    val = together(runtime, lambda: preloaded(val_share, loader.memory_gib))
    with Saver(folder, train_set.classes, keep.last, runtime) as save:
        train(training, batches, val, save, keep.every_steps)


def build_network(run: Run, classes: Classes, *, fresh: bool) -> FCN:
    """Return the network of a run, with its starting weights if it is `fresh`; all else is a function of the seed."""
    network = FCN(run.model, len(classes))
    if fresh and run.model.weights is not None:
        weights.load_classifier(network, run.model.weights, run.model.trunk)
    if fresh and run.model.start_from is not None:
        source = run.model.start_from
        found, card = checkpoint.load_weights(source)
        for what, theirs, ours in (
            ("model.preprocessing", card.model.preprocessing, run.model.preprocessing),
            ("model.geometry", card.model.geometry, run.model.geometry),
            ("the classes", card.classes.names, classes.names),
        ):
            if theirs != ours:
                raise ValueError(f"model.start_from {source}: {what} there are {theirs}, here {ours}; make them agree")
        weights.start_from(network, found, source)
    return network


def _continue(training: Training, source: str, runtime: Runtime) -> None:
    """Take over the whole state of another run; its newest checkpoint, if `source` is a run."""

    def read() -> tuple[Restored, Card]:
        is_checkpoint = storage.exists(storage.join(source, storage.MANIFEST))
        return checkpoint.read(source if is_checkpoint else RunFolder(source).newest())

    restored, card = together(runtime, read)
    try:
        _check_shape(card.model, training.run.model)
        training.continue_from(restored)
    except ValueError as error:
        raise ValueError(f"optim.continue_from {source}: {error}") from error


def _check_shape(theirs: Model, ours: Model) -> None:
    """Refuse a network whose training cannot go on in ours."""
    there, here = (model.model_dump(exclude={"dropout", "weights", "start_from"}) for model in (theirs, ours))
    different = [f"model.{name}" for name in there if there[name] != here[name]]
    if different:
        raise ValueError(f"another network was trained there: make {', '.join(different)} agree")


def _training(run: Run, classes: Classes, audit: Audit, runtime: Runtime, order: Order, *, fresh: bool) -> Training:
    numerics = decide(run.compute, runtime.device)
    # Starting weights may lie on a storage.
    network = together(runtime, lambda: build_network(run, classes, fresh=fresh))
    network = network.to(runtime.device).to(memory_format=numerics.memory_format)
    balance = torch.tensor(class_weights(audit.train, run.loss.class_weights), device=runtime.device)
    loss = SegmentationLoss(run.loss, balance, run.optim.batch_size)
    return Training(run, network, loss, runtime, numerics, order.steps_per_epoch)


def _restored(folder: RunFolder, run_id: str, runtime: Runtime) -> Restored | None:
    """Return the checkpoint that the first worker found newest, on every worker the same."""
    first = runtime.rank == 0
    found = together(runtime, lambda: folder.latest(run_id, runtime.say) if first else None)
    shared = torch.tensor(found.step + 1 if found else 0, device=runtime.device)
    step = int(runtime.sum_over_workers(shared)) - 1
    return together(runtime, lambda: found if first or step < 0 else folder.read(step))


def _write_missing(folder: RunFolder, epochs: Sequence[Epoch]) -> None:
    """Write what a crash between a checkpoint and its line left out, or what was damaged since."""
    if folder.known_epochs() != epochs:
        folder.write_epochs(epochs)
