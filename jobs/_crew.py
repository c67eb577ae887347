"""Tasks whose results are parts on the storage: made once, by whichever worker, and never again."""

import hashlib
import io
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, Self
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray

from fcn_core import storage
from fcn_core.compute import make_deterministic
from fcn_core.settings import Compute
from jobs._cli import Resources
from jobs._console import Console
from jobs._ray import causes, cluster, resources_per_worker
from jobs._tasks import as_done, task_options

Arrays = dict[str, NDArray[Any]]


class Shared(Protocol):
    """What all tasks of a job use, on a device of its own."""

    def on(self, device: str) -> Self:
        """Return the same on a device."""
        ...


class Task(NamedTuple):
    """A pure function of what is shared and its arguments, whose result is a part."""

    key: str
    """Name of the part: of what decides it, and of nothing else."""
    function: Callable[..., Arrays]
    arguments: tuple[Any, ...]


class Parts(NamedTuple):
    """Arrays by key, in a folder of any storage."""

    url: str

    def keys(self) -> set[str]:
        """Return the keys of all parts that are there."""
        return {name.removesuffix(".npz") for name in storage.list_folder(self.url)}

    def read(self, key: str) -> Arrays | None:
        """Return a part; None where it is not there or damaged."""
        try:
            with np.load(io.BytesIO(storage.read_bytes(self._place(key))), allow_pickle=False) as arrays:
                return dict(arrays)
        except (FileNotFoundError, BadZipFile, zlib.error, ValueError, EOFError, KeyError):
            return None

    def write(self, key: str, arrays: Arrays) -> None:
        """Store a part in one step."""
        contents = io.BytesIO()
        np.savez_compressed(contents, allow_pickle=False, **arrays)
        storage.write_bytes(self._place(key), contents.getvalue())

    def _place(self, key: str) -> str:
        return storage.join(self.url, f"{key}.npz")


def key_of(kind: str, *facts: Any) -> str:  # noqa: ANN401
    """Return a key of the facts that decide a part, which JSON can express."""
    text = json.dumps([*facts, torch.__version__], sort_keys=True, default=lambda value: value.model_dump(mode="json"))
    return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:32]}"


class Crew:
    """Carries tasks out in this process, one after the other."""

    def __init__(self, parts: Parts, shared: Shared, console: Console) -> None:
        self.parts = parts
        self._shared = shared
        self._console = console

    def carry_out(self, what: str, tasks: Sequence[Task]) -> Iterator[tuple[Task, Arrays]]:
        """Yield each task with its part: first those that were there before, then the others as they are done.

        Raises:
            ValueError: whatever a task raises.
            RunFailedError: workers were lost too often, or are out of memory.
        """
        there, missing, done = self.parts.keys(), [], 0
        for task in tasks:
            part = self.parts.read(task.key) if task.key in there else None
            if part is None:
                missing.append(task)
                continue
            done += 1
            yield task, part
        if done:
            self._console.say(f"{what}: {done} of {len(tasks)} are there from before")
        for task, part in self._made(missing):
            done += 1
            self._console.count(what, done, len(tasks))
            yield task, part
        self._console.done()

    def _made(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, Arrays]]:
        for task in tasks:
            yield task, _make(self._shared, task, self.parts)


class RayCrew(Crew):
    """Carries tasks out on a Ray cluster, as many at once as there are workers."""

    def __init__(self, parts: Parts, shared: Shared, console: Console, resources: Resources) -> None:
        super().__init__(parts, shared, console)
        self._resources = resources
        self._stack = ExitStack()
        self._remote: Callable[[Task], Any] | None = None
        self._asked: dict[str, float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _made(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, Arrays]]:
        if not tasks:
            return
        # Only now: what is all there needs no cluster.
        start = self._remote = self._remote or self._started()
        with causes("lower --occlusion.batch_size, --removal.batch_size or --size"):
            for task, part in as_done(start, tasks, self._resources, self._asked, self._console.say):
                # What Ray hands out cannot be written to, of which torch would warn.
                yield task, {name: np.array(values) for name, values in part.items()}

    def _started(self) -> Callable[[Task], Any]:
        self._stack.enter_context(cluster(self._resources))
        import ray

        self._asked = resources_per_worker(self._resources, self._console.say)
        task = ray.remote(_work).options(**task_options(self._asked))
        # In a list: each process fetches it once, not each task.
        shared = [ray.put(self._shared)]
        return lambda one: task.remote(shared, one, self.parts, self._resources.cpus_per_worker)


Start = Callable[[Parts, Shared, Console, Resources], Any]
"""How a crew is started: `crew`, or without Ray in tests."""


@contextmanager
def crew(parts: Parts, shared: Shared, console: Console, resources: Resources) -> Iterator[Crew]:
    """Give a crew that starts or joins a Ray cluster once there is something to do, and leaves it with the block."""
    with RayCrew(parts, shared, console, resources) as found:
        yield found


def _make(shared: Shared, task: Task, parts: Parts) -> Arrays:
    """Carry out a task; done twice, after the loss of a worker, it writes the same."""
    part = task.function(shared, *task.arguments)
    parts.write(task.key, part)
    return part


def _work(shared: Sequence[Any], task: Task, parts: Parts, threads: int) -> Arrays:
    """Carry out a task in a worker."""
    # Sums in a convolution may depend on the number of threads: every worker has the same, however many there are.
    torch.set_num_threads(threads)
    make_deterministic(Compute(precision="fp32"), seed=0)
    return _make(_fetched(shared[0]), task, parts)


@lru_cache(maxsize=1)
def _fetched(reference: Any) -> Any:  # noqa: ANN401
    import ray

    return ray.get(reference).on("cuda" if ray.get_gpu_ids() else "cpu")
