"""Hosts on this machine, each in Linux namespaces of its own: processes, network, name, /etc/hosts, /tmp/ray, /dev/shm.

A host lives as long as a process of ours holds its standard input: when that ends, for whatever reason, the kernel ends
all processes of the host, and with the last of them goes its network. So nothing can be left behind.
"""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, TypeVar

NETWORK = "10.81.0"
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


class Host(NamedTuple):
    """A host that is up."""

    name: str
    address: str
    process: subprocess.Popen[str]

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
    """A bridge, itself in a namespace, and the hosts on it; the first, `outside`, is that of who uses the cluster."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._names = Path(stack.enter_context(TemporaryDirectory(prefix="fcn"))) / "hosts"
        self._names.write_text("127.0.0.1 localhost\n")
        self._count = 0
        self.outside = self._started("outside")
        _ip(self.outside, "link", "add", "bridge", "type", "bridge")
        _ip(self.outside, "address", "add", f"{self.outside.address}/24", "dev", "bridge")
        _ip(self.outside, "link", "set", "bridge", "up")

    def host(self, name: str) -> Host:
        """Start a host and connect it."""
        host = self._started(name)
        port, cable = f"port{self._count}", ["peer", "name", "eth0", "netns", str(host.process.pid)]
        _ip(self.outside, "link", "add", port, "type", "veth", *cable)
        _ip(self.outside, "link", "set", port, "master", "bridge", "up")
        _ip(host, "address", "add", f"{host.address}/24", "dev", "eth0")
        _ip(host, "link", "set", "eth0", "up")
        return host

    def _started(self, name: str) -> Host:
        self._count += 1
        address = f"{NETWORK}.{self._count}"
        with self._names.open("a") as names:
            names.write(f"{address} {name}\n")
        Path("/tmp/ray").mkdir(exist_ok=True)  # noqa: S108 -- where Ray insists on its files; each host mounts its own.
        own = ["--net", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
        process = subprocess.Popen(
            ["unshare", *own, "bash", "-c", INIT, "init", name, str(self._names)],  # noqa: S607
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        host = Host(name, address, process)
        self._stack.callback(host.end)
        assert process.stdout is not None
        said = process.stdout.readline()
        if said != "up\n":
            raise PermissionError(f"no host in namespaces: {said.strip()}")
        _ip(host, "link", "set", "lo", "up")
        return host


@contextmanager
def network() -> Iterator[Network]:
    """Give a network without hosts; at the end of the block it is gone.

    Raises:
        PermissionError: we may not make namespaces.
    """
    with ExitStack() as stack:
        yield Network(stack)


def _ip(host: Host, *arguments: str) -> None:
    # Not in the host's process namespace: `ip` is told process ids of ours.
    space = f"--net=/proc/{host.process.pid}/ns/net"
    subprocess.run(["nsenter", space, IP, *arguments], check=True, capture_output=True, text=True)  # noqa: S607
