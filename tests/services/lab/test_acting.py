import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from jobs._check import CHECKS
from services.lab import jobs
from services.lab.jobs import Jobs, commands, look_at
from services.lab.service import Lab
from services.lab.settings import Experiments
from tests.jobs.commands import ROOT
from tests.services.lab.conftest import Place
from tests.services.lab.made import FakeCluster, FakeJob, client_of, fine, lab_of, reader_and_actor
from tests.services.serving import problem
from tests.services.test_access import bearer

TRAIN = {"command": "train_fcn8s", "arguments": ["streets", "--workers", "2"]}


def test_a_command_is_submitted_followed_and_stopped(client: TestClient, cluster: FakeCluster, place: Place) -> None:
    answer = client.post("/v1/jobs", json=TRAIN)
    assert answer.status_code == 201
    job = answer.json()
    expected = [sys.executable, "-m", "jobs.train_fcn8s", *TRAIN["arguments"]]
    assert shlex.split(cluster.jobs[job["job_id"]].entrypoint) == expected
    assert cluster.environments == [{"working_dir": str(ROOT), "env_vars": {"FCN_STORAGE": str(place.folder)}}]
    assert (job["command"], job["arguments"], job["owner"]) == ("train_fcn8s", TRAIN["arguments"], "anybody")
    assert job["status"] == "RUNNING"
    assert client.get("/v1/jobs").json()["jobs"] == [job]

    cluster.logs[job["job_id"]] = f"run {place.begun} in {place.folder}/runs\nepoch 1\n"
    part = client.get(f"/v1/jobs/{job['job_id']}/log").json()
    assert (part["text"], part["offset"]) == (cluster.logs[job["job_id"]], 0)
    assert part["job"]["run_id"] == place.begun
    cluster.logs[job["job_id"]] += "epoch 2\n"
    more = client.get(f"/v1/jobs/{job['job_id']}/log", params={"offset": part["next"]}).json()
    assert more["text"] == "epoch 2\n"
    assert client.get("/v1/jobs").json()["jobs"][0]["run_id"] == place.begun

    stopped = client.post(f"/v1/jobs/{job['job_id']}/stop")
    assert (stopped.status_code, stopped.json()["status"]) == (202, "STOPPED")
    assert "has ended" in problem(client.post(f"/v1/jobs/{job['job_id']}/stop"), 409)


