"""A Ray cluster of several hosts, with a token, and an S3 server beside it."""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from moto.moto_server.threaded_moto_server import ThreadedMotoServer

from tests.cluster.hosts import Host, Hosts
from tests.jobs.commands import ROOT

BIN = Path(sys.executable).parent
DEADLINE_S = 180.0
SETTINGS = {
    "PATH": f"{BIN}:/usr/sbin:/usr/bin:/sbin:/bin",
    "PYTHONUNBUFFERED": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class Secrets(NamedTuple):
    """What nobody may read anywhere."""

    ray: str
    s3: str


class Cluster:
    """A head, which only directs, and workers of one CPU each. Whoever uses it sits on a host of their own."""

    def __init__(
        self, stack: ExitStack, hosts: Hosts, logs: Path, more: Mapping[str, str] | None = None, *options: str
    ) -> None:
        """Start the head, with `more` in its environment and some more options of `ray start`."""
        self.secrets = Secrets(secrets.token_hex(24), secrets.token_hex(24))
        self.outside = hosts.outside
        self.workers: list[Host] = []
        self.logs = logs
        self.kind = hosts.kind
        self.printed: list[str] = []
        self._stack = stack
        self._hosts = hosts
        self._started = 0
        self._serve_s3()
        self.head = self._hosts.host("head")
        self.address = f"http://{self.head.address}:{self.head.ports.dashboard}"
        directs = ["--head", f"--port={self.head.ports.gcs}", f"--ray-client-server-port={self.head.ports.client}"]
        directs += [f"--dashboard-host={self.head.address}", f"--dashboard-port={self.head.ports.dashboard}"]
        self._start_ray(self.head, {**self.environment, **(more or {})}, *directs, "--num-cpus=0", *options)
        self.wait_for_nodes()

    @property
    def environment(self) -> dict[str, str]:
        """What is set where jobs are submitted, and on each node."""
        places = {
            "HOME": str(self.outside.folder),
            "RAY_TMPDIR": str(self.outside.folder),
            "FCN_CACHE": str(self.outside.folder / "cache"),
            "AWS_ENDPOINT_URL": f"http://{self.outside.address}:{self.outside.ports.s3}",
        }
        # The code under test, where that is not what is installed.
        code = {"PYTHONPATH": os.environ["PYTHONPATH"]} if "PYTHONPATH" in os.environ else {}
        tokens = {"RAY_AUTH_TOKEN": self.secrets.ray, "AWS_SECRET_ACCESS_KEY": self.secrets.s3}
        return {**SETTINGS, **places, **code, **tokens}

    def add_worker(self) -> Host:
        """Start a host that joins; it has when `wait_for_nodes` returns."""
        self._started += 1
        self.workers.append(self._hosts.host(f"worker-{self._started}"))
        # Credentials of the storage are those of the head: the workers of a job get them from its driver.
        environment = {name: value for name, value in self.environment.items() if not name.startswith("AWS_")}
        join = f"--address={self.head.address}:{self.head.ports.gcs}"
        self._start_ray(self.workers[-1], environment, join, "--num-cpus=1")
        return self.workers[-1]

    def kill(self, worker: Host) -> None:
        """Let the power of a host fail."""
        self.workers.remove(worker)
        worker.end()

    def wait_for_nodes(self) -> None:
        """Wait until those that live have started and are taken for alive, and none else."""
        living = [self.head, *self.workers]
        addresses = sorted(host.address for host in living)

        def are_up() -> bool:
            started = all("Ray runtime started" in (self.logs / host.name).read_text() for host in living)
            return started and self.alive() == addresses

        wait_for(are_up, f"nodes {addresses}")

    def alive(self) -> list[str]:
        """Return the addresses of the nodes that the cluster takes for alive."""
        nodes = self.get("nodes?view=summary")["data"]["summary"]
        return sorted(node["raylet"]["nodeManagerAddress"] for node in nodes if node["raylet"]["state"] == "ALIVE")

    def run(self, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Carry out a command where the cluster's user sits, to its end."""
        process = self.start(*command, **more)
        printed = self.end_of(process)
        return subprocess.CompletedProcess(command, process.returncode, printed)

    def end_of(self, process: "subprocess.Popen[str]") -> str:
        """Wait for the end of a command and return what it printed."""
        printed, _ = process.communicate()
        self.printed.append(printed)
        return printed

    def start(self, *command: str, **more: str) -> subprocess.Popen[str]:
        """Start a command where the cluster's user sits."""
        # As Ray's own job command takes it; ours takes the same.
        environment = {**self.environment, "RAY_API_SERVER_ADDRESS": self.address, **more}
        return subprocess.Popen(
            self.outside.command(*command, folder=ROOT),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def interrupt(self, process: "subprocess.Popen[str]") -> None:
        """Press Ctrl-C in a command."""
        # What enters another host waits for its child, which is the command.
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[0]) if children else process.pid, signal.SIGINT)

    def get(self, path: str) -> Any:  # noqa: ANN401 -- JSON.
        """Return what the dashboard answers."""
        return json.loads(self.read(f"{self.address}/{path}"))

    def read(self, url: str) -> str:
        """Return what a server on one of the hosts answers."""
        asked = Request(url, headers={"Authorization": f"Bearer {self.secrets.ray}"})  # noqa: S310 -- ours.

        def ask() -> bytes:
            with urlopen(asked, timeout=30) as answer:  # noqa: S310 -- ours.
                return bytes(answer.read())

        return self.outside.within(ask).decode()

    def _start_ray(self, host: Host, environment: Mapping[str, str], *options: str) -> None:
        log = self._stack.enter_context((self.logs / host.name).open("w"))
        command = ["ray", "start", "--block", f"--node-ip-address={host.address}", *options]
        command += [f"--dashboard-agent-listen-port={host.ports.agent}", f"--metrics-export-port={host.ports.metrics}"]
        # It ends with its host. `ray start` itself gives up after 30 s, too few for a machine with much else to do.
        process = subprocess.Popen(
            host.command("bash", "-c", 'until "$@"; do sleep 1; done', "start", *command, folder=ROOT),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )

        def end() -> None:
            host.end()
            process.wait()

        self._stack.callback(end)

    def _serve_s3(self) -> None:
        server = ThreadedMotoServer(self.outside.address, self.outside.ports.s3)
        self.outside.within(server.start)
        self._stack.callback(server.stop)


def wait_for(condition: Callable[[], object], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Wait until something is so; that it cannot be found out yet counts as no."""
    end = time.monotonic() + deadline_s
    while True:
        try:
            if condition():
                return
        except (OSError, HTTPError):
            pass
        assert time.monotonic() < end, f"waited too long for {what}"
        time.sleep(0.2)
