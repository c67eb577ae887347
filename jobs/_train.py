"""Training a run on a Ray cluster: everything between the command line and `fcn_core.fit`."""

import os
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import torch

from fcn_core import storage
from fcn_core.checkpoint import RunFolder
from fcn_core.data.audit import Audit, audit, class_weights
from fcn_core.data.base import Dataset
from fcn_core.data.batches import LoaderSettings, Order
from fcn_core.data.catalogue import open_train_val
from fcn_core.fit import Keep, build_network, fit
from fcn_core.metrics.rules import Rule
from fcn_core.optim import mean_from_sum
from fcn_core.settings import Run, Stride
from fcn_core.training import NonFiniteLossError, PreemptedError, Runtime
from jobs._alone import LOCK, alone
from jobs._cli import Job, Launch, RunFailedError, as_yaml, exit_codes, last_line, parse
from jobs._console import Console
from jobs._metrics import RunMetrics
from jobs._ray import KEEP_MEMORY, check_reach, cluster, environment_variables, resources_per_worker
from jobs._tracking import check_tracking, tracking

TRIES = 3
"""How often workers for which there was no room, or that could not be set up, are started again."""


def main(stride: Stride) -> None:
    """Carry out a training command; leaves with 0, 1 (failed), 2 (to be mended), 130 (Ctrl-C) or 143 (SIGTERM)."""
    job = parse(sys.argv[1:], stride)
    if job.print_config:
        print(as_yaml(job), end="")
        return
    with exit_codes(), Console() as console:
        if job.run.data.folds is not None and job.run.data.fold is None:
            from jobs._folds import train_folds

            train_folds(job, console)
        else:
            # Here, since workers import this module and draw nothing.
            from jobs._report import report

            report(*run_job(job, console), job.run, console)


def run_job(job: Job, console: Console) -> tuple[str, Audit]:
    """Train a run to its end, and return the URL of its folder and what the audit found.

    Raises:
        ValueError: a setting, the data or the weights are wrong, or another process trains the run.
        FileNotFoundError: data or weights are not there.
        NonFiniteLossError: the loss diverged.
        RunFailedError: workers were lost too often.
        PreemptedError: this process got SIGTERM.
    """
    run, launch = job.run, job.launch
    url = storage.join(storage.absolute(launch.storage), "runs", run.run_id)
    console.say(f"run {run.run_id} in {url}")
    for place in (launch.storage, run.data.path):
        if place is not None:
            storage.check_access(place)
    audited = check(run, launch, console)
    with alone(url, f"run {run.run_id}", console.say):
        write_run(RunFolder(url), run, audited)
        with cluster(launch):
            check_reach(storage.join(url, LOCK))
            train_on_cluster(run, launch, url, audited, console)
    return url, audited


def check(run: Run, launch: Launch, console: Console) -> Audit:
    """Let everything that can fail from settings and data alone fail now, before any worker starts."""
    check_tracking()
    train, val = open_train_val(run.data)
    Order(run.seed, len(train.names), run.optim.batch_size, run.optim.accumulate, 0, launch.workers).check()
    audited = audit(
        train, val, run.data.audit, progress=lambda done, of: console.count("auditing data, sample", done, of)
    )
    console.done()
    for finding in audited.findings:
        console.say(str(finding))
    kept = len(audited.train.kept)
    Order(run.seed, kept, run.optim.batch_size, run.optim.accumulate, 0, launch.workers).check()
    if run.data.crop is None and audited.train.num_sizes > 1:
        raise ValueError(
            f"the training images have {audited.train.num_sizes} sizes: set data.crop to (height, width) in pixels"
        )
    fresh = not RunFolder(storage.join(storage.absolute(launch.storage), "runs", run.run_id)).steps()
    _describe(run, train, audited, console, fresh=fresh)
    return audited


def _describe(run: Run, train: Dataset, audited: Audit, console: Console, *, fresh: bool) -> None:
    # A run that goes on has its weights.
    network = build_network(run, train.classes, fresh=fresh)
    millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    console.say(
        f"FCN-{run.model.stride}s on {run.model.trunk}, {millions:.1f} M parameters; "
        f"{len(audited.train.kept)} training and {len(audited.val.kept)} validation samples"
    )
    console.say(f"scores are over {Rule().describe(len(train.classes))}")
    weights = class_weights(audited.train, run.loss.class_weights)
    if run.loss.class_weights != "none":
        both = zip(train.classes.names, weights, strict=True)
        console.say(
            f"class weights ({run.loss.class_weights}): " + ", ".join(f"{name} {weight:.3f}" for name, weight in both)
        )
    if run.loss.reduction == "sum":
        pixels = sum(audited.train.class_pixels) / len(audited.train.kept) * run.optim.batch_size
        same = mean_from_sum(run.optim.learning_rate, pixels)
        console.say(f"learning rate {run.optim.learning_rate:g} on the summed loss is about {same:.2g} on the mean")


