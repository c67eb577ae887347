"""The real command on a Ray that loses processes: what it costs, what is said, and that no bit is lost."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from fcn_core.checkpoint import RunFolder
from jobs._restarts import Restart, read_restarts
from jobs._storage_check import look_over
from jobs._train import TRIES
from tests.faults.running import Command, raylets, train_without_ray, workers
from tests.jobs.commands import RAY, TOKEN, Head, free_port, processes_of, wait_for
from tests.jobs.test_train import assert_nothing_left
from tests.tiny import assert_same_bits

SETTINGS = [
    "streets",
    "--data.streets.height=32",
    "--data.streets.width=48",
    "--data.streets.num_train=48",
    "--data.streets.num_val=4",
    "--model.width=0.06",
    "--model.fc_channels=8",
    "--optim.batch_size=12",
]
EPOCHS, STEPS = 16, 64
SAVE_EVERY = 2
PATIENCE_S = 240

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def never_stopped(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The same run, by two workers of torch.distributed that know no Ray."""
    return train_without_ray([*SETTINGS, f"--optim.epochs={EPOCHS}"], tmp_path_factory.mktemp("never_stopped"))


def start(place: Path, environment: Mapping[str, str], *more: str, save_every: int = SAVE_EVERY) -> Command:
    return Command(place, environment, *SETTINGS, f"--optim.epochs={EPOCHS}", f"--save-every={save_every}", *more)


def assert_sound(folder: RunFolder, never_stopped: RunFolder) -> None:
    assert_same_bits(folder, never_stopped)
    assert look_over(folder.url, quick=False, progress=lambda *_: None).findings == ()


def restarts_of(command: Command, folder: RunFolder) -> list[Restart]:
    """Return the record, after a look at what the console said of it."""
    restarts = read_restarts(folder)
    assert [one.restart for one in restarts] == list(range(1, len(restarts) + 1))
    assert command.said(rf"^restarted {len(restarts)} times?: ")
    return restarts


def test_a_worker_that_is_killed(
    never_stopped: RunFolder, environment: dict[str, str], ray_folder: Path, tmp_path: Path
) -> None:
    command = start(tmp_path, environment)
    command.until_steps()
    os.kill(workers(ray_folder)[-1], signal.SIGKILL)
    folder = command.end()
    (restart,) = restarts_of(command, folder)
    assert re.fullmatch(r"worker \d died: its process or its node was lost", restart.cause)
    again = len(command.steps) - STEPS
    assert 0 <= again <= SAVE_EVERY
    assert restart.steps_again is not None
    assert again - 1 <= restart.steps_again <= again
    assert_sound(folder, never_stopped)
    assert_nothing_left(ray_folder)


def test_a_worker_that_is_stopped_is_missed(
    never_stopped: RunFolder, environment: dict[str, str], ray_folder: Path, tmp_path: Path
) -> None:
    command = start(tmp_path, environment, "--timeout-s=20")
    command.until_steps()
    stopped = workers(ray_folder)[-1]
    os.kill(stopped, signal.SIGSTOP)
    begun = time.monotonic()
    command.until(lambda: command.said("starting again"))
    assert time.monotonic() - begun < 2 * 20
    folder = command.end()
    (restart,) = restarts_of(command, folder)
    assert "for 20 s (timeout_s)" in restart.cause
    assert len(command.steps) - STEPS <= SAVE_EVERY
    assert stopped not in processes_of(ray_folder)
    assert_sound(folder, never_stopped)
    assert_nothing_left(ray_folder)


def test_sigterm_saves_at_once_and_is_no_failure(
    never_stopped: RunFolder, environment: dict[str, str], ray_folder: Path, tmp_path: Path
) -> None:
    """First a worker gets it, as from a machine that shuts down, then the command, as from Kubernetes."""
    command = start(tmp_path, environment, "--max-failures=0", save_every=1000)
    command.until_steps()
    os.kill(workers(ray_folder)[-1], signal.SIGTERM)
    command.until(lambda: command.said("starting again"))
    command.until_steps()
    command.process.terminate()
    folder = command.end(code=143)
    last = re.fullmatch(
        r"terminated; stopped at step (\d+) of 64, which is saved; the same command goes on from there",
        command.lines[-1],
    )
    assert last, command.lines
    assert folder.steps()[-1] == int(last[1]) == command.steps[-1]
    assert_nothing_left(ray_folder)
    command = start(tmp_path, environment, "--max-failures=0", save_every=1000)
    folder = command.end()
    assert command.steps == list(range(1, STEPS + 1)), "a step was lost or done again"
    first, second = read_restarts(folder)
    assert first.cause.startswith("worker ")
    assert "was preempted: stopped at step" in first.cause
    assert first.steps_again == 0
    assert second.cause == "the command was started again"
    assert_sound(folder, never_stopped)
    assert_nothing_left(ray_folder)