def test_what_is_submitted_can_be_carried_out(client: TestClient, cluster: FakeCluster) -> None:
    """By a command that keeps nothing, so that it has no option for where."""
    arguments = ["streets", "--splits=val", "--strides=32", "--every=40"]
    job = client.post("/v1/jobs", json={"command": "ceiling", "arguments": arguments}).json()
    done = subprocess.run(
        shlex.split(cluster.jobs[job["job_id"]].entrypoint),
        cwd=cluster.environments[0]["working_dir"],
        env=os.environ | cluster.environments[0]["env_vars"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "average" in done.stdout


def test_another_cluster_has_its_own_python(place: Place, cluster: FakeCluster) -> None:
    settings = Experiments(storage=str(place.folder), cluster="http://10.0.0.1:8265")
    with client_of(Lab(settings, lambda: cluster, fine)) as client:
        job = client.post("/v1/jobs", json=TRAIN).json()
    assert shlex.split(cluster.jobs[job["job_id"]].entrypoint)[0] == "python"


def test_the_same_command_runs_once_at_a_time(client: TestClient, cluster: FakeCluster) -> None:
    job_id = client.post("/v1/jobs", json=TRAIN).json()["job_id"]
    assert problem(client.post("/v1/jobs", json=TRAIN), 409).startswith(f"{job_id} does this already")
    assert client.post("/v1/jobs", json=TRAIN | {"arguments": ["streets"]}).status_code == 201
    cluster.end(job_id, "FAILED")
    assert client.post("/v1/jobs", json=TRAIN).status_code == 201


@pytest.mark.parametrize(
    ("submission", "message"),
    [
        ({"command": "rm"}, "no command 'rm'; commands are ceiling, compare,"),
        ({"command": "../jobs/evaluate"}, "no command"),
        ({"command": "_check"}, "no command"),
        ({"command": "submit"}, "no command"),
        ({"command": "storage", "arguments": ["repair", "s3://lab"]}, "no command"),
        ({"command": "evaluate", "arguments": ["--storage=/etc"]}, "--storage cannot be set here"),
        ({"command": "evaluate", "arguments": ["--storage", "/etc"]}, "--storage cannot be set here"),
        ({"command": "evaluate", "arguments": ["--STORAGE=/etc"]}, "--storage cannot be set here"),
        ({"command": "evaluate", "arguments": ["--config", "x"]}, "--config cannot be set here"),
        ({"command": "evaluate", "arguments": ["--Config", "x"]}, "--config cannot be set here"),
        ({"command": "evaluate", "arguments": ["--help"]}, "--help cannot be set here"),
        ({"command": "evaluate", "arguments": ["a\nb"]}, "arguments are lines"),
        ({"command": "evaluate", "arguments": ["a" * 1001]}, "arguments are lines"),
        ({"command": "evaluate", "arguments": ["a"] * 101}, "at most 100 items"),
        ({"command": "evaluate", "arguments": "a"}, "arguments"),
        ({"command": "evaluate", "shell": "rm"}, "shell"),
        ({}, "command"),
    ],
)
def test_nothing_else_can_be_run(
    client: TestClient, cluster: FakeCluster, submission: dict[str, object], message: str
) -> None:
    assert message in problem(client.post("/v1/jobs", json=submission), 422)
    assert not cluster.jobs


def test_arguments_are_quoted_for_the_shell(client: TestClient, cluster: FakeCluster) -> None:
    odd = ["streets", "--name", "$(touch x); `id` 'a' \"b\" \\ ü"]
    job = client.post("/v1/jobs", json={"command": "train_fcn8s", "arguments": odd}).json()
    assert job["arguments"] == odd
    assert shlex.split(cluster.jobs[job["job_id"]].entrypoint)[3:6] == odd


def test_what_a_command_finds_wrong_with_its_arguments_is_a_problem(place: Place, cluster: FakeCluster) -> None:
    def check(command: str, arguments: Sequence[str]) -> str | None:
        return f"{command}: no setting {arguments[-1]!r}"

    lab = lab_of(place.folder, cluster)
    lab.jobs = Jobs(lambda: cluster, "results", sys.executable, 1000, check)
    with client_of(lab) as client:
        submission = {"command": "evaluate", "arguments": ["RUN", "--splt"]}
        assert problem(client.post("/v1/jobs", json=submission), 422) == "evaluate: no setting '--splt'"


def test_every_file_of_jobs_is_a_command_that_can_be_looked_at() -> None:
    known = {file.stem for file in (ROOT / "jobs").glob("[!_]*.py")} - jobs.NOT_HERE
    assert {one.name for one in commands()} == known == set(CHECKS)
    assert all(one.summary and "`" not in one.summary for one in commands())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "arguments", "wrong"),
    [
        ("train_fcn8s", ["streets", "--optim.epochs", "4"], None),
        ("train_fcn8s", ["street"], "no experiment 'street'"),
        ("evaluate", ["RUN", "--splt", "test"], "no setting 'splt'; did you mean split"),
        ("promote", ["RUN"], "model: Field required"),
        ("nothing", [], "no command 'nothing'"),
    ],
)
def test_a_command_looks_at_its_arguments_itself(command: str, arguments: list[str], wrong: str | None) -> None:
    found = look_at(command, arguments)
    assert found is None if wrong is None else wrong in (found or "")


def test_jobs_of_others_are_neither_shown_nor_stopped(client: TestClient, cluster: FakeCluster) -> None:
    cluster.jobs["theirs"] = FakeJob("theirs", "python their/train.py --secret x")
    cluster.jobs["driver"] = FakeJob(None, "python jobs/evaluate.py RUN")
    cluster.jobs["ours"] = FakeJob("ours", "FCN_X=1 python jobs/evaluate.py 'A RUN' --split test")
    cluster.jobs["odd"] = FakeJob("odd", "python jobs/compare.py 'A", start_time=1)
    shown, odd = client.get("/v1/jobs").json()["jobs"]
    assert odd["arguments"] == ["'A"]
    assert (shown["job_id"], shown["command"], shown["owner"]) == ("ours", "evaluate", None)
    assert shown["arguments"] == ["A RUN", "--split", "test"]
    for answer in (
        client.get("/v1/jobs/theirs"),
        client.get("/v1/jobs/theirs/log"),
        client.post("/v1/jobs/theirs/stop"),
    ):
        assert problem(answer, 404) == "there is no job theirs"


def test_of_a_long_log_the_end_is_sent(place: Place, cluster: FakeCluster) -> None:
    with client_of(lab_of(place.folder, cluster, max_log_bytes=1024)) as client:
        job_id = client.post("/v1/jobs", json=TRAIN).json()["job_id"]
        cluster.logs[job_id] = "ä" * 1000
        part = client.get(f"/v1/jobs/{job_id}/log").json()
        assert (part["offset"], part["next"], part["text"]) == (976, 2000, "ä" * 512)
        assert client.get(f"/v1/jobs/{job_id}/log", params={"offset": 9000}).json()["offset"] == 976


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (
            ConnectionError("Failed to connect to http://head:8265"),
            503,
            "the cluster cannot be reached",
        ),
        (
            RuntimeError("Request failed with status code 500: secret"),
            502,
            "does not answer as it should: RuntimeError",
        ),
    ],
)
def test_a_cluster_that_does_not_answer_is_a_problem_and_may_come_back(
    client: TestClient, cluster: FakeCluster, error: Exception, status: int, message: str
) -> None:
    cluster.broken = error
    assert message in problem(client.get("/v1/jobs"), status)
    assert "secret" not in client.get("/v1/jobs").text
    assert client.get("/v1/runs").status_code == 200
    cluster.broken = None
    assert client.get("/v1/jobs").status_code == 200


