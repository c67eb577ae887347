"""What the service bears under Ray Serve and HAProxy, in figures: each row of a table is a fault or a load.

    python -m benchmarks.serve_faults                          # all, about six minutes on two cores
    python -m benchmarks.serve_faults --only overload,loris --proxy serve

kills     a replica of three is killed every two seconds, if another listens; who asked may ask twice more
update    a good champion and then a damaged one are crowned under load, with two replicas
overload  ten times as many requests as are computed, with one replica; refusals are answers with 503
loris     500 sockets that never end their request, beside two good clients
leave     clients that leave before their answer: how many of their images are computed all the same
hostile   files that are broken, wrong or made to hurt (tests/services/hostile.py), one after the other

tests/services/test_faults.py runs short versions of them. The servers have all cores, and share them with the client.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks._serving import candidate, crown, images_of, run_of
from tests.services.faults import (
    crowning,
    kill_replicas,
    leave,
    overload,
    send_hostile,
    slow_loris,
    update_under_load,
)
from tests.services.hostile import uploads
from tests.services.load import percentile
from tests.services.server import Server, running, with_haproxy, without_haproxy
from tests.services.serving import encoded, scene

CASE = "resnet18 180x240"
IMAGES = images_of(CASE)
MIB = 2**20
IN_TIME_S = 0.1
PROXIES = {"serve": without_haproxy, "haproxy": with_haproxy}


class Bench:
    """A storage with a champion, and what is done to who serves it."""

    def __init__(self, work: Path, seconds: float) -> None:
        self.work, self.seconds = work, seconds
        self.registry = crown(run_of(CASE), work)

    def kills(self, server: Server) -> str:
        """Kill replicas."""
        load, kills = kill_replicas(server, IMAGES, self.seconds, every_s=2)
        failed = sum(number for status, number in load.statuses.items() if status != 200)
        return f"{kills} kills, {len(load.answers)} requests, {failed} failed, p99 {percentile(load.good, 0.99):.1f} s"

    def update(self, server: Server) -> str:
        """Crown a good version and a damaged one."""
        other = candidate(run_of(CASE, seed=1), self.work)
        found = update_under_load(server, self.registry, [crowning(other), crowning(other, damaged=True)], IMAGES)
        versions = ", ".join(f"{found.versions.count(version)} by {version}" for version in sorted(set(found.versions)))
        failed = len(found.load.answers) - len(found.load.good)
        return f"{len(found.load.answers)} requests, {failed} failed, {versions}, {found.mixed} mixed"

    def overload(self, server: Server) -> str:
        """Ask for ten times the capacity."""
        found = overload(server, IMAGES, self.seconds, times=10)
        in_time = sum(answer.seconds <= IN_TIME_S for answer in found.refusals) / len(found.refusals)
        p50, p99 = (1000 * percentile(found.refusals, share) for share in (0.5, 0.99))
        return (
            f"goodput {found.goodput:.2f} of {found.capacity:.1f}/s; statuses {dict(found.load.statuses)}; refused "
            f"after {p50:.0f} ms (p50), {p99:.0f} ms (p99), {100 * in_time:.1f} % within {1000 * IN_TIME_S:.0f} ms; "
            f"{found.grown_bytes / MIB:+.0f} MiB"
        )

    def loris(self, server: Server) -> str:
        """Hold 500 sockets open."""
        found = slow_loris(server, IMAGES, self.seconds, 500)
        alone, beside = (1000 * percentile(load.good, 0.99) for load in (found.alone, found.beside))
        failed = len(found.beside.answers) - len(found.beside.good)
        return f"p99 of good clients {alone:.0f} ms alone, {beside:.0f} ms beside: {found.ratio:.2f}; {failed} failed"

    def leave(self, server: Server) -> str:
        """Leave without an answer."""
        number = leave(server, encoded(scene(1200, 1200)), 8, wait_s=0.5)
        return f"{number:.0f} of 8 were computed"

    def hostile(self, server: Server) -> str:
        """Send hostile files."""
        found = send_hostile(server, uploads())
        seconds, name = found.slowest
        return (
            f"{found.statuses.total()} files, {len(found.wrong)} wrong {found.wrong}, "
            f"slowest {seconds:.2f} s ({name}), {found.grown_bytes / MIB:+.0f} MiB"
        )


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    replicas = {"kills": 3, "update": 2, "overload": 1, "loris": 1, "leave": 1, "hostile": 1}
    parser.add_argument("--only", default=",".join(replicas), help="rows, separated by commas")
    parser.add_argument("--proxy", choices=PROXIES, default="haproxy")
    parser.add_argument("--seconds", type=float, default=20, help="of each load")
    options = parser.parse_args()
    if options.proxy == "serve" and "kills" in options.only.split(","):
        parser.error("kills asks HAProxy who listens: leave it out of --only, or --proxy serve")
    console, table = Console(width=160), Table(f"under {options.proxy}", "")
    for name in options.only.split(","):
        with tempfile.TemporaryDirectory(prefix="fcn") as folder:
            work = Path(folder)
            bench = Bench(work, options.seconds)
            row: Callable[[Server], str] = getattr(bench, name)
            with running(work, work, PROXIES[options.proxy](work), {"num_replicas": replicas[name]}) as server:
                found = row(server)
        console.print(f"{name}: {found}")
        table.add_row(name, found)
    console.print(table)


if __name__ == "__main__":
    main()
