"""Starting or joining Ray."""

import json
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from fcn_core import storage
from jobs._cli import Resources, RunFailedError, leave_on_sigterm

ROOT = Path(__file__).parents[1]
"""The code that workers need."""

PASSED_ON = ("FCN_CACHE", "FCN_STORAGE_", "RAY_TRAIN_")
"""How the names of environment variables begin that workers need too. Ray writes them to logs and shows them."""

CREDENTIALS = ("AWS_", "GOOGLE_APPLICATION_CREDENTIALS", "MLFLOW_")
"""How those begin that may be secrets: they reach workers, but no log and no page."""

RAY_SETTINGS = {
    # Reports wait for the controller's next look, every 2 s by default.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    # Nodes that are taken away give notice of two minutes, some of half a minute.
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Tune's own tables, which would come between ours.
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    # Tune's own handler of Ctrl-C ends its loop as if all trials were done.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # A trial is several processes, of which one works: more than CPUs are as it should be.
    "RAY_DEDUP_LOGS_SKIP_REGEX": "PYTHON worker processes have been started on node",
}

LOOPBACK_ONLY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Makes Ray take 127.0.0.1 for its address and bind its ports there, as it does by default on a desktop system; an
address that is passed to `ray.init` it turns into that of the network. Ray must not have been imported before."""

JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Where Ray tells the driver of a submitted job how it was submitted."""

STARTS = 4
"""How often a Ray of our own is started until it is given up."""

ANSWER_S = 300.0
"""The longest that a node may take for a task that is nothing; for its first one it fetches our code."""

KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": "8000000000", "MALLOC_MMAP_MAX_": "0"}
"""Lets a worker keep the memory of a step for the next: handed back and fetched again it costs a tenth of its time."""


@contextmanager
def cluster(resources: Resources) -> Iterator[None]:
    """Join the Ray cluster that RAY_ADDRESS names, as in a submitted job; else run a Ray of our own on this machine.

    Within the block of another it does nothing.

    Raises:
        ValueError: the cluster cannot be joined.
    """
    address = os.environ.get("RAY_ADDRESS")
    for name, value in (RAY_SETTINGS | ({} if address else LOOPBACK_ONLY)).items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        yield
        return
    if address:
        # Its dashboard names the runs; a Ray of our own has none.
        os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "1")
    _check_address(address)
    if address:
        _join(address)
    else:
        _start(max(os.cpu_count() or 1, resources.workers * resources.cpus_per_worker))
    # Ray's own handler would leave with 15, or with 1.
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, leave_on_sigterm) if main else None
    try:
        yield
    finally:
        ray.shutdown()
        if main:
            signal.signal(signal.SIGTERM, before)


def _join(address: str) -> None:
    import ray

    environment: dict[str, Any] = {"env_vars": _not_of_the_job(environment_variables())}
    if credentials := _variables(CREDENTIALS):
        # Ray shows of a function its hash only.
        environment |= {"worker_process_setup_hook": lambda: os.environ.update(credentials)}
    if JOB_CONFIG not in os.environ:
        environment |= {"working_dir": str(ROOT)}
    try:
        ray.init(address=address, runtime_env=environment, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, RuntimeError) as error:
        raise ValueError(f"cannot reach the Ray cluster at {address}: {str(error).splitlines()[0]}") from error


def _not_of_the_job(variables: Mapping[str, str]) -> dict[str, str]:
    """Leave out what a job was submitted with: its workers have that anyway, and Ray refuses to be told twice."""
    environment = json.loads(os.environ.get(JOB_CONFIG, "{}")).get("runtime_env") or {}
    known = environment.get("env_vars") or {}
    return {name: value for name, value in variables.items() if name not in known}


