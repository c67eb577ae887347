"""Publishing checkpoints while training goes on.

On a storage that is not a local folder a save takes a copy of the state into host memory, and a thread of the first
worker does the rest: files, manifest, COMMIT, then epochs.jsonl and pruning. The next save waits for the one before,
the end of a run for the last.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

import torch
from torch import Tensor

from fcn_core import storage
from fcn_core.checkpoint import Card, Epoch, RunFolder, best_epoch
from fcn_core.settings import Classes
from fcn_core.training import PreemptedError, Runtime, Training

BEAT_S = 1.0
"""How often workers that wait for a storage meet, so that none of them takes another for lost."""
_WAITING, _REFUSED = 1, 2**20
_Found = TypeVar("_Found")


class _Begun(NamedTuple):
    published: "Future[None]"
    """On the first worker; on the others it is done."""
    url: str
    finished: Epoch | None


class Saver:
    """Publishes checkpoints of a run, one at a time and in order; all workers call it alike.

    Leaving it as a context waits for what was begun.

    Args:
        folder: of the run.
        classes: of the data.
        keep_last: newest checkpoints kept, beside the best.
        runtime: the cluster.
    """

    def __init__(self, folder: RunFolder, classes: Classes, keep_last: int, runtime: Runtime) -> None:
        self._folder = folder
        self._classes = classes
        self._keep_last = keep_last
        self._runtime = runtime
        # A local folder is written as fast as a copy could be.
        self._wait = storage.is_local(folder.url)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="save")
        self._begun: _Begun | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            if error is None or isinstance(error, PreemptedError):
                self._end()
        finally:
            # What was begun before the training failed is good.
            self._thread.shutdown()

    def __call__(self, training: Training, finished: Epoch | None = None) -> None:
        """Begin to publish a checkpoint, after the one before.

        Args:
            training: it may go on at once.
            finished: the epoch that ends with it; the runtime is told when the checkpoint is published.

        Raises:
            OSError: the checkpoint before could not be published.
        """
        self._end()
        self._begun = _Begun(self._begin(training), self._folder.checkpoint(training.step), finished)
        if self._wait:
            self._end()

    def look(self) -> None:
        """Take note of a checkpoint that has been published; all workers find the same.

        Raises:
            OSError: it could not be.
        """
        if self._begun is not None and not _waiting(self._runtime, self._begun.published):
            self._finish(self._begun)

    def _end(self) -> None:
        if self._begun is not None:
            _settle(self._runtime, self._begun.published)
            self._finish(self._begun)

    def _finish(self, begun: _Begun) -> None:
        """Take note of what has ended. No worker meets the others here: those who heard of a refusal have left."""
        self._begun = None
        begun.published.result()
        if begun.finished is not None:
            self._runtime.finish_epoch(begun.finished, begun.url)

    def _begin(self, training: Training) -> "Future[None]":
        if self._runtime.rank != 0:
            done: Future[None] = Future()
            done.set_result(None)
            return done
        weights, state = training.state()
        if not self._wait:
            weights, state = snapshot(weights), snapshot(state)
        return self._thread.submit(self._publish, self._card(training), weights, state, tuple(training.epochs))

    def _card(self, training: Training) -> Card:
        run = training.run
        scored = training.epochs[-1] if training.epochs and training.epochs[-1].step == training.step else None
        return Card(
            model=run.model,
            classes=self._classes,
            scale=run.data.scale,
            bf16=training.numerics.bf16,
            run_id=run.run_id,
            step=training.step,
            epoch=training.step // training.steps_per_epoch,
            mean_iou=scored.scores.mean_iou if scored else None,
        )

    def _publish(self, card: Card, weights: dict[str, Tensor], state: dict[str, Any], epochs: Sequence[Epoch]) -> None:
        self._folder.save(card, weights, state)
        self._folder.write_epochs(epochs)
        best = best_epoch(epochs)
        # One that is not scored yet will be published again; until that is whole, the one before is what a kill leaves.
        keep = self._keep_last + bool(state["unscored"])
        self._folder.prune(card.step, keep, best.step if best else None)


def together(runtime: Runtime, work: Callable[[], _Found]) -> _Found:
    """Do what takes a storage on every worker, wait for all of them, and return what this one found.

    However long it takes, no worker waits longer than a beat for the others: what limits that finds a lost worker, and
    need not be as long as an outage.

    Raises:
        RefusedError: the storage refuses what a worker asked for, this one or another.
    """
    with ThreadPoolExecutor(1) as thread:
        begun = thread.submit(work)
        _settle(runtime, begun)
        return begun.result()


def snapshot(state: Any) -> Any:  # noqa: ANN401 -- as `torch.save` takes it.
    """Return a copy of nested dictionaries, lists and tuples whose tensors are in host memory."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {name: snapshot(value) for name, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(map(snapshot, state))
    return state


def _settle(runtime: Runtime, work: "Future[Any]") -> None:
    while _waiting(runtime, work):
        wait([work], timeout=BEAT_S)


def _waiting(runtime: Runtime, work: "Future[Any]") -> bool:
    """Tell whether any worker still waits; all workers find the same."""
    mine = 0
    if not work.done():
        mine = _WAITING
    elif isinstance(work.exception(), storage.RefusedError):
        mine = _REFUSED
    total = int(runtime.sum_over_workers(torch.tensor(mine, device=runtime.device)))
    if total >= _REFUSED and mine != _REFUSED:
        raise storage.RefusedError("the storage refuses what another worker asked for")
    return 0 < total < _REFUSED