def test_sigterm_while_workers_are_awaited_ends_the_command(
    environment: dict[str, str], ray_folder: Path, tmp_path: Path
) -> None:
    with cluster(environment, tmp_path, nodes=1) as made:
        address = {"RAY_ADDRESS": f"127.0.0.1:{made.port}"}
        command = start(tmp_path, made.environment | address, "--cpus-per-worker=2")
        command.until(lambda: command.said("waiting up to 600 s for nodes"))
        command.process.terminate()
        command.end(code=143)
        assert command.lines[-1] == "terminated; the same command goes on from what is stored"
        made.assert_nothing_left()
    assert_nothing_left(ray_folder)


def test_sigterm_while_a_lost_node_is_awaited_ends_the_command(
    environment: dict[str, str], ray_folder: Path, tmp_path: Path
) -> None:
    with cluster(environment, tmp_path, nodes=1) as made:
        address = {"RAY_ADDRESS": f"127.0.0.1:{made.port}"}
        command = start(tmp_path, made.environment | address)
        command.until_steps()
        (raylet,) = made.nodes().values()
        os.kill(raylet, signal.SIGKILL)
        command.until(lambda: command.said("starting again"))
        command.process.terminate()
        begun = time.monotonic()
        command.end(code=143)
        assert time.monotonic() - begun < 30
        assert command.lines[-1] == "terminated; the same command goes on from what is stored"
        made.assert_nothing_left()
    assert_nothing_left(ray_folder)


def test_the_only_node_is_killed_and_the_command_started_again(
    never_stopped: RunFolder, environment: dict[str, str], ray_folder: Path, tmp_path: Path
) -> None:
    command = start(tmp_path, environment)
    command.until_steps()
    # Without its raylet alone, workers go on for some seconds, which are enough for a run as short as this one.
    for process in [*raylets(ray_folder), *workers(ray_folder)]:
        os.kill(process, signal.SIGKILL)
    command.end(code=1)
    # Ray ends a driver without its raylet itself, and has the last word.
    assert command.said("Raylet is terminated"), command.lines
    assert_nothing_left(ray_folder)
    command = start(tmp_path, environment)
    folder = command.end()
    (restart,) = restarts_of(command, folder)
    assert restart.cause == "the command was started again"
    assert len(command.steps) - STEPS <= SAVE_EVERY
    assert_sound(folder, never_stopped)
    assert_nothing_left(ray_folder)


RAYS_OWN = ("TrainStateActor", "_AutoscalingCoordinatorActor")
"""Actors that Ray Train leaves in a cluster for what trains next. They hold no resources."""


