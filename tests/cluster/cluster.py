"""A Ray cluster of several hosts, with a token, and an S3 server beside it."""

import json
import os
import secrets
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

from tests.cluster.hosts import NETWORK, Host, Network
from tests.jobs.commands import ROOT

BIN = Path(sys.executable).parent
S3_PORT = 5005
METRICS_PORT = 8080
DEADLINE_S = 180.0
SETTINGS = {
    "PATH": f"{BIN}:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/tmp/ray",  # noqa: S108 -- each host's own.
    "FCN_CACHE": "/tmp/ray/cache",  # noqa: S108
    "PYTHONUNBUFFERED": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "AWS_ENDPOINT_URL": f"http://{NETWORK}.1:{S3_PORT}",
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
        self, stack: ExitStack, hosts: Network, logs: Path, more: Mapping[str, str] | None = None, *options: str
    ) -> None:
        """Start the head, with `more` in its environment and some more options of `ray start`."""
        self.secrets = Secrets(secrets.token_hex(24), secrets.token_hex(24))
        self.outside = hosts.outside
        self.workers: list[Host] = []
        self.logs = logs
        self.printed: list[str] = []
        self._stack = stack
        self._hosts = hosts
        self._started = 0
        self._serve_s3()
        self.head = self._node(
            "head",
            {**self.environment, **(more or {})},
            "--head",
            "--num-cpus=0",
            "--dashboard-host={address}",
            *options,
        )
        self.address = f"http://{self.head.address}:8265"
        self.wait_for_nodes()

    @property
    def environment(self) -> dict[str, str]:
        """What is set where jobs are submitted, and on each node."""
        # The code under test, where that is not what is installed.
        code = {"PYTHONPATH": os.environ["PYTHONPATH"]} if "PYTHONPATH" in os.environ else {}
        return {**SETTINGS, **code, "RAY_AUTH_TOKEN": self.secrets.ray, "AWS_SECRET_ACCESS_KEY": self.secrets.s3}

    def add_worker(self) -> Host:
        """Start a host that joins; it has when `wait_for_nodes` returns."""
        self._started += 1
        join = (f"--address={self.head.address}:6379", "--num-cpus=1", f"--metrics-export-port={METRICS_PORT}")
        # Credentials of the storage are those of the head: the workers of a job get them from its driver.
        environment = {name: value for name, value in self.environment.items() if not name.startswith("AWS_")}
        self.workers.append(self._node(f"worker-{self._started}", environment, *join))
        return self.workers[-1]

    def kill(self, worker: Host) -> None:
        """Let the power of a host fail."""
        self.workers.remove(worker)
        worker.end()

    def wait_for_nodes(self) -> None:
        """Wait until those that live are taken for alive, and none else."""
        addresses = sorted(host.address for host in (self.head, *self.workers))
        wait_for(lambda: self.alive() == addresses, f"nodes {addresses}")

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
        )

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

    def _node(self, name: str, environment: Mapping[str, str], *options: str) -> Host:
        host = self._hosts.host(name)
        log = self._stack.enter_context((self.logs / name).open("w"))
        address = f"--node-ip-address={host.address}"
        command = ["ray", "start", "--block", address, *(option.format(address=host.address) for option in options)]
        # It ends with its host. `ray start` itself gives up after 30 s, too few for a machine with much else to do.
        subprocess.Popen(
            host.command("bash", "-c", 'until "$@"; do sleep 1; done', "start", *command, folder=ROOT),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        return host

    def _serve_s3(self) -> None:
        server = ThreadedMotoServer(self.outside.address, S3_PORT)
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
