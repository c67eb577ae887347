"""Hosts on this machine, each in Linux namespaces of its own: processes, network, name, /etc/hosts, /tmp/ray, /dev/shm.

A host lives as long as a process of ours holds its standard input: when that ends, for whatever reason, the kernel ends
all processes of the host, and with the last of them goes its network. So nothing can be left behind.

Where we may not make namespaces, hosts are groups of processes with the address of this machine and ports of their own.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, Protocol, TypeVar

from tests.jobs.commands import free_port

NETWORK = "10.81.0"
TEMPORARY = Path("/tmp/ray")  # noqa: S108 -- where Ray has its files; each host mounts its own.
CLONE_NEWNET = 0x40000000
IP = shutil.which("ip", path=f"{os.environ['PATH']}:/usr/sbin:/sbin") or "ip"
# The first process of a host. A shell: it also buries the orphans that it inherits. It waits until its input ends.
INIT = """
set -e
hostname "$1"
mount --bind "$2" /etc/hosts
for place in /tmp/ray /dev/shm; do mount -t tmpfs -o mode=1777 tmpfs "$place"; done
echo up
read -r _ || true
"""
_T = TypeVar("_T")


class Ports(NamedTuple):
    """What listens on a host."""

    gcs: int = 6379
    dashboard: int = 8265
    client: int = 10001
    agent: int = 52365
    metrics: int = 8080
    serving: int = 8000
    s3: int = 5005


class Host(Protocol):
    """A host that is up."""

    @property
    def name(self) -> str: ...

    @property
    def address(self) -> str: ...

    @property
    def ports(self) -> Ports: ...

    @property
    def folder(self) -> Path:
        """Where Ray has its files."""
        ...

    def command(self, *command: str, folder: Path = Path("/")) -> list[str]:
        """Return the command line that carries out a command on this host."""
        ...

    def within(self, function: Callable[[], _T]) -> _T:
        """Call a function whose new sockets belong to this host."""
        ...

    def end(self) -> None:
        """Kill all processes of the host at once, as if its power failed."""
        ...


class Hosts(Protocol):
    """Makes hosts. The first one, `outside`, is that of who uses the cluster."""

    @property
    def kind(self) -> str:
        """What hosts are, in words."""
        ...

    @property
    def outside(self) -> Host: ...

    def host(self, name: str) -> Host:
        """Start a host and connect it to the others."""
        ...


class SpacesHost(NamedTuple):
    """A host in namespaces."""

    name: str
    address: str
    process: subprocess.Popen[str]
    ports: Ports = Ports()
    folder: Path = TEMPORARY

    def command(self, *command: str, folder: Path = Path("/")) -> list[str]:
        """Return the command line that carries out a command on this host."""
        of_host = f"/proc/{self.process.pid}/ns"
        spaces = [f"--{kind}={of_host}/{file}" for kind, file in SPACES.items()]
        return ["nsenter", *spaces, f"--wdns={folder}", *command]

    def within(self, function: Callable[[], _T]) -> _T:
        """Call a function in a thread whose new sockets belong to this host."""

        def enter() -> _T:
            with Path(f"/proc/{self.process.pid}/ns/net").open() as space:
                if ctypes.CDLL(None, use_errno=True).setns(space.fileno(), CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            return function()

        with ThreadPoolExecutor(1) as thread:
            return thread.submit(enter).result()

    def end(self) -> None:
        """Kill all processes of the host at once, as if its power failed."""
        self.process.kill()
        self.process.communicate()


SPACES = {"net": "net", "mount": "mnt", "uts": "uts", "pid": "pid_for_children"}


class Network:
    """A bridge, itself in a namespace, and the hosts on it.

    Raises:
        PermissionError: we may not make namespaces, or there is no `ip`.
    """

    kind = "namespaces"

    def __init__(self, stack: ExitStack) -> None:
        if not shutil.which(IP):
            raise PermissionError("there is no `ip`: apt-get install iproute2")
        self._stack = stack
        self._names = Path(stack.enter_context(TemporaryDirectory(prefix="fcn"))) / "hosts"
        self._names.write_text("127.0.0.1 localhost\n")
        self._count = 0
        self.outside = self._started("outside")
        _ip(self.outside, "link", "add", "bridge", "type", "bridge")
        _ip(self.outside, "address", "add", f"{self.outside.address}/24", "dev", "bridge")
        _ip(self.outside, "link", "set", "bridge", "up")

    def host(self, name: str) -> SpacesHost:
        """Start a host and connect it."""
        host = self._started(name)
        port, cable = f"port{self._count}", ["peer", "name", "eth0", "netns", str(host.process.pid)]
        _ip(self.outside, "link", "add", port, "type", "veth", *cable)
        _ip(self.outside, "link", "set", port, "master", "bridge", "up")
        _ip(host, "address", "add", f"{host.address}/24", "dev", "eth0")
        _ip(host, "link", "set", "eth0", "up")
        return host

    def _started(self, name: str) -> SpacesHost:
        self._count += 1
        address = f"{NETWORK}.{self._count}"
        with self._names.open("a") as names:
            names.write(f"{address} {name}\n")
        TEMPORARY.mkdir(exist_ok=True)
        own = ["--net", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
        process = subprocess.Popen(
            ["unshare", *own, "bash", "-c", INIT, "init", name, str(self._names)],  # noqa: S607
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        host = SpacesHost(name, address, process)
        self._stack.callback(host.end)
        assert process.stdout is not None
        said = process.stdout.readline()
        if said != "up\n":
            raise PermissionError(f"no namespaces may be made: {said.strip()}")
        _ip(host, "link", "set", "lo", "up")
        return host


class GroupHost(NamedTuple):
    """A host that is a group of processes, known by a mark in their environment."""

    name: str
    folder: Path
    ports: Ports
    mark: str
    address: str = "127.0.0.1"

    def command(self, *command: str, folder: Path = Path("/")) -> list[str]:
        """Return the command line that carries out a command on this host."""
        return ["env", f"--chdir={folder}", self.mark, *command]

    def within(self, function: Callable[[], _T]) -> _T:
        """Call a function."""
        return function()

    def end(self) -> None:
        """Kill all processes of the host."""
        while found := [process for process in Path("/proc").glob("[0-9]*") if self._is_ours(process)]:
            for process in found:
                with suppress(ProcessLookupError):
                    os.kill(int(process.name), signal.SIGKILL)
            time.sleep(0.1)

    def _is_ours(self, process: Path) -> bool:
        try:
            # That of one that has ended and is not yet buried is empty.
            return self.mark.encode() in (process / "environ").read_bytes().split(b"\0")
        except OSError:
            return False


class Machine:
    """This machine with all hosts on it."""

    def __init__(self, stack: ExitStack, why: str) -> None:
        self.kind = f"groups of processes ({why})"
        self._stack = stack
        self._folder = Path(stack.enter_context(TemporaryDirectory(prefix="fcn", ignore_cleanup_errors=True)))
        self.outside = self.host("outside")

    def host(self, name: str) -> GroupHost:
        """Give a host a name, and ports of its own."""
        ports = Ports(*(free_port() for _ in Ports()))
        host = GroupHost(name, self._folder, ports, f"HOST_OF_TESTS={self._folder.name}-{name}")
        self._stack.callback(host.end)
        return host


@contextmanager
def hosts() -> Iterator[Hosts]:
    """Give a network without hosts, of namespaces if we may make some; at the end of the block it is gone."""
    with ExitStack() as stack:
        try:
            made: Hosts = Network(stack)
        except PermissionError as error:
            made = Machine(stack, str(error))
        yield made


def _ip(host: SpacesHost, *arguments: str) -> None:
    # Not in the host's process namespace: `ip` is told process ids of ours.
    space = f"--net=/proc/{host.process.pid}/ns/net"
    subprocess.run(["nsenter", space, IP, *arguments], check=True, capture_output=True, text=True)  # noqa: S607
