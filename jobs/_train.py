"""Training a run on a Ray cluster: everything between the command line and `fcn_core.fit`."""

# What is unpickled is what our own workers put on our own board.
import pickle  # nosec B403
import platform
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import torch

from fcn_core import storage
from fcn_core.checkpoint import Epoch, RunFolder
from fcn_core.data.audit import Audit, audit, class_weights
from fcn_core.data.base import Dataset
from fcn_core.data.batches import LoaderSettings, Order
from fcn_core.data.catalogue import open_train_val
from fcn_core.fit import Keep, build_network, fit
from fcn_core.loop import NonFiniteLossError
from fcn_core.metrics.rules import Rule
from fcn_core.optim import mean_from_sum
from fcn_core.settings import Run, Stride
from jobs._cli import Job, Launch, RunFailedError, as_yaml, exit_codes, parse
from jobs._console import Console
from jobs._metrics import RunMetrics, Started
from jobs._ray import KEEP_MEMORY, cluster, environment_variables, resources_per_worker
from jobs._report import report
from jobs._tracking import check_tracking, tracking


def main(stride: Stride) -> None:
    """Carry out a training command; leaves with 0, 1 (failed), 2 (the user can mend it) or 130 (interrupted)."""
    job = parse(sys.argv[1:], stride)
    if job.print_config:
        print(as_yaml(job), end="")
        return
    with exit_codes(), Console() as console:
        if job.run.data.folds is not None and job.run.data.fold is None:
            from jobs._folds import train_folds

            train_folds(job, console)
        else:
            report(*run_job(job, console), job.run, console)


def run_job(job: Job, console: Console) -> tuple[str, Audit]:
    """Train a run to its end, and return the URL of its folder and what the audit found.

    Raises:
        ValueError: a setting, the data or the weights are wrong.
        FileNotFoundError: data or weights are not there.
        NonFiniteLossError: the loss diverged.
        RunFailedError: workers were lost too often.
    """
    run, launch = job.run, job.launch
    url = storage.join(storage.absolute(launch.storage), "runs", run.run_id)
    console.say(f"run {run.run_id} in {url}")
    for place in (launch.storage, run.data.path):
        if place is not None:
            storage.check_access(place)
    audited = check(run, launch, console)
    write_run(RunFolder(url), run, audited)
    with cluster(launch):
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
    _describe(run, train, audited, console)
    return audited


def _describe(run: Run, train: Dataset, audited: Audit, console: Console) -> None:
    network = build_network(run, train.classes, fresh=True)
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
    """
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from jobs._board import Board

    resources = resources_per_worker(launch, console.say)
    # Where the driver is: a node that is lost must not take the console with it.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    board = ray.remote(Board).options(num_cpus=0, scheduling_strategy=here).remote()
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"run": run, "launch": launch, "url": url, "audit": audited, "board": board},
        torch_config=TorchConfig(timeout_s=launch.timeout_s),
        scaling_config=ScalingConfig(
            num_workers=launch.workers, use_gpu="GPU" in resources, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name=run.run_id,
            storage_path=storage.join(storage.absolute(launch.storage), "ray"),
            failure_config=FailureConfig(max_failures=launch.max_failures, controller_failure_limit=3),
            worker_runtime_env={"env_vars": environment_variables() | KEEP_MEMORY},
            callbacks=list(callbacks),
        ),
    )
    console.say(f"starting {launch.workers} workers on {'GPUs' if 'GPU' in resources else 'CPUs'}")
    handler = signal.getsignal(signal.SIGINT)
    with tracking(run, url, console.say) as new_epoch, _shown(board, console, run.run_id, new_epoch):
        try:
            failure = trainer.fit().return_value
        except ray.train.TrainingFailedError as error:
            times = launch.max_failures + 1
            raise RunFailedError(f"training failed {times} times, last: {_last_line(error)}") from error
        except SystemExit:
            # Ray's own handler of Ctrl-C leaves so, with exit code 0.
            raise KeyboardInterrupt from None
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, handler)
        if failure is not None:
            raise failure


def _worker(config: dict[str, Any]) -> Exception | None:
    """Train on this worker. What another try does not mend is returned, not raised: Ray would try again."""
    from jobs._runtime import RayRuntime

    launch: Launch = config["launch"]
    runtime = RayRuntime(config["board"])
    runtime.write(Started(runtime.workers))
    loader = LoaderSettings(launch.loader_processes, launch.memory_gib, pin_memory=runtime.device.type == "cuda")
    keep = Keep(launch.keep_checkpoints, launch.save_every)
    try:
        fit(config["run"], config["url"], config["audit"], runtime, loader=loader, keep=keep)
    except (NonFiniteLossError, storage.RefusedError) as error:
        return error
    except torch.OutOfMemoryError as error:
        knobs = "lower optim.batch_size or data.crop, or raise optim.accumulate"
        raise RuntimeError(f"the device is out of memory: {knobs}") from error
    return None


@contextmanager
def _shown(
    board: Any,  # noqa: ANN401 -- Ray's actor handles have no type.
    console: Console,
    run_id: str,
    new_epoch: Callable[[], None],
) -> Iterator[None]:
    """Show what workers put on the board while the block runs, on the console and as metrics; tell of each epoch."""
    import ray

    done, metrics = threading.Event(), RunMetrics(run_id)

    def look() -> None:
        while True:
            last = done.wait(1.0)
            for item in map(pickle.loads, ray.get(board.take.remote())):
                metrics.show(item)
                console.show(item)
                if isinstance(item, Epoch):
                    new_epoch()
            if last:
                return

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=10)
        metrics.end()
        console.done()


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