def _start(cpus: int) -> None:
    """Start a Ray of our own; it gives itself half a minute, which a busy machine may exceed more than once."""
    import ray

    for tries_left in reversed(range(STARTS)):
        try:
            ray.init("local", num_cpus=cpus, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
        except Exception as error:
            # What Ray raises when it does not start in time has no class of its own.
            if not tries_left:
                raise RunFailedError(f"Ray did not start on this machine: {str(error).splitlines()[0]}") from error
        else:
            return


def _check_address(address: str | None) -> None:
    """Refuse an address where nothing listens: Ray itself would try for many minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise ValueError(f"no Ray cluster answers at RAY_ADDRESS={address}: {error}") from error


def check_reach(url: str) -> None:
    """Refuse a file of this machine that not every node of a joined cluster finds as it is here.

    Workers would write to disks of their own, and what they trained would be found by nobody.

    Raises:
        ValueError: a node does not; the message says which.
        RunFailedError: a node does not answer.
    """
    if "RAY_ADDRESS" not in os.environ or not storage.is_local(url):
        return
    contents = Path(url).read_bytes()
    if blind := [node for node, found in _on_each_node(url).items() if found != contents]:
        remedy = "give --storage s3://bucket/lab, or a folder that all nodes mount"
        raise ValueError(f"{Path(url).parent} is not the same folder on node {', '.join(blind)} as here: {remedy}")


def _on_each_node(path: str) -> dict[str, bytes | None]:
    """Return what each node that lives finds in a file, by its address; None where there is none."""
    import ray
    from ray.exceptions import GetTimeoutError, NodeDiedError, TaskUnschedulableError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def look() -> bytes | None:
        # Sent as it stands, it makes no node load our packages, which takes seconds.
        return Path(path).read_bytes() if Path(path).exists() else None

    task = ray.remote(look)
    asked = {}
    for node in ray.nodes():
        if node["Alive"]:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            address = node["NodeManagerAddress"]
            asked[f"{address} ({node['NodeID'][:8]})"] = task.options(num_cpus=0, scheduling_strategy=there).remote()
    found = {}
    for node, answer in asked.items():
        try:
            found[node] = ray.get(answer, timeout=ANSWER_S)
        except (NodeDiedError, TaskUnschedulableError):
            # Lost in the meantime, it is no place for a worker.
            continue
        except GetTimeoutError as error:
            raise RunFailedError(f"node {node} has not answered for {ANSWER_S:.0f} s") from error
    return found


def environment_variables() -> dict[str, str]:
    """Return the variables of this process that workers on other nodes need, and anybody may see."""
    return _variables((*PASSED_ON, *RAY_SETTINGS))


def _variables(prefixes: tuple[str, ...]) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(prefixes)}


def resources_per_worker(resources: Resources, say: Callable[[str], None]) -> dict[str, float]:
    """Return what each worker asks of Ray, a GPU or a share of one among it if the settings or the cluster are so.

    A joined cluster that is too small is given time to grow.

    Raises:
        ValueError: the workers cannot fit; the message says what the cluster has.
    """
    import ray

    there = ray.cluster_resources()
    enough = there.get("GPU", 0) >= resources.workers * resources.gpu_share
    gpu = resources.device == "cuda" or (resources.device == "auto" and enough)
    asked: dict[str, float] = {"CPU": resources.cpus_per_worker} | ({"GPU": resources.gpu_share} if gpu else {})
    if room_for(asked) >= resources.workers:
        return asked
    wanted = _wanted(resources.workers, asked)
    if "RAY_ADDRESS" not in os.environ:
        raise ValueError(f"{wanted}; {_nodes(asked)}: lower workers, or choose device cpu")
    if not grown(1, resources.workers, asked, resources.wait_for_nodes_s, say):
        after = f"after {resources.wait_for_nodes_s} s {_nodes(asked)}"
        raise ValueError(f"{wanted}; {after}: lower workers or cpus_per_worker, or add nodes")
    return asked


def grown(times: int, workers: int, asked: Mapping[str, float], wait_s: float, say: Callable[[str], None]) -> bool:
    """Ask so many times for workers, which makes an autoscaler add nodes, and tell whether all fit in time.

    It adds nodes for all workers of a group or for none, so that each time is a group of its own.
    """
    from ray.util import placement_group, remove_placement_group

    say(f"{_wanted(times * workers, asked)}; {_nodes(asked)}: waiting up to {wait_s} s for nodes")
    end = time.monotonic() + wait_s
    groups = [placement_group([dict(asked)] * workers) for _ in range(times)]
    waiting = list(groups)
    try:
        while waiting and time.monotonic() < end:
            # No longer at once: while Ray waits, neither Ctrl-C nor SIGTERM is heeded.
            if waiting[0].wait(1):
                waiting.pop(0)
        return not waiting
    finally:
        for group in groups:
            remove_placement_group(group)


def room_for(asked: Mapping[str, float]) -> int:
    """Return how many workers the nodes of the cluster hold; a worker is on one node."""
    return sum(min(int(node.get(name, 0) / amount) for name, amount in asked.items()) for node in _resources_of_nodes())


def _resources_of_nodes() -> list[dict[str, float]]:
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _wanted(workers: int, asked: Mapping[str, float]) -> str:
    each = " and ".join(f"{amount:g} {name}" for name, amount in asked.items())
    return f"{workers} workers ask for {each} each"


def _nodes(asked: Mapping[str, float]) -> str:
    """Say what the nodes of the cluster have."""
    nodes = _resources_of_nodes()
    have = ["/".join(f"{node.get(name, 0):g} {name}" for name in asked) for node in nodes]
    return f"Ray has {', '.join(have) or 'nothing'} on {len(nodes)} node{'s' if len(nodes) != 1 else ''}"


def on_this_node() -> Any:  # noqa: ANN401 -- Ray's classes have no types here.
    """Return the scheduling strategy by which an actor is started on the node of this process."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


@contextmanager
def causes(remedy: str) -> Iterator[None]:
    """Raise what a worker raised, without Ray's account of where; `remedy` is what to do if memory is short.

    Raises:
        RunFailedError: workers were lost too often, or are out of memory.
    """
    from ray.exceptions import RayError, RayTaskError

    try:
        yield
    except RayTaskError as error:
        if isinstance(error.cause, torch.OutOfMemoryError):
            raise RunFailedError(f"the device is out of memory: {remedy}") from error
        raise error.cause from error
    except RayError as error:
        last = str(error).strip().splitlines()[-1]
        raise RunFailedError(f"a worker was lost and could not be replaced: {last}") from error
