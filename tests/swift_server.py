"""OpenStack Swift with its S3 API: a real object store on loopback, in four processes and a folder of its own.

`python -m tests.swift_server COMMAND...` runs a command that finds it in its environment, with the bucket `lab`.
"""

import getpass
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from tests.jobs.commands import free_port, wait_for

ROLES = {"account": "account-server", "container": "container-server", "object": "object-server"}
USER, KEY = "lab:tester", "testing"
_RINGS = """
import sys
from swift.common.ring import RingBuilder

folder, *ports = sys.argv[1:]
for role, port in zip(("account", "container", "object"), ports):
    builder = RingBuilder(4, 1, 1)
    device = {"id": 0, "region": 1, "zone": 1, "ip": "127.0.0.1", "port": int(port), "device": "disk", "weight": 1}
    builder.add_dev(device | {"replication_ip": "127.0.0.1", "replication_port": int(port), "meta": ""})
    builder.rebalance()
    builder.get_ring().save(f"{folder}/{role}.ring.gz")
"""
_COMMON = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = {user}
swift_dir = {folder}
devices = {folder}
mount_check = false
disable_fallocate = true
fallocate_reserve = 0
log_level = ERROR
log_address = {folder}/no-log
"""
_STORE = """
[pipeline:main]
pipeline = {server}

[app:{server}]
use = egg:swift#{role}
"""
_PROXY = """
[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck listing_formats bulk s3api tempauth slo dlo versioned_writes proxy-server

[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true

[filter:s3api]
use = egg:swift#s3api
location = us-east-1
multi_delete_concurrency = 16

[filter:tempauth]
use = egg:swift#tempauth
user_lab_tester = testing .admin

[filter:slo]
use = egg:swift#slo
"""
_FILTERS = ("catch_errors", "gatekeeper", "healthcheck", "listing_formats", "bulk", "dlo", "versioned_writes")


def place() -> str | None:
    """Return a folder whose files can have extended attributes, which Swift needs; None where there is none."""
    for folder in ("/dev/shm", tempfile.gettempdir()):  # noqa: S108 -- a folder within is made.
        with suppress(OSError), tempfile.NamedTemporaryFile(dir=folder) as file:
            os.setxattr(file.name, "user.fcn", b"1")
            return folder
    return None


@contextmanager
def swift() -> Iterator[dict[str, str]]:
    """Run Swift, and yield the environment in which clients of S3 find it, with the bucket `lab`."""
    with tempfile.TemporaryDirectory(prefix="fcn-swift", dir=place()) as name:
        folder = Path(name)
        ports = {role: free_port() for role in [*ROLES, "proxy"]}
        _configure(folder, ports)
        environment = os.environ | {"PYTHONWARNINGS": "ignore", "EVENTLET_NO_GREENDNS": "yes"}
        servers = []
        try:
            for role in ports:
                command = Path(sys.executable).with_name(f"swift-{role}-server")
                with (folder / f"{role}.log").open("w") as log:
                    started = subprocess.Popen(
                        [command, folder / f"{role}.conf"], stdout=log, stderr=log, env=environment, cwd=folder
                    )
                servers.append(started)
            for port in ports.values():
                wait_for(port)
            access = {
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports['proxy']}",
                "AWS_ACCESS_KEY_ID": USER,
                "AWS_SECRET_ACCESS_KEY": KEY,
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_EC2_METADATA_DISABLED": "true",
            }
            _make_bucket(access)
            yield access
        finally:
            for server in servers:
                server.terminate()
            for server in servers:
                server.wait()


def _configure(folder: Path, ports: Mapping[str, int]) -> None:
    (folder / "disk").mkdir()
    (folder / "swift.conf").write_text("[swift-hash]\nswift_hash_path_suffix = lab\nswift_hash_path_prefix = lab\n")
    stores = [str(ports[role]) for role in ROLES]
    subprocess.run([sys.executable, "-W", "ignore", "-c", _RINGS, str(folder), *stores], check=True)
    for role, server in [*ROLES.items(), ("proxy", "proxy-server")]:
        text = _COMMON.format(port=ports[role], user=getpass.getuser(), folder=folder)
        filters = "".join(f"\n[filter:{name}]\nuse = egg:swift#{name}\n" for name in _FILTERS)
        text += _PROXY + filters if role == "proxy" else _STORE.format(server=server, role=role)
        (folder / f"{role}.conf").write_text(text)


def _make_bucket(access: Mapping[str, str]) -> None:
    s3 = boto3.client(
        "s3",
        endpoint_url=access["AWS_ENDPOINT_URL"],
        aws_access_key_id=USER,
        aws_secret_access_key=KEY,
        region_name="us-east-1",
    )
    deadline = time.monotonic() + 60
    while True:
        try:
            s3.create_bucket(Bucket="lab")
        except (BotoCoreError, ClientError):
            # A port listens before its server has read everything.
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return


if __name__ == "__main__":
    with swift() as found:
        raise SystemExit(subprocess.run(sys.argv[1:], env=os.environ | found, check=False).returncode)
