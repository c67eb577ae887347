"""A head and two workers, each a host of its own: what survives their loss, who gets in, and what nobody may read."""

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import boto3
import fsspec
import pytest
import yaml

from fcn_core import storage
from fcn_core.checkpoint import RunFolder
from fcn_core.registry.store import MODELS, Registry
from fcn_core.settings import Run
from jobs._restarts import read_restarts
from tests import tiny
from tests.cluster.access import PAGE, documented, found
from tests.cluster.cluster import Cluster, wait_for
from tests.jobs.commands import ROOT, write_run
from tests.jobs.test_receptive_field import contents, looked
from tests.registry.made import made_champion, make

STREETS = [
    "streets",
    "--data.streets.num_val=4",
    "--model.width=0.06",
    "--model.fc_channels=8",
    "--optim.batch_size=12",
]
TRAIN = ["jobs/train_fcn8s.py", *STREETS, "--data.streets.num_train=36", "--optim.epochs=24"]
SUBMIT = ["python", "jobs/submit.py", "--", "python"]
RAYS_SUBMIT = ["ray", "job", "submit", "--working-dir=.", "--", "python"]
OUTPUT = "output"
SLEEP = ["-c", "import time; print('awake', flush=True); time.sleep(600)"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def calm(cluster: Cluster) -> RunFolder:
    """A run on both workers that nothing disturbed."""
    done = cluster.run(*SUBMIT, *TRAIN, "--workers=2", "--storage=s3://lab/calm")
    assert done.returncode == 0, done.stdout
    assert done.stdout.endswith("succeeded\n")
    url = re.search(r"^run \S+ in (\S+)$", done.stdout, re.MULTILINE)
    assert url, done.stdout
    return RunFolder(url[1])


@contextmanager
def submitted(cluster: Cluster, at_work: Callable[[], object], *command: str) -> Iterator["subprocess.Popen[str]"]:
    """Follow a job; the block begins once it is at work."""
    process = cluster.start(*command)

    def check() -> object:
        assert process.poll() is None, process.communicate()[0]
        return at_work()

    try:
        wait_for(check, " ".join(command))
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def carried_out_while_a_host_is_lost(
    cluster: Cluster, at_work: Callable[[], object], *command: str, submit: Sequence[str] = SUBMIT
) -> None:
    """Carry out a job. Once at work, the power of a host that works fails, and another host joins."""
    with submitted(cluster, at_work, *submit, *command) as process:
        cluster.kill(cluster.workers[0])
        cluster.add_worker()
        printed = cluster.end_of(process)
    assert process.returncode == 0, printed
    cluster.wait_for_nodes()


def test_hosts_share_no_process_name_or_file(cluster: Cluster) -> None:
    if cluster.kind != "namespaces":
        pytest.skip(f"hosts are {cluster.kind}: they share an address and a disk")
    look = ["bash", "-c", "hostname; hostname -i; grep -lsx raylet /proc/[0-9]*/comm | wc -l"]
    hosts = [cluster.head, *cluster.workers]
    seen = [subprocess.run(host.command(*look), capture_output=True, text=True, check=True).stdout for host in hosts]
    assert [one.split() for one in seen] == [[host.name, host.address, "1"] for host in hosts]


def test_a_run_that_loses_a_host_ends_with_the_bits_of_one_that_was_never_disturbed(
    cluster: Cluster, calm: RunFolder
) -> None:
    lost = RunFolder(calm.url.replace("/calm/", "/lost/"))
    place = [*TRAIN, "--workers=2", "--storage=s3://lab/lost"]
    carried_out_while_a_host_is_lost(cluster, lambda: len(lost.read_epochs()) > 1, *place, submit=RAYS_SUBMIT)
    assert read_restarts(lost)
    tiny.assert_same_bits(lost, calm)


def test_a_sweep_that_loses_a_host_trains_each_of_its_runs_to_the_same_bits(cluster: Cluster, tmp_path: Path) -> None:
    """Each run beside the same one without Ray."""

    def runs() -> list[RunFolder]:
        names = storage.list_folder("s3://lab/sweep/runs")
        return [RunFolder(f"s3://lab/sweep/runs/{name.strip('/')}") for name in names]

    sweep = [
        "jobs/sweep.py",
        *STREETS,
        "--data.streets.num_train=24",
        "--optim.epochs=16",
        "--trials=4",
        "--finalists=0",
    ]

    def both_hosts_train() -> bool:
        return len([run for run in runs() if 0 < len(run.read_epochs()) < 16]) == 2

    carried_out_while_a_host_is_lost(cluster, both_hosts_train, *sweep, "--storage=s3://lab/sweep")
    assert len(runs()) == 4
    assert any(read_restarts(run) for run in runs())
    for ours in runs():
        facts = ours.read_run()
        assert facts is not None
        run = Run.model_validate(facts["settings"])
        tiny.assert_same_bits(ours, tiny.train(run, tmp_path / run.run_id))


def test_an_occlusion_that_loses_a_host_finds_the_same(cluster: Cluster, tmp_path: Path) -> None:
    run = tiny.changed({"data.streets.num_val": 40, "optim.epochs": 1})
    here = write_run(tiny.train(run, tmp_path / "lab" / "runs" / run.run_id).url, run)
    files = fsspec.filesystem("s3")
    files.put(here.url, f"lab/occlusion/runs/{run.run_id}", recursive=True)
    there = f"s3://lab/occlusion/runs/{run.run_id}"
    expected = looked(tmp_path / "here", model=here.url, layer="conv3_3", unit="all", images=None, size=None, most=3)

    def parts() -> list[str]:
        return storage.list_folder("s3://lab/occlusion/receptive_fields/parts")

    arguments = ["--layer=conv3_3", "--units=all", "--most=3", "--workers=2", "--storage=s3://lab/occlusion"]
    carried_out_while_a_host_is_lost(
        cluster, lambda: len(parts()) > 3, "jobs/receptive_field.py", "--model", there, *arguments
    )
    files.get(f"lab/occlusion/receptive_fields/{expected.name}", str(tmp_path / "there"), recursive=True)
    assert contents(tmp_path / "there") == contents(expected)


def test_a_driver_that_is_lost_with_its_host_is_no_success(cluster: Cluster) -> None:
    on_a_worker = [*SUBMIT[:2], "--driver-cpus=1", *SUBMIT[2:], *SLEEP]
    with submitted(cluster, lambda: jobs(cluster, "RUNNING"), *on_a_worker) as process:
        (job,) = jobs(cluster, "RUNNING")
        wait_for(lambda: "awake" in cluster.get(f"api/jobs/{job}/logs")["logs"], "the driver")
        # Typed a second time, it follows the same job, and Ctrl-C ends nothing.
        with submitted(cluster, lambda: True, *on_a_worker) as second:
            assert second.stdout is not None
            assert second.stdout.readline().startswith(f"attached to {job}")
            assert "awake\n" in iter(second.stdout.readline, "")
            cluster.interrupt(second)
            said = cluster.end_of(second)
            assert second.returncode == 130, said
            assert f"detached from {job}, which goes on" in said
        address = cluster.get(f"api/jobs/{job}")["driver_agent_http_address"]
        (host,) = [one for one in cluster.workers if f"{one.address}:{one.ports.agent}" in address]
        cluster.kill(host)
        cluster.add_worker()
        printed = cluster.end_of(process)
    assert process.returncode == 1, printed
    assert re.search(rf"^error: {job} failed: .*; the same command goes on from what is stored$", printed, re.MULTILINE)
    cluster.wait_for_nodes()


def test_what_cannot_be_scheduled_says_so(cluster: Cluster) -> None:
    done = cluster.run(*SUBMIT, *TRAIN, "--workers=3", "--storage=s3://lab/large", "--wait-for-nodes-s=2")
    assert done.returncode == 2, done.stdout
    lack = r"^error: 3 workers ask for 1 CPU each; after 2 s Ray has .* on 3 nodes: lower workers or cpus_per_worker"
    assert re.search(lack, done.stdout, re.MULTILINE), done.stdout


def test_a_wrong_token_gets_one_line(cluster: Cluster) -> None:
    done = cluster.run(*SUBMIT, *SLEEP, RAY_AUTH_TOKEN="w" * 32)
    assert done.returncode == 2
    assert done.stdout.startswith(f"error: the cluster at {cluster.address} wants its token: set RAY_AUTH_MODE=token")
    assert done.stdout.count("\n") == 1


class Served(NamedTuple):
    """Both services on the cluster, and two tokens for them."""

    address: str
    looks: str
    acts: str


@pytest.fixture(scope="module")
def served(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Served:
    """A champion and the experiments, served by the cluster."""
    place = tmp_path_factory.mktemp("served")
    made_champion(Registry(f"s3://lab/served/{MODELS}"), make(place, 1).candidate())
    tokens = "s3://lab/served/tokens.json"
    added = [
        cluster.run("python", "-m", "services.tokens", "add", tokens, *who) for who in (["alice"], ["bob", "--act"])
    ]
    assert not any(done.returncode for done in added), added
    applications = []
    for name, prefix in (("segmentation", "/"), ("experiments", "/experiments")):
        (application,) = yaml.safe_load((ROOT / "services" / f"{name}.yaml").read_text())["applications"]
        # The head alone has the credentials of the storage.
        on_the_head = {"num_cpus": 0, "resources": {"node:__internal_head__": 0.001}}
        application["deployments"][0]["ray_actor_options"] = on_the_head
        places = {"storage": "s3://lab/served", "tokens": tokens}
        applications.append({**application, "route_prefix": prefix, "args": places})
    options = {"host": "0.0.0.0", "port": cluster.head.ports.serving}  # noqa: S104
    configuration = {"proxy_location": "EveryNode", "http_options": options, "applications": applications}
    (place / "served.yaml").write_text(yaml.safe_dump(configuration))
    deployed = cluster.run("serve", "deploy", "--address", cluster.address, str(place / "served.yaml"))
    assert deployed.returncode == 0, deployed.stdout

    def are_up() -> bool:
        found = cluster.get("api/serve/applications/")["applications"].values()
        assert not [one for one in found if one["status"] == "DEPLOY_FAILED"], found
        return [one["status"] for one in found] == ["RUNNING", "RUNNING"]

    wait_for(are_up, "the services")
    address = f"{cluster.head.address}:{cluster.head.ports.serving}"
    return Served(address, *(done.stdout.strip() for done in added))


def test_the_document_says_who_gets_in(cluster: Cluster, served: Served) -> None:
    """The services go first: a row of the table ends them."""
    worker = cluster.workers[0]
    addresses = {
        "serving": served.address,
        "experiments": f"{served.address}/experiments",
        "looking": f"{served.address}/experiments",
        "dashboard": cluster.address.removeprefix("http://"),
        "worker:52365": f"{worker.address}:{worker.ports.agent}",
        "worker:8080": f"{worker.address}:{worker.ports.metrics}",
    }
    rows = documented()
    assert len(rows) == PAGE.read_text().split("## Who gets in")[1].split("\n## ")[0].count("| `")
    right = {"serving": served.looks, "looking": served.looks, "experiments": served.acts}
    ours = {row: token for row in rows for name, token in right.items() if f" {name}/" in row.what}
    assert [found(cluster, row, addresses, token) for row, token in ours.items()] == [*ours]
    rays = [row for row in rows if row not in ours]
    assert [found(cluster, row, addresses, cluster.secrets.ray) for row in rays] == rays


def test_no_secret_is_written_or_shown_anywhere(cluster: Cluster, calm: RunFolder, served: Served) -> None:
    """After all that was done above; tokens of the services are printed once, by what makes them."""
    job = next(job for job in jobs(cluster, "SUCCEEDED") if job.startswith("train_fcn8s"))
    places = {**logs(cluster), **stored(), **shown(cluster, job)}
    # They are where they should be.
    assert any(calm.url in text for text in places.values())
    assert len([name for name in places if "/logs/" in name]) > 20
    assert not [name for name, text in places.items() for secret in cluster.secrets if secret in text]
    tokens = (served.looks, served.acts)
    assert all(len(token) > 20 for token in tokens)
    assert not [name for name, text in places.items() for token in tokens if name != OUTPUT and token in text]
    assert cluster.secrets.s3 in cluster.environment.values()


def logs(cluster: Cluster) -> dict[str, str]:
    """Return all that Ray has written on any host, or printed."""
    written = {str(path): path.read_text() for path in cluster.logs.iterdir()}
    for host in (cluster.head, *cluster.workers):
        command = ["grep", "-rIs", "", str(host.folder), "--exclude-dir=runtime_resources"]
        lines = subprocess.run(host.command(*command), capture_output=True, text=True, check=False, errors="replace")
        for line in lines.stdout.splitlines():
            name, _, text = line.partition(":")
            written[f"{host.name}:{name}"] = f"{written.get(f'{host.name}:{name}', '')}{text}\n"
    return written


def stored() -> dict[str, str]:
    """Return everything in the bucket."""
    found = boto3.resource("s3").Bucket("lab").objects.all()
    return {one.key: one.get()["Body"].read().decode(errors="replace") for one in found}


def shown(cluster: Cluster, job: str) -> dict[str, str]:
    """Return what Ray tells of a job and of itself."""
    pages = [f"api/jobs/{job}", "api/jobs/", f"api/jobs/{job}/logs", "api/v0/runtime_envs", "api/v0/actors?detail=1"]
    pages += ["api/v0/tasks?detail=1&limit=10000", "api/v0/workers?detail=1", "nodes?view=summary"]
    found = {page: str(cluster.get(page)) for page in pages}
    metrics = cluster.read(f"http://{cluster.workers[0].address}:{cluster.workers[0].ports.metrics}/metrics")
    assert "ray_" in metrics
    return {**found, "metrics": metrics, OUTPUT: "".join(cluster.printed)}


def jobs(cluster: Cluster, status: str) -> list[str]:
    return [job["submission_id"] for job in cluster.get("api/jobs/") if job["status"] == status]
