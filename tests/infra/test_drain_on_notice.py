"""infra/image/drain_on_notice.py, with a machine's metadata and a Ray that are none."""

import json
import os
import re
import shlex
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from ray.scripts.scripts import cli as ray_cli

from tests.infra.conftest import ROOT

SCRIPT = ROOT / "infra" / "image" / "drain_on_notice.py"
RAY = """#!/usr/bin/env bash
# Refuses the first time.
printf '%s\\n' "${*@Q}" >>"$CALLS"
[ "$(wc -l <"$CALLS")" -gt 1 ]
"""


Answer = tuple[int, str]


class Metadata(ThreadingHTTPServer):
    """The metadata of a cloud's machine, which gives notice after it was asked some times."""

    def __init__(self, cloud: str, left_s: float, after: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer: Callable[[BaseHTTPRequestHandler], Answer] = getattr(self, cloud)
        self.at = datetime.now(UTC) + timedelta(seconds=left_s)
        self.asked, self.after = 0, after

    def given(self) -> bool:
        self.asked += 1
        return self.asked > self.after

    def aws(self, request: BaseHTTPRequestHandler) -> Answer:
        if (request.command, request.path) == ("PUT", "/latest/api/token"):
            return (200, "token") if int(request.headers["X-aws-ec2-metadata-token-ttl-seconds"]) > 0 else (400, "")
        if request.path != "/latest/meta-data/spot/instance-action":
            return 404, ""
        if request.headers["X-aws-ec2-metadata-token"] != "token":
            return 401, ""
        notice = {"action": "terminate", "time": f"{self.at:%Y-%m-%dT%H:%M:%SZ}"}
        return (200, json.dumps(notice)) if self.given() else (404, "")

    def gcp(self, request: BaseHTTPRequestHandler) -> Answer:
        if request.path != "/computeMetadata/v1/instance/preempted":
            return 404, ""
        if request.headers["Metadata-Flavor"] != "Google":
            return 403, ""
        return 200, "TRUE" if self.given() else "FALSE"

    def azure(self, request: BaseHTTPRequestHandler) -> Answer:
        if request.path == "/metadata/instance/compute/name?api-version=2021-02-01&format=text":
            return (200, "node-1") if request.headers["Metadata"] == "true" else (400, "")
        if request.path != "/metadata/scheduledevents?api-version=2020-07-01" or request.headers["Metadata"] != "true":
            return 400, ""
        at = {"NotBefore": f"{self.at:%a, %d %b %Y %H:%M:%S GMT}"}
        events = [
            {"EventId": "1", "EventType": "Freeze", "Resources": ["node-1"], **at},
            {"EventId": "2", "EventType": "Preempt", "Resources": ["node-2"], **at},
        ]
        if self.given():
            events += [{"EventId": "3", "EventType": "Preempt", "Resources": ["node-1"], **at}]
        return 200, json.dumps({"DocumentIncarnation": 1, "Events": events})


class _Handler(BaseHTTPRequestHandler):
    server: Metadata

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        status, contents = self.server.answer(self)
        self.send_response(status)
        self.send_header("Content-Length", str(len(contents)))
        self.end_headers()
        self.wfile.write(contents.encode())

    do_PUT = do_GET  # noqa: N815 - http.server's name


@contextmanager
def metadata(cloud: str, left_s: float, after: int = 2) -> Iterator[Metadata]:
    with Metadata(cloud, left_s, after) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield server
        server.shutdown()


def environment(folder: Path, url: str) -> dict[str, str]:
    ray = folder / "ray"
    ray.write_text(RAY)
    ray.chmod(0o755)
    ours = {"PATH": f"{folder}:{os.environ['PATH']}", "TMPDIR": str(folder), "CALLS": str(folder / "calls")}
    return os.environ | ours | {"METADATA_ENDPOINT": url}


@pytest.mark.parametrize(
    ("cloud", "left_s", "expected"),
    [("aws", 120, range(1, 121)), ("aws", -5, range(1)), ("azure", 90, range(1, 91)), ("gcp", 0, range(1, 31))],
)
def test_notice_drains_this_node_until_ray_takes_it(tmp_path: Path, cloud: str, left_s: int, expected: range) -> None:
    with metadata(cloud, left_s) as server:
        ours = environment(tmp_path, f"http://127.0.0.1:{server.server_address[1]}")
        subprocess.run([SCRIPT, "0.1"], env=ours, check=True, timeout=100)
    refused, taken = (shlex.split(line) for line in (tmp_path / "calls").read_text().splitlines())
    assert (server.asked, refused[0]) == (4, "drain-node")
    with ray_cli.commands[taken[0]].make_context("drain-node", taken[1:]) as context:
        assert context.params["reason"] == "DRAIN_NODE_REASON_PREEMPTION"
        assert context.params["node_id"] is None
        assert context.params["deadline_remaining_seconds"] in expected
        assert re.match("spot notice: .*(terminate|TRUE|Preempt)", context.params["reason_message"])


def test_one_is_enough_for_a_node(tmp_path: Path) -> None:
    with metadata("aws", 120, after=10**9) as server:
        ours = environment(tmp_path, f"http://127.0.0.1:{server.server_address[1]}")
        with subprocess.Popen([SCRIPT, "0.1"], env=ours) as first:
            while not server.asked:
                assert first.poll() is None
                time.sleep(0.05)
            subprocess.run([SCRIPT, "0.1"], env=ours, check=True, timeout=100)
            assert first.poll() is None
            first.kill()
    assert not (tmp_path / "calls").exists()
