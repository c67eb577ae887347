"""A Ray cluster of several hosts, with a token, and an S3 server beside it."""

import json
import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from moto.moto_server.threaded_moto_server import ThreadedMotoServer

from tests.cluster.hosts import Host, Network
from tests.jobs.commands import ROOT

BIN = Path(sys.executable).parent
S3_PORT = 5005
DEADLINE_S = 180.0
SETTINGS = {
    "PATH": f"{BIN}:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/tmp/ray",  # noqa: S108 -- each host's own.
    "FCN_CACHE": "/tmp/ray/cache",  # noqa: S108
    "PYTHONUNBUFFERED": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "AWS_ENDPOINT_URL": f"http://10.81.0.1:{S3_PORT}",
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

    def __init__(self, stack: ExitStack, hosts: Network, logs: Path) -> None:
        self.secrets = Secrets(secrets.token_hex(24), secrets.token_hex(24))
        self.outside = hosts.outside
        self.workers: list[Host] = []
        self.logs = logs
        self._stack = stack
        self._hosts = hosts
        self._started = 0
        self._serve_s3()
        self.head = self._node("head", "--head", "--num-cpus=0", "--dashboard-host={address}")
        self.address = f"http://{self.head.address}:8265"
        self.wait_for_nodes()

    @property
    def environment(self) -> dict[str, str]:
        """What is set where jobs are submitted, and on each node."""
        return {**SETTINGS, "RAY_AUTH_TOKEN": self.secrets.ray, "AWS_SECRET_ACCESS_KEY": self.secrets.s3}

    def add_worker(self) -> Host:
        """Start a host that joins; it has when `wait_for_nodes` returns."""
        self._started += 1
        join = (f"--address={self.head.address}:6379", "--num-cpus=1")
        self.workers.append(self._node(f"worker-{self._started}", *join))
        return self.workers[-1]

    def kill(self, worker: Host) -> None:
        """Let the power of a host fail."""
        self.workers.remove(worker)
        worker.end()

    def wait_for_nodes(self) -> None:
        """Wait until those that live are taken for alive, and none else."""
        addresses = {host.address for host in (self.head, *self.workers)}
        wait_for(lambda: self.alive() == addresses, f"nodes {addresses}")

    def alive(self) -> set[str]:
        """Return the addresses of the nodes that the cluster takes for alive."""
        nodes = self.get("nodes?view=summary")["data"]["summary"]
        return {node["raylet"]["nodeManagerAddress"] for node in nodes if node["raylet"]["state"] == "ALIVE"}

    def run(self, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Carry out a command where the cluster's user sits, to its end."""
        process = self.start(*command, **more)
        printed, _ = process.communicate()
        return subprocess.CompletedProcess(command, process.returncode, printed)

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

    def get(self, path: str) -> dict[str, Any]:
        """Return what the dashboard answers."""
        headers = {"Authorization": f"Bearer {self.secrets.ray}"}
        asked = Request(f"{self.address}/{path}", headers=headers)  # noqa: S310 -- ours.

        def ask() -> dict[str, Any]:
            with urlopen(asked, timeout=10) as answer:  # noqa: S310 -- ours.
                return dict(json.load(answer))

        return self.outside.within(ask)

    def _node(self, name: str, *options: str) -> Host:
        host = self._hosts.host(name)
        log = self._stack.enter_context((self.logs / name).open("w"))
        address = f"--node-ip-address={host.address}"
        command = ["ray", "start", "--block", address, *(option.format(address=host.address) for option in options)]
        # It ends with its host. `ray start` itself gives up after 30 s, too few for a machine with much else to do.
        subprocess.Popen(
            host.command("bash", "-c", 'until "$@"; do sleep 1; done', "start", *command, folder=ROOT),
            env=self.environment,
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
