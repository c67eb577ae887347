"""What docs/security.md says of who gets in, and how to find out."""

import json
import re
import subprocess
from collections.abc import Mapping
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tests.cluster.cluster import Cluster
from tests.jobs.commands import ROOT
from tests.services.serving import encoded, scene

PAGE = ROOT / "docs" / "security.md"
_LISTING = {"command": "models", "arguments": ["list"]}
_PROMOTION = {"run_id": "nobody", "model": "streets"}
BODIES: Mapping[str, Mapping[str, object] | bytes] = {
    "serving/v1/segment": encoded(scene()),
    "experiments/v1/jobs": _LISTING,
    "experiments/v1/promotions": _PROMOTION,
    "looking/v1/jobs": _LISTING,
    "looking/v1/promotions": _PROMOTION,
    "dashboard/api/jobs/": {"entrypoint": "true"},
    "worker:52365/api/job_agent/jobs/": {"entrypoint": "true"},
    "dashboard/api/serve/applications/": {"applications": "none"},
}
"""What is sent to a route, if anything."""
GCS = """
import sys
from ray._raylet import GcsClient
try:
    print("in" if GcsClient(address=sys.argv[1]).get_all_node_info(timeout=20) else "nothing")
except Exception as error:
    print("refused" if "nauthenticated" in str(error) or "oken" in str(error) else error)
"""
# What the first call of `ray.init("ray://...")` is; that one takes a refusal for a slow network and tries for a minute.
CLIENT = """
import os, sys, grpc
from ray.core.generated import ray_client_pb2 as messages, ray_client_pb2_grpc as services
token = os.environ.get("RAY_AUTH_TOKEN")
driver = services.RayletDriverStub(grpc.insecure_channel(sys.argv[1]))
asked = messages.ClusterInfoRequest(type=messages.ClusterInfoType.PING)
try:
    driver.ClusterInfo(asked, timeout=60, metadata=[("authorization", f"Bearer {token}")] if token else [])
    print("in")
except grpc.RpcError as error:
    print("refused" if error.code() == grpc.StatusCode.UNAUTHENTICATED else error)
"""
PROGRAMS = {"ray.init(ray://head:10001)": (CLIENT, "client"), "GcsClient(head:6379)": (GCS, "gcs")}
"""What is no request by HTTP, and the port that it goes to."""


class Row(NamedTuple):
    """A row of the table: what comes back with no, a wrong and the right token."""

    what: str
    no: str
    wrong: str
    right: str


def documented() -> list[Row]:
    """Return the rows of the table, whose requests are in code spans."""
    section = PAGE.read_text().split("## Who gets in")[1].split("\n## ")[0]
    return [
        Row(*found) for found in re.findall(r"^\|[^|]*\| `(.+?)` \| (\S+) \| (\S+) \| (\S+) \|$", section, re.MULTILINE)
    ]


def found(cluster: Cluster, row: Row, addresses: Mapping[str, str], right: str) -> Row:
    """Ask for what a row is about with no, a wrong and the right token."""
    tokens = ("", "w" * 32, right)
    if row.what in PROGRAMS:
        return Row(row.what, *(_program(cluster, *PROGRAMS[row.what], token) for token in tokens))
    method, place = row.what.split(" ")
    for name, address in addresses.items():
        if place.startswith(name):
            url = f"http://{address}{place.removeprefix(name)}"
            return Row(row.what, *(str(_status(cluster, method, url, BODIES.get(place), token)) for token in tokens))
    raise AssertionError(f"no such address: {place}")


def _status(cluster: Cluster, method: str, url: str, body: Mapping[str, object] | bytes | None, token: str) -> int:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    contents = json.dumps(body).encode() if isinstance(body, Mapping) else body
    asked = Request(url, contents, {"Content-Type": "application/json", **headers}, method=method)  # noqa: S310 -- ours.

    def ask() -> int:
        try:
            with urlopen(asked, timeout=30) as answer:  # noqa: S310 -- ours.
                return int(answer.status)
        except HTTPError as error:
            return error.code

    return cluster.outside.within(ask)


def _program(cluster: Cluster, program: str, port: str, token: str) -> str:
    environment = {name: value for name, value in cluster.environment.items() if "AUTH" not in name}
    if token:
        environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    command = cluster.outside.command(
        "python", "-c", program, f"{cluster.head.address}:{getattr(cluster.head.ports, port)}", folder=ROOT
    )
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=120
    )
    lines = done.stdout.splitlines()
    return lines[-1] if lines else done.stderr
