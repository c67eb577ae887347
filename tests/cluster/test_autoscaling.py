"""Ray's own autoscaler on a host of its own, which starts nodes there as processes instead of renting machines."""

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster, wait_for
from tests.cluster.hosts import hosts
from tests.cluster.test_cluster import SUBMIT, TRAIN
from tests.jobs.commands import s3_server

HEAD = "fffffffffffffffffffffffffffffffffffffffffffffffffff00000"
CONFIGURATION = {
    "cluster_name": "growing",
    "max_workers": 2,
    "provider": {
        "type": "external",
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "head_node_id": HEAD,
        "launch_multiple": True,
        # All nodes have the address of the one host.
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
    },
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
    },
    "head_node_type": "ray.head.default",
    "idle_timeout_minutes": 0.1,
    "upscaling_speed": 1.0,
    # Asked for, and of no use to processes of one machine.
    **{f"{when}setup_commands": [] for when in ("", "head_", "worker_")},
    **{f"{whose}_start_ray_commands": [] for whose in ("head", "worker")},
    "initialization_commands": [],
    "file_mounts": {},
    "cluster_synced_files": [],
    "auth": {},
    "docker": {},
}
"""What a cluster.yaml says, but for what machines to rent and how to set them up."""
ENVIRONMENT = {
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "RAY_FAKE_CLUSTER": "1",
    "RAY_enable_autoscaler_v2": "1",
    "RAY_CLOUD_INSTANCE_ID": HEAD,
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD,
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def growing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A head without CPUs whose autoscaler may add two nodes of one CPU."""
    folder: Path = tmp_path_factory.mktemp("logs")
    (folder / "cluster.json").write_text(json.dumps(CONFIGURATION))
    with ExitStack() as stack:
        stack.enter_context(s3_server(stack.enter_context(pytest.MonkeyPatch.context()), {}))
        yield Cluster(
            stack, stack.enter_context(hosts()), folder, ENVIRONMENT, f"--autoscaling-config={folder / 'cluster.json'}"
        )


def test_nodes_come_for_a_job_and_go_when_they_are_idle(growing: Cluster) -> None:
    assert len(growing.alive()) == 1
    most = 0
    process = growing.start(*SUBMIT, *TRAIN, "--workers=2", "--storage=s3://lab/growing")

    def has_ended() -> bool:
        nonlocal most
        most = max(most, len(growing.alive()))
        return process.poll() is not None

    wait_for(has_ended, "the end of the job", deadline_s=400)
    printed = process.communicate()[0]
    assert process.returncode == 0, printed
    assert "2 workers ask for 1 CPU each; Ray has 0 CPU on 1 node: waiting up to 600 s for nodes" in printed
    assert most == 3
    wait_for(lambda: len(growing.alive()) == 1, "idle nodes to go")


def test_nodes_come_for_the_trials_of_a_sweep(growing: Cluster) -> None:
    # These nodes share a disk, on which each that comes replaces the folder that the driver was started in.
    elsewhere = ["sh", "-c", 'cd / && exec python "$OLDPWD/jobs/sweep.py" "$@"', "sh"]
    options = [*TRAIN[1:], "--optim.epochs=2", "--trials=2", "--finalists=0", "--concurrent-trials=2"]
    done = growing.run(*SUBMIT[:3], *elsewhere, *options, "--storage=s3://lab/growing")
    assert done.returncode == 0, done.stdout
    assert re.search(r"2 workers ask for 1 CPU each; Ray has .*: waiting up to 600 s for nodes", done.stdout)
    assert "2 trials of 1 runs; 2 at once, each on 1 workers" in done.stdout
