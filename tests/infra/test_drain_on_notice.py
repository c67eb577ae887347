"""infra/image/drain_on_notice.sh, with a machine's metadata and a Ray that are none."""

import json
import os
import shlex
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from ray.scripts.scripts import cli as ray_cli

from tests.infra.conftest import ROOT, Program

SCRIPT = ROOT / "infra" / "image" / "drain_on_notice.sh"
RAY = """#!/usr/bin/env bash
# Refuses the first time.
printf '%s\\n' "${*@Q}" >>"$CALLS"
[ "$(wc -l <"$CALLS")" -gt 1 ]
"""


class Metadata(ThreadingHTTPServer):
    """Gives notice after it was asked some times; to nobody without a token of IMDSv2."""

    def __init__(self, left_s: float, after: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.notice = {
            "action": "terminate",
            "time": f"{datetime.now(UTC) + timedelta(seconds=left_s):%Y-%m-%dT%H:%M:%SZ}",
        }
        self.asked, self.after = 0, after


class _Handler(BaseHTTPRequestHandler):
    server: Metadata

    def log_message(self, *_: object) -> None:
        pass

    def do_PUT(self) -> None:
        assert self.path == "/latest/api/token"
        assert int(self.headers["X-aws-ec2-metadata-token-ttl-seconds"]) > 0
        self._answer(200, b"token")

    def do_GET(self) -> None:
        assert self.path == "/latest/meta-data/spot/instance-action"
        if self.headers["X-aws-ec2-metadata-token"] != "token":
            self._answer(401, b"")
            return
        self.server.asked += 1
        self._answer(
            *((200, json.dumps(self.server.notice).encode()) if self.server.asked > self.server.after else (404, b""))
        )

    def _answer(self, status: int, contents: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(contents)))
        self.end_headers()
        self.wfile.write(contents)


@contextmanager
def metadata(left_s: float, after: int = 2) -> Iterator[Metadata]:
    with Metadata(left_s, after) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield server
        server.shutdown()


def environment(folder: Path, url: str) -> dict[str, str]:
    ray = folder / "ray"
    ray.write_text(RAY)
    ray.chmod(0o755)
    ours = {"PATH": f"{folder}:{os.environ['PATH']}", "TMPDIR": str(folder), "CALLS": str(folder / "calls")}
    return os.environ | ours | {"AWS_EC2_METADATA_SERVICE_ENDPOINT": url, "no_proxy": "127.0.0.1"}


@pytest.mark.parametrize(("left_s", "expected"), [(120, range(1, 121)), (-5, range(1))])
def test_notice_drains_this_node_until_ray_takes_it(tmp_path: Path, left_s: int, expected: range) -> None:
    with metadata(left_s) as server:
        ours = environment(tmp_path, f"http://127.0.0.1:{server.server_address[1]}")
        subprocess.run([SCRIPT, "0.1"], env=ours, check=True, timeout=100)
    refused, taken = (shlex.split(line) for line in (tmp_path / "calls").read_text().splitlines())
    assert (server.asked, refused[0]) == (4, "drain-node")
    with ray_cli.commands[taken[0]].make_context("drain-node", taken[1:]) as context:
        assert context.params["reason"] == "DRAIN_NODE_REASON_PREEMPTION"
        assert context.params["node_id"] is None
        assert context.params["deadline_remaining_seconds"] in expected
        assert json.loads(context.params["reason_message"].removeprefix("spot notice: ")) == server.notice


def test_one_is_enough_for_a_node(tmp_path: Path) -> None:
    with metadata(120, after=10**9) as server:
        ours = environment(tmp_path, f"http://127.0.0.1:{server.server_address[1]}")
        with subprocess.Popen([SCRIPT, "0.1"], env=ours) as first:
            while not server.asked:
                assert first.poll() is None
                time.sleep(0.05)
            subprocess.run([SCRIPT, "0.1"], env=ours, check=True, timeout=100)
            assert first.poll() is None
            first.kill()
    assert not (tmp_path / "calls").exists()


def test_shellcheck_has_nothing_to_say(program: Program) -> None:
    done = subprocess.run([program("shellcheck"), SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
