#!/usr/bin/env python3
"""Tells Ray when the cloud is about to take this spot node away: what runs on it is saved and goes on elsewhere.

    drain_on_notice.py [SECONDS]     how often to ask the machine's metadata; 5

AWS says so about two minutes before, GCP and Azure half a minute. Which cloud it is shows by what is answered. A node
to which nobody gives notice asks for ever. Started again, it leaves this to the one that runs.
"""

import fcntl
import json
import os
import subprocess  # nosec B404
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from pathlib import Path
from urllib.request import ProxyHandler, Request, build_opener

METADATA = os.environ.get("METADATA_ENDPOINT", "http://169.254.169.254")
Notice = tuple[str, datetime]
"""What the cloud says, and when it takes the machine."""


def main() -> None:
    every = float(sys.argv[1]) if len(sys.argv) > 1 else 5
    with (Path(tempfile.gettempdir()) / "drain_on_notice.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        while not (found := notice()) or not drain(*found):
            time.sleep(every)


def notice() -> Notice | None:
    for cloud in (aws, gcp, azure):
        try:
            if found := cloud():
                return found
        except (OSError, HTTPException, ValueError, LookupError, TypeError):
            continue  # Not this cloud, or nothing to say.
    return None


def aws() -> Notice:
    """Ask by IMDSv2. Before there is notice: 404; then {"action": "terminate", "time": "2026-01-31T08:22:00Z"}."""
    token = ask("/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}, method="PUT")
    told = ask("/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": token})
    return told, datetime.fromisoformat(json.loads(told)["time"])


def gcp() -> Notice | None:
    """Ask whether the machine is preempted: TRUE or FALSE."""
    told = ask("/computeMetadata/v1/instance/preempted", {"Metadata-Flavor": "Google"})
    return (told, datetime.now(UTC) + timedelta(seconds=30)) if told.strip() == "TRUE" else None


def azure() -> Notice | None:
    """Ask what is scheduled: {"EventType": "Preempt", "NotBefore": "Sat, 31 Jan 2026 08:22:00 GMT"}, "" if begun."""
    told = ask("/metadata/scheduledevents?api-version=2020-07-01", {"Metadata": "true"})
    for event in json.loads(told)["Events"]:
        # All machines of a set hear of each other's.
        if event["EventType"] == "Preempt" and _azure_name() in event["Resources"]:
            at = event["NotBefore"]
            return json.dumps(event), parsedate_to_datetime(at) if at else datetime.now(UTC)
    return None


def _azure_name() -> str:
    return ask("/metadata/instance/compute/name?api-version=2021-02-01&format=text", {"Metadata": "true"})


def ask(path: str, headers: dict[str, str], method: str = "GET") -> str:
    """Return what the machine's metadata answers; `OSError` for anything but 200."""
    request = Request(METADATA + path, method=method, headers=headers)
    with build_opener(ProxyHandler({})).open(request, timeout=2) as answer:
        return str(answer.read().decode())


def drain(told: str, at: datetime) -> bool:
    """Have Ray drain this node, which is meant when none is named; false if it did not, as a busy cluster."""
    left = max(0, int((at - datetime.now(UTC)).total_seconds()))
    reason = ["--reason=DRAIN_NODE_REASON_PREEMPTION", f"--reason-message=spot notice: {told}"]
    command = ["ray", "drain-node", *reason, f"--deadline-remaining-seconds={left}"]
    # No shell.
    return subprocess.run(command, env=os.environ | {"RAY_ADDRESS": "auto"}, check=False).returncode == 0  # nosec B603


if __name__ == "__main__":
    main()