class Cluster:
    """A head without CPUs, and nodes of two."""

    def __init__(self, environment: Mapping[str, str], place: Path, stack: ExitStack) -> None:
        self._place = place
        self._stack = stack
        self.port = free_port()
        self.environment = {
            **environment,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": TOKEN,
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        self._dashboard, agent = free_port(), free_port()
        ports = [f"--port={self.port}", f"--dashboard-port={self._dashboard}", f"--dashboard-agent-listen-port={agent}"]
        self._start("--head", "--num-cpus=0", *ports)
        wait_for(self._dashboard)

    def add_node(self) -> "subprocess.Popen[bytes]":
        """Start a node, and return the process of its `ray start`."""
        return self._start(
            f"--address=127.0.0.1:{self.port}", "--num-cpus=2", f"--dashboard-agent-listen-port={free_port()}"
        )

    def nodes(self) -> dict[str, int]:
        """Return the raylets' process ids by the node's id."""
        found = {}
        for pid, line in processes_of(Path(self.environment["RAY_TMPDIR"])).items():
            node = re.search(r"raylet/raylet .*--node_id=(\w+)", line)
            if node and "--head" not in line:
                found[node[1]] = pid
        return found

    def node_of(self, pid: int) -> str:
        """Return the node whose raylet started a process."""
        while pid not in (raylets := {raylet: node for node, raylet in self.nodes().items()}):
            pid = int(re.search(r"PPid:\t(\d+)", Path(f"/proc/{pid}/status").read_text())[1])  # type: ignore[index]
        return raylets[pid]

    def drain(self, node: str) -> None:
        notice = ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot", "--deadline-remaining-seconds=120"]
        done = subprocess.run(
            [RAY, "drain-node", f"--address=127.0.0.1:{self.port}", f"--node-id={node}", *notice],
            env=self.environment,
            text=True,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def assert_nothing_left(self) -> None:
        """Wait until no actor of ours lives and no resources are reserved."""
        head = Head(f"http://127.0.0.1:{self._dashboard}", f"127.0.0.1:{self.port}", self.environment)
        deadline = time.monotonic() + 30
        while left := [
            entry
            for kind, gone in (("actors", "DEAD"), ("placement_groups", "REMOVED"))
            for entry in head.get(f"api/v0/{kind}")["data"]["result"]["result"]
            if entry["state"] != gone and entry.get("class_name") not in RAYS_OWN
        ]:
            assert time.monotonic() < deadline, left
            time.sleep(0.5)

    def _start(self, *arguments: str) -> "subprocess.Popen[bytes]":
        """Start a node; it gives itself half a minute, which a busy machine may exceed."""
        command = [RAY, "start", "--block", "--node-ip-address=127.0.0.1", *arguments]
        log = self._place
        for attempt in range(3):
            log = self._place / f"node-{free_port()}-{attempt}"
            with log.open("w") as file:
                process = subprocess.Popen(command, env=self.environment, stdout=file, stderr=file)
            self._stack.callback(process.wait)
            self._stack.callback(process.terminate)
            while process.poll() is None:
                if "Ray runtime started" in log.read_text():
                    return process
                time.sleep(0.1)
        raise AssertionError(log.read_text())


@contextmanager
def cluster(environment: Mapping[str, str], place: Path, nodes: int, drain_s: int = 0) -> Iterator[Cluster]:
    # On SIGTERM a node waits for its work to end; in most tests there is none left to wait for.
    with ExitStack() as stack:
        made = Cluster({**environment, "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": str(drain_s)}, place, stack)
        for _ in range(nodes):
            made.add_node()
        yield made


def test_a_node_that_is_drained_and_another_that_is_killed(
    never_stopped: RunFolder, environment: dict[str, str], ray_folder: Path, tmp_path: Path
) -> None:
    with cluster(environment, tmp_path, nodes=2) as made:
        address = {"RAY_ADDRESS": f"127.0.0.1:{made.port}"}
        # Not one failure may be charged for the node that gave notice.
        command = start(tmp_path, made.environment | address, "--max-failures=1", save_every=1000)
        command.until_steps()
        drained = made.node_of(workers(ray_folder)[0])
        made.drain(drained)
        command.until(lambda: command.said("starting again"))
        at_notice = len(command.steps)
        assert command.steps == list(range(1, at_notice + 1))
        command.until_steps()
        assert command.steps == list(range(1, len(command.steps) + 1)), "a step was lost or done again"
        made.add_node()
        killed = made.node_of(workers(ray_folder)[0])
        assert killed != drained
        os.kill(made.nodes()[killed], signal.SIGKILL)
        folder = command.end()
        first, second = restarts_of(command, folder)
        assert first.cause.startswith("preempted: the node of worker 0")
        assert (first.resumed_at, first.steps_again) == (at_notice, 0)
        # What is known first of a node that is lost.
        lost = r"worker \d (died: its process or its node was lost|lost its connection to another.*)"
        assert re.fullmatch(lost, second.cause)
        # Saved at the end of each epoch, every four steps.
        assert len(command.steps) - STEPS <= 4
        assert_sound(folder, never_stopped)
        made.assert_nothing_left()
    assert_nothing_left(ray_folder)


def test_a_pod_that_is_ended_leaves_after_its_work_is_saved(
    never_stopped: RunFolder, environment: dict[str, str], ray_folder: Path, tmp_path: Path
) -> None:
    """`ray start --block` gets SIGTERM, as from Kubernetes, and waits as long as infra/kuberay says."""
    with cluster(environment, tmp_path, nodes=0, drain_s=110) as made:
        pod = made.add_node()
        address = {"RAY_ADDRESS": f"127.0.0.1:{made.port}"}
        command = start(tmp_path, made.environment | address, "--max-failures=0", save_every=1000)
        command.until_steps()
        pod.terminate()
        command.until(lambda: command.said("starting again"))
        made.add_node()
        folder = command.end()
        assert command.steps == list(range(1, STEPS + 1)), "a step was lost or done again"
        (restart,) = restarts_of(command, folder)
        assert restart.cause.startswith("preempted: the node of worker ")
        assert restart.steps_again == 0
        assert pod.wait(PATIENCE_S) is not None
        assert_sound(folder, never_stopped)
        made.assert_nothing_left()
    assert_nothing_left(ray_folder)


@pytest.mark.parametrize(("deaths", "code"), [(1, 0), (100, 1)], ids=["once", "always"])
def test_workers_that_die_while_they_are_set_up_leave_nothing_reserved(
    deaths: int, code: int, environment: dict[str, str], ray_folder: Path, tmp_path: Path
) -> None:
    with cluster(environment, tmp_path, nodes=1) as made:
        address = {"RAY_ADDRESS": f"127.0.0.1:{made.port}"}
        # No room and no set-up are not charged to what a run may lose.
        settings = [str(deaths), *SETTINGS, "--optim.epochs=1", "--max-failures=0"]
        command = Command(tmp_path, made.environment | address, *settings, module="stillborn")
        command.end(code)
        assert len(command.log.read_text()) == min(deaths, TRIES + 1)
        assert command.said("starting again")
        if code:
            assert command.lines[-1].startswith("error: training failed for good, last: "), command.lines
        made.assert_nothing_left()
    assert_nothing_left(ray_folder)