def test_a_promotion_is_a_job(client: TestClient, cluster: FakeCluster, place: Place) -> None:
    wanted = {"run_id": place.good, "model": "streets", "force": "new camera"}
    job = client.post("/v1/promotions", json=wanted).json()
    assert job["command"] == "promote"
    assert job["arguments"] == [place.good, "--model", "streets", "--evaluation", "val", "--force", "new camera"]
    assert len(cluster.jobs) == 1


@pytest.mark.parametrize(
    ("changes", "status", "message"),
    [
        ({"run_id": "nobody"}, 404, "there is no run nobody"),
        ({"model": "No Name"}, 422, "no name of a model"),
        ({"evaluation": "test"}, 409, "has no evaluation test"),
        ({"force": ""}, 422, "force"),
    ],
)
def test_promotions_that_cannot_be_are_refused(
    client: TestClient, cluster: FakeCluster, place: Place, changes: dict[str, str], status: int, message: str
) -> None:
    answer = client.post("/v1/promotions", json={"run_id": place.good, "model": "streets"} | changes)
    assert message in problem(answer, status)
    assert not cluster.jobs


@pytest.fixture
def guarded(place: Place, cluster: FakeCluster, tmp_path: Path) -> Iterator[TestClient]:
    with client_of(lab_of(place.folder, cluster, tokens=reader_and_actor(tmp_path))) as client:
        yield client


ACTING = ("/v1/jobs", "/v1/promotions", "/v1/jobs/raysubmit_0/stop")
READING = ("/v1/runs", "/v1/runs/x", "/v1/jobs", "/v1/commands", "/v1/models", "/v1/sweeps", "/v1/whoami")


def test_reading_and_acting_are_different_rights(guarded: TestClient, cluster: FakeCluster) -> None:
    for path in READING:
        assert guarded.get(path).status_code == 401
        assert guarded.get(path, headers=bearer("fcn_read")).status_code in (200, 404)
    for path in ACTING:
        assert guarded.post(path, json=TRAIN).status_code == 401
        assert "the token reader may read, not act" in problem(
            guarded.post(path, json=TRAIN, headers=bearer("fcn_read")), 403
        )
    assert not cluster.jobs
    assert guarded.post("/v1/jobs", json=TRAIN, headers=bearer("fcn_act")).json()["owner"] == "actor"
    rights = [guarded.get("/v1/whoami", headers=bearer(one)).json() for one in ("fcn_read", "fcn_act")]
    assert rights == [{"name": "reader", "may_act": False}, {"name": "actor", "may_act": True}]


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://127.0.0.1:3000", "null", "http://[", "http://127.0.0.1.x"]
)
def test_pages_of_other_sites_may_not_act(client: TestClient, cluster: FakeCluster, origin: str) -> None:
    assert "may not act here" in problem(client.post("/v1/jobs", json=TRAIN, headers={"origin": origin}), 403)
    assert not cluster.jobs
    own = {"origin": "http://127.0.0.1"}
    assert client.post("/v1/jobs", json=TRAIN, headers=own).status_code == 201


def test_names_that_are_no_loopback_names_are_refused(client: TestClient) -> None:
    for path in READING:
        problem(client.get(path, headers={"host": "evil.example"}), 421)
    problem(client.post("/v1/jobs", json=TRAIN, headers={"host": "evil.example"}), 421)


def test_bodies_are_bounded(client: TestClient, cluster: FakeCluster) -> None:
    answer = client.post("/v1/jobs", json=TRAIN | {"arguments": ["a" * 70_000]})
    assert "larger than 65536 bytes" in problem(answer, 413)
    problem(client.post("/v1/jobs", content=b"{", headers={"content-type": "application/json"}), 422)
    problem(client.post("/v1/jobs", content=b"x=1", headers={"content-type": "text/plain"}), 422)
    assert not cluster.jobs


def test_the_token_of_the_cluster_stays_here(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "r" * 40)
    client.post("/v1/jobs", json=TRAIN)
    for path in (*READING, "/v1/jobs/raysubmit_0/log", "/openapi.json"):
        answer = client.get(path)
        assert "r" * 40 not in answer.text + str(answer.headers)


def test_every_response_has_an_id_and_security_headers(client: TestClient) -> None:
    for path in ("/v1/runs", "/nothing", "/healthz", "/openapi.json"):
        headers = client.get(path, headers={"x-request-id": "mine"}).headers
        assert headers["x-request-id"] == "mine"
        assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert headers["cache-control"] == "no-store"
    page = client.get("/")
    assert "unsafe" not in page.headers["content-security-policy"]
    assert page.headers["content-type"].startswith("text/html")