def write_run(folder: RunFolder, run: Run, audited: Audit) -> None:
    """Write run.json, or check that a run to be resumed has the data it began with."""
    before = folder.read_run()
    if before is not None:
        began = {split: before["audit"][split]["digest"] for split in ("train", "val")}
        if began != {"train": audited.train.digest, "val": audited.val.digest}:
            raise ValueError(
                f"the data changed since run {run.run_id} began: put them back, or give the new run another --name"
            )
        return
    rule = Rule().describe(len(audited.train.class_pixels))
    folder.write_run(run_facts(run) | {"rule": rule, "audit": audited.model_dump(mode="json")})


def run_facts(run: Run) -> dict[str, Any]:
    """Return what run.json says of every run."""
    packages = ("fcn-lab", "torch", "torchvision", "ray", "numpy", "pillow")
    return {
        "run_id": run.run_id,
        "settings": run.model_dump(mode="json"),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def train_on_cluster(
    run: Run, launch: Launch, url: str, audited: Audit, console: Console, callbacks: Sequence[Any] = ()
) -> None:
    """Train a run on the Ray cluster that was joined or started, from wherever its folder stands.

    Raises:
        NonFiniteLossError: the loss diverged.
        RunFailedError: workers were lost too often.
        PreemptedError: this process got SIGTERM.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig

    from jobs._restarts import Restarts, TellRestarts, describe
    from jobs._runtime import HeedSigterm
    from jobs._trainer import Trainer
    from jobs._watch import Watch, sigterm_sets, start_board

    # A worker that hangs holds up all others; where it is alone, it is Ray that misses it.
    os.environ.setdefault("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", str(launch.timeout_s))
    # A node that was lost is waited for as a cluster that is too small is.
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(launch.wait_for_nodes_s / (TRIES + 1)))
    resources = resources_per_worker(launch, console.say)
    board = start_board()
    trainer = Trainer(
        _worker,
        train_loop_config={"run": run, "launch": launch, "url": url, "audit": audited, "board": board},
        torch_config=TorchConfig(timeout_s=launch.timeout_s),
        scaling_config=ScalingConfig(
            num_workers=launch.workers, use_gpu="GPU" in resources, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name=run.run_id,
            storage_path=storage.join(storage.absolute(launch.storage), "ray"),
            failure_config=FailureConfig(max_failures=launch.max_failures, controller_failure_limit=TRIES),
            worker_runtime_env={"env_vars": environment_variables() | KEEP_MEMORY},
            callbacks=[HeedSigterm(), TellRestarts(board, launch.timeout_s), *callbacks],
        ),
    )
    console.say(f"starting {launch.workers} workers on {'GPUs' if 'GPU' in resources else 'CPUs'}")
    restarts = Restarts(RunFolder(url))
    with (
        tracking(run, url, console.say) as new_epoch,
        Watch(board, console, restarts, RunMetrics(run.run_id), new_epoch) as watch,
        sigterm_sets(watch.stop),
    ):
        with _one_line(launch):
            failure = trainer.fit().return_value
        if failure is not None:
            raise failure
    if restarts.now:
        console.say(describe(restarts.now))


@contextmanager
def _one_line(launch: Launch) -> Iterator[None]:
    """Raise what ended the training as what `train_on_cluster` says."""
    import ray

    from jobs._restarts import cause_of

    try:
        yield
    except ray.train.TrainingFailedError as error:
        last = cause_of(error, launch.timeout_s)
        # Ray counts workers that are lost and those that cannot be set up apart: a number here would be one of two.
        raise RunFailedError(f"training failed for good, last: {last}") from error
    except ray.exceptions.RayError as error:
        raise RunFailedError(f"the node of this command was lost, or its Ray: {last_line(error)}") from error
    except SystemExit:
        # Ray's own handler of Ctrl-C leaves so, with exit code 0; and Tune where it stops a trial.
        raise KeyboardInterrupt from None


def _worker(config: dict[str, Any]) -> Exception | None:
    """Train on this worker. What another try does not mend is returned, not raised: Ray would try again."""
    from jobs._runtime import RayRuntime

    launch: Launch = config["launch"]
    runtime = RayRuntime(config["board"])
    loader = LoaderSettings(launch.loader_processes, launch.memory_gib, pin_memory=runtime.device.type == "cuda")
    keep = Keep(launch.keep_checkpoints, launch.save_every)
    try:
        _check_here(config["url"], runtime)
        fit(config["run"], config["url"], config["audit"], runtime, loader=loader, keep=keep)
    except (NonFiniteLossError, storage.RefusedError) as error:
        return error
    except PreemptedError as error:
        return runtime.left(error)
    except torch.OutOfMemoryError as error:
        knobs = "lower optim.batch_size or data.crop, or raise optim.accumulate"
        raise RuntimeError(f"the device is out of memory: {knobs}") from error
    return None


def _check_here(url: str, runtime: Runtime) -> None:
    """Refuse, on every worker, nodes that came after `check_reach` and have another folder than the run's."""
    lacks = storage.is_local(url) and RunFolder(url).read_run() is None
    lacking = int(runtime.sum_over_workers(torch.tensor(int(lacks), device=runtime.device)))
    if lacking:
        where = f"the nodes of {lacking} of {runtime.workers} workers as here, such as one that came later"
        remedy = "give --storage s3://bucket/lab, or a folder that all nodes mount"
        raise storage.RefusedError(f"{url} is not the same folder on {where}: {remedy}")
