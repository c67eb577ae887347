"""Workers that share out the images of a data set."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from fcn_core.compute import make_deterministic
from fcn_core.data.base import Dataset
from fcn_core.data.catalogue import open_split
from fcn_core.evaluation import Part, evaluate
from fcn_core.predict import Inference, Predictor
from fcn_core.settings import Compute, Data
from jobs._cli import Resources
from jobs._console import Console
from jobs._ray import causes, cluster, resources_per_worker
from jobs._tasks import as_done, task_options

MOST_AT_ONCE = 16
"""Images that a worker is given at once."""
REMEDY = "give --tile, such as --tile 512"


CarryOut = Callable[[Callable[..., Any], Sequence[Any]], Iterator[tuple[Any, Any]]]


class Images(NamedTuple):
    """What is evaluated, such that each worker can open it."""

    data: Data
    split: str
    indexes: Sequence[int]
    """In the split."""


class Work(NamedTuple):
    """What all tasks of an evaluation have in common."""

    checkpoint: str
    data: Data
    split: str
    inference: Inference
    threads: int

    def open(self) -> tuple[Predictor, Dataset]:
        """Return network and images, which a process loads once."""
        # Sums in a convolution may depend on the number of threads: every worker has the same, however many there are.
        torch.set_num_threads(self.threads)
        make_deterministic(Compute(), seed=0)
        return _opened(self.checkpoint, self.data, self.split)


def evaluate_images(work: Work, indexes: Sequence[int]) -> Part:
    """Evaluate some images; that depends on the images alone, so that any worker may do it again."""
    return evaluate(*work.open(), indexes, work.inference)


def predict_labels(work: Work, index: int) -> NDArray[np.uint8]:
    """Return the predicted labels (H, W) of an image."""
    predictor, dataset = work.open()
    found: NDArray[np.uint8] = predictor.labels(dataset.read(index).image, work.inference).cpu().numpy()
    return found


@lru_cache(maxsize=1)
def _opened(checkpoint: str, data: Data, split: str) -> tuple[Predictor, Dataset]:
    import ray

    return Predictor.load(checkpoint, "cuda" if ray.get_gpu_ids() else "cpu"), open_split(data, split)


class Team:
    """The workers of an evaluation.

    Args:
        carry_out: does a function of `Work` and one argument for each argument, and yields arguments with results as
            they are done.
        indexes: of the images, in the split.
        workers: how many there are.
    """

    def __init__(self, carry_out: CarryOut, indexes: Sequence[int], workers: int) -> None:
        self._carry_out = carry_out
        self._indexes = indexes
        self._workers = workers

    def evaluate(self, console: Console) -> Iterator[Part]:
        """Evaluate every image once, and yield parts as they are done.

        Raises:
            ValueError: an image cannot be read.
            RunFailedError: workers were lost too often, or are out of memory.
        """
        num_images, done = len(self._indexes), 0
        size = min(MOST_AT_ONCE, -(-num_images // (4 * self._workers)))
        chunks = [tuple(self._indexes[start : start + size]) for start in range(0, num_images, size)]
        with causes(REMEDY):
            for _, part in self._carry_out(evaluate_images, chunks):
                done += len(part.images)
                console.count("evaluating, image", done, num_images)
                yield part
        console.done()

    def labels(self, places: Sequence[int]) -> list[NDArray[np.uint8]]:
        """Return the predicted labels of the images at some places among those evaluated."""
        indexes = [self._indexes[place] for place in places]
        with causes(REMEDY):
            found = dict(self._carry_out(predict_labels, indexes))
        return [found[index] for index in indexes]


Start = Callable[[Resources, str, Images, Inference, Console], AbstractContextManager[Team]]
"""How workers are started: `team`, or without Ray in tests."""


@contextmanager
def team(
    resources: Resources, checkpoint: str, images: Images, inference: Inference, console: Console
) -> Iterator[Team]:
    """Give a team on the Ray cluster that is there or made."""
    with cluster(resources):
        import ray

        asked = resources_per_worker(resources, console.say)
        work = Work(checkpoint, images.data, images.split, inference, resources.cpus_per_worker)

        def carry_out(function: Callable[[Work, Any], Any], arguments: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
            task = ray.remote(function).options(**task_options(asked))
            return as_done(lambda argument: task.remote(work, argument), arguments, resources, asked, console.say)

        yield Team(carry_out, images.indexes, resources.workers)
