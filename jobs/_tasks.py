"""Many Ray tasks whose results are the same wherever and however often they are done."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from jobs._cli import Resources, RunFailedError
from jobs._ray import KEEP_MEMORY, environment_variables, room_for

ATTEMPTS = 3
"""How often a task is tried again whose process or node was lost."""
_Argument = TypeVar("_Argument")


def task_options(asked: Mapping[str, float]) -> dict[str, Any]:
    """Return the options of tasks that may be done again, each with the resources of a worker."""
    return {
        "num_cpus": asked["CPU"],
        "num_gpus": asked.get("GPU", 0),
        "max_retries": ATTEMPTS,
        "runtime_env": {"env_vars": environment_variables() | KEEP_MEMORY},
    }


def as_done(
    start: Callable[[_Argument], Any],
    arguments: Sequence[_Argument],
    resources: Resources,
    asked: Mapping[str, float],
    say: Callable[[str], None],
) -> Iterator[tuple[_Argument, Any]]:
    """Start a task for each argument, as many at once as there are workers, and yield results as they come.

    What was under way on a node that was lost is done on those that are left.

    Raises:
        RunFailedError: no node is left, and none has come in its place.
        RayError: whatever a task raises.
    """
    import ray

    waiting, running = deque(arguments), dict[Any, _Argument]()
    while waiting or running:
        while waiting and len(running) < resources.workers:
            argument = waiting.popleft()
            running[start(argument)] = argument
        ready, _ = ray.wait(list(running), timeout=resources.wait_for_nodes_s)
        if ready:
            yield running.pop(ready[0]), ray.get(ready[0])
        elif not room_for(asked):
            raise RunFailedError(
                f"no node is left that holds a worker, and none came in {resources.wait_for_nodes_s} s"
            )
        else:
            others = "it may be that other jobs have the CPUs or GPUs, or that a worker hangs"
            say(f"nothing was done for {resources.wait_for_nodes_s} s, {len(running)} tasks are under way: {others}")
