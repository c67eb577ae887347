"""A Ray of our own can be reached from this machine only."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.jobs.commands import ROOT

LISTENING = "0A"
SCRIPT = """
from jobs._cli import Resources
from jobs._console import Console
from jobs._ray import cluster
from tests.faults.test_ports import listening
with cluster(Resources()):
    import ray
    from jobs._watch import start_board
    ray.get(start_board().take.remote())
    print(*listening(), sep="\\n")
"""


def listening() -> list[str]:
    """Return what the sockets of this process and its descendants listen on, as the kernel writes it."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    ours, before = {int(Path("/proc/self").readlink().name)}, 0
    while len(ours) != before:
        before = len(ours)
        ours |= {pid for pid, parent in parents.items() if parent in ours}
    sockets = set()
    for pid in ours:
        for handle in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                sockets.add(str(handle.readlink()))
            except OSError:
                continue
    tables = [Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    rows = [line.split() for table in tables for line in table]
    return [row[1].split(":")[0] for row in rows if row[3] == LISTENING and f"socket:[{row[9]}]" in sockets]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_ray_of_our_own_listens_on_loopback_only(environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, env=environment, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    addresses = done.stdout.split()
    assert len(addresses) >= 4
    # 127.0.0.1, alone and mapped into IPv6; and ::1.
    loopback = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
    assert set(addresses) <= loopback
