"""The service as people start it, in processes of its own."""

import csv
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import yaml

from tests.jobs.commands import ROOT, free_port, processes_of

SERVE = str(Path(sys.executable).with_name("serve"))
ADMIN_SOCKET = "admin.sock"
"""HAProxy's, which tells how it is."""


class Server(NamedTuple):
    """Where it listens, and the folder that marks its processes."""

    port: int
    folder: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def replicas(self) -> list[int]:
        """Return the ids of the processes that compute."""
        found = processes_of(self.folder).items()
        return [number for number, command in found if command.startswith("ray::ServeReplica:segmentation")]

    def ready(self) -> list[int]:
        """Return those of them that HAProxy sends requests to."""
        used = self._used_ports()
        return [number for number in self.replicas() if not used.isdisjoint(_ports(number))]

    def _used_ports(self) -> set[int]:
        # In a folder that Serve names after the node; where HAProxy takes up another configuration, it is away.
        (place,) = self.folder.glob("ha/*")
        try:
            with socket.socket(socket.AF_UNIX) as asking:
                asking.settimeout(5)
                asking.connect(str(place / ADMIN_SOCKET))
                asking.sendall(b"show stat\n")
                told = asking.makefile().read()
        except OSError:
            return set()
        servers = csv.DictReader(told.removeprefix("# ").splitlines())
        up = [server["addr"] for server in servers if server["status"].startswith("UP")]
        return {int(address.rpartition(":")[2]) for address in up if ":" in address}

    def cpu_s(self) -> float:
        """Return the CPU time of all of its processes that still live."""
        return sum(map(_cpu_s, processes_of(self.folder)))


def _ports(process: int) -> set[int]:
    """Return the ports that a process listens on."""
    try:
        sockets = {str(file.readlink()) for file in Path(f"/proc/{process}/fd").iterdir()}
        lines = Path(f"/proc/{process}/net/tcp").read_text().splitlines()[1:]
    except OSError:
        return set()
    listening = [fields for fields in map(str.split, lines) if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets]
    return {int(fields[1].rpartition(":")[2], 16) for fields in listening}


def _cpu_s(process: int) -> float:
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def without_haproxy(_: Path) -> dict[str, str]:
    return {}


def with_haproxy(folder: Path) -> dict[str, str]:
    ports = {"STATS_PORT": free_port(), "METRICS_PORT": free_port()}
    places = {"CONFIG_FILE_LOC": "haproxy.cfg", "SOCKET_PATH": ADMIN_SOCKET, "METRICS_SOCKET_PATH": "metrics.sock"}
    values = {name: str(port) for name, port in ports.items()}
    values |= {name: str(folder / "ha" / place) for name, place in places.items()}
    values |= {"SERVER_STATE_BASE": str(folder / "ha"), "SERVER_STATE_FILE": str(folder / "ha" / "state")}
    return {f"RAY_SERVE_HAPROXY_{name}": value for name, value in values.items()} | {"RAY_SERVE_ENABLE_HA_PROXY": "1"}


@contextmanager
def running(
    folder: Path, lab: Path, more: Mapping[str, str], deployment: Mapping[str, Any] | None = None
) -> Iterator[Server]:
    """Start the service as its configuration file says, but for the port and what `deployment` changes."""
    configuration = yaml.safe_load((ROOT / "services" / "segmentation.yaml").read_text())
    port = configuration["http_options"]["port"] = free_port()
    (options,) = configuration["applications"][0]["deployments"]
    changes = dict(deployment or {})
    if "num_replicas" in changes:
        del options["autoscaling_config"]
    elif "autoscaling_config" in changes:
        options["autoscaling_config"].update(changes.pop("autoscaling_config"))
    options.update(changes)
    (folder / "segmentation.yaml").write_text(yaml.safe_dump(configuration))
    environment = {"FCN_STORAGE": str(lab), "FCN_SERVE_REFRESH_S": "1"} | dict(more)
    command = [SERVE, "run", str(folder / "segmentation.yaml")]
    with started(command, folder, port, "/readyz", environment) as server:
        yield server


@contextmanager
def started(
    command: Sequence[str],
    folder: Path,
    port: int,
    ready: str,
    environment: Mapping[str, str],
    patience_s: float = 90,
) -> Iterator[Server]:
    """Start a server and wait until it answers at the path `ready`; in the end nothing of it is left."""
    marked = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(folder),
        "RAY_TMPDIR": str(folder),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_raylet_start_wait_time_s": "300",  # A busy machine needs more than 60.
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=marked | dict(environment), stdout=log, stderr=log)
    server = Server(port, folder)
    try:
        wait_for(f"{server.url}{ready}", lambda: process.poll() is None, folder / "log")
        yield server
    finally:
        _end(process, folder, patience_s)


def _end(process: subprocess.Popen[bytes], folder: Path, patience_s: float) -> None:
    process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + patience_s
    while (process.poll() is None or processes_of(folder)) and time.monotonic() < deadline:
        time.sleep(0.3)
    for number in processes_of(folder):
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    process.wait()


def wait_for(url: str, alive: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and alive():
        try:
            if httpx2.get(url, timeout=5).status_code == 200:
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.5)
    raise AssertionError(log.read_text()[-3000:])
