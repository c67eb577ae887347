"""Workers that share out the images of a data set."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from fcn_core.compute import make_deterministic
from fcn_core.data.catalogue import open_split
from fcn_core.evaluation import Part, evaluate
from fcn_core.predict import Inference, Predictor
from fcn_core.settings import Compute, Data
from jobs._cli import Resources
from jobs._console import Console
from jobs._ray import KEEP_MEMORY, causes, cluster, environment_variables, resources_per_worker

MOST_AT_ONCE = 16
"""Images that a worker is given at once."""
ATTEMPTS = 3
REMEDY = "give --tile, such as --tile 512"


class Images(NamedTuple):
    """What is evaluated, such that each worker can open it."""

    data: Data
    split: str
    indexes: Sequence[int]
    """In the split."""


class Worker:
    """An actor with a network of its own. What it returns depends on the image alone, so any worker may do it again."""

    def __init__(self, checkpoint: str, data: Data, split: str, inference: Inference, threads: int) -> None:
        import ray

        # Sums in a convolution may depend on the number of threads: every worker has the same, however many there are.
        torch.set_num_threads(threads)
        make_deterministic(Compute(), seed=0)
        self.predictor = Predictor.load(checkpoint, "cuda" if ray.get_gpu_ids() else "cpu")
        self.dataset = open_split(data, split)
        self.inference = inference

    def evaluate(self, indexes: Sequence[int]) -> Part:
        """Evaluate some images."""
        return evaluate(self.predictor, self.dataset, indexes, self.inference)

    def labels(self, index: int) -> NDArray[np.uint8]:
        """Return the predicted labels (H, W) of an image."""
        found: NDArray[np.uint8] = self.predictor.labels(self.dataset.read(index).image, self.inference).cpu().numpy()
        return found


class Team:
    """The workers of an evaluation."""

    def __init__(self, actors: Sequence[Any], indexes: Sequence[int]) -> None:
        self._actors = list(actors)
        self._indexes = indexes

    def evaluate(self, console: Console) -> Iterator[Part]:
        """Evaluate every image once, and yield parts as they are done.

        Raises:
            ValueError: an image cannot be read.
            RunFailedError: workers were lost too often, or are out of memory.
        """
        from ray.util import ActorPool

        num_images = len(self._indexes)
        size = min(MOST_AT_ONCE, -(-num_images // (4 * len(self._actors))))
        chunks = [self._indexes[start : start + size] for start in range(0, num_images, size)]
        pool, done = ActorPool(self._actors), 0
        with causes(REMEDY):
            for part in pool.map_unordered(lambda actor, chunk: actor.evaluate.remote(chunk), chunks):
                done += len(part.images)
                console.count("evaluating, image", done, num_images)
                yield part
        console.done()

    def labels(self, places: Sequence[int]) -> list[NDArray[np.uint8]]:
        """Return the predicted labels of the images at some places among those evaluated."""
        import ray

        actors = cycle(self._actors)
        with causes(REMEDY):
            return list(ray.get([next(actors).labels.remote(self._indexes[place]) for place in places]))


Start = Callable[[Resources, str, Images, Inference, Console], AbstractContextManager[Team]]
"""How workers are started: `team`, or without Ray in tests."""


@contextmanager
def team(
    resources: Resources, checkpoint: str, images: Images, inference: Inference, console: Console
) -> Iterator[Team]:
    """Start workers on the Ray cluster that is there or made, and end them with the block."""
    with cluster(resources):
        import ray

        asked = resources_per_worker(resources, console.say)
        actor = ray.remote(Worker).options(
            num_cpus=asked["CPU"],
            num_gpus=asked.get("GPU", 0),
            max_restarts=ATTEMPTS,
            max_task_retries=ATTEMPTS,
            runtime_env={"env_vars": environment_variables() | KEEP_MEMORY},
        )
        settings = (checkpoint, images.data, images.split, inference, resources.cpus_per_worker)
        actors = [actor.remote(*settings) for _ in range(resources.workers)]
        try:
            yield Team(actors, images.indexes)
        finally:
            for one in actors:
                ray.kill(one)
