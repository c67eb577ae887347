import json
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from fcn_core import storage
from fcn_core.checkpoint import RunFolder
from fcn_core.comparison import Entrant, arms_of, compare
from fcn_core.metrics.rules import Rule
from fcn_core.registry.store import MODELS, Registry
from fcn_core.stored import read_evaluation
from tests.faulty import Fault, faulty_s3
from tests.registry.made import NAME
from tests.services.lab.conftest import Place
from tests.services.lab.made import FakeCluster, add_run, client_of, epochs_of, lab_of
from tests.services.serving import problem
from tests.tiny import changed


def names(answer: dict[str, Any]) -> list[str]:
    return [one["name"] for one in answer["runs"]]


def test_the_leaderboard_has_the_best_first_and_runs_without_a_score_last(client: TestClient) -> None:
    found = client.get("/v1/runs").json()
    assert names(found) == ["good", "unlike", "poor", "begun"]
    assert (found["total"], found["data"], found["evaluations"]) == (4, ["streets"], ["val"])
    best, begun = found["runs"][0], found["runs"][-1]
    assert best["score"]["low"] < best["score"]["value"] < best["score"]["high"]
    assert best["score"]["rule"].startswith("3 classes")
    assert best["score"]["step"] == 9
    assert best["network"] == "FCN-8s on vgg16_bn"
    assert (begun["score"], begun["finished"], begun["epochs"], begun["of_epochs"]) == (None, False, 2, 3)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("sort=name&ascending=true", ["begun", "good", "poor", "unlike"]),
        ("sort=epochs&ascending=true&limit=1", ["begun"]),
        ("search=FCN-32s", ["poor"]),
        ("finished=false", ["begun"]),
        ("data=camvid", []),
        ("offset=2", ["poor", "begun"]),
        ("offset=9", []),
    ],
)
def test_runs_are_sorted_filtered_and_paged(client: TestClient, query: str, expected: list[str]) -> None:
    assert names(client.get(f"/v1/runs?{query}").json()) == expected


def test_a_run_is_told_with_everything_that_is_stored(client: TestClient, place: Place) -> None:
    found = client.get(f"/v1/runs/{place.good}").json()
    assert found["settings"]["optim.learning_rate"] == 0.05
    assert [one["epoch"] for one in found["history"]] == [1, 2, 3]
    assert found["figures"] == ["evaluations/val/predictions.png", "figures/validation.png"]
    assert found["scores"]["val"] == found["score"]
    assert found["rule"] == "a rule"
    assert found["versions"]["torch"]
    assert (found["restarts"], found["packed"]) == ([], [])
    for figure in found["figures"]:
        answer = client.get(f"/v1/runs/{place.good}/figures/{figure}")
        assert answer.headers["content-type"] == "image/png"
        assert answer.content.startswith(b"\x89PNG")


def test_an_evaluation_is_the_stored_one(client: TestClient, place: Place) -> None:
    stored = read_evaluation(f"{place.folder}/runs/{place.good}/evaluations/val")
    assert stored is not None
    answer = client.get(f"/v1/runs/{place.good}/evaluations/val")
    assert answer.json() == stored.report.model_dump(mode="json")


def test_epochs_come_as_they_are_written(tmp_path: Path, cluster: FakeCluster) -> None:
    run_id = add_run(tmp_path, {}, epochs=1, errors=None)
    with client_of(lab_of(tmp_path, cluster, refresh_s=1000.0)) as client:
        path = f"/v1/runs/{run_id}/epochs"
        assert [one["epoch"] for one in client.get(path).json()["epochs"]] == [1]
        RunFolder(f"{tmp_path}/runs/{run_id}").write_epochs(epochs_of(changed({}), 3, 0.8))
        found = client.get(path, params={"after": 1}).json()
    assert ([one["epoch"] for one in found["epochs"]], found["finished"]) == ([2, 3], True)


def test_settings_that_differ(client: TestClient, place: Place) -> None:
    found = client.get("/v1/differences", params={"run": [place.good, place.poor]}).json()
    assert {one["name"]: one["values"] for one in found["settings"]} == {
        "name": ["good", "poor"],
        "model.stride": [8, 32],
        "optim.learning_rate": [0.05, 0.001],
    }
    assert found["same"] > 30


def test_a_comparison_is_the_paired_one(client: TestClient, place: Place) -> None:
    answer = client.get("/v1/comparisons", params={"run": [place.good, place.poor]})
    runs = [(changed({"name": "good"}), place.good)]
    runs += [(changed({"name": "poor", "optim.learning_rate": 0.001, "model.stride": 32}), place.poor)]
    entrants = []
    for run, run_id in runs:
        stored = read_evaluation(f"{place.folder}/runs/{run_id}/evaluations/val")
        assert stored is not None
        entrants.append(Entrant(run, stored))
    assert answer.json() == compare(arms_of(entrants), Rule()).model_dump(mode="json")
    assert answer.json()["differences"][0]["mean_iou"]["high"] < 0


@pytest.mark.parametrize(
    ("others", "status", "message"),
    [
        (["unlike"], 409, "their data (SHA-256) differ"),
        (["begun"], 409, "has no evaluation val: submit evaluate"),
        (["good"], 422, "give at least two runs"),
        ([], 422, "at least 2 items"),
    ],
)
def test_what_cannot_be_compared_is_said(
    client: TestClient, place: Place, others: list[str], status: int, message: str
) -> None:
    runs = [place.good, *(getattr(place, name) for name in others)]
    assert message in problem(client.get("/v1/comparisons", params={"run": runs}), status)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/runs/nobody",
        "/v1/runs/..",
        "/v1/runs/nobody/epochs",
        "/v1/runs/{run}/evaluations/test",
        "/v1/runs/{run}/figures/run.json",
        "/v1/runs/{run}/figures/..%2Frun.json",
        "/v1/runs/{run}/figures/figures/..%2F..%2Frun.json",
        "/v1/differences?run=nobody&run=nothing",
        "/v1/sweeps/nothing",
        "/v1/sweeps/{sweep}/figures/figures/none.png",
        "/v1/models/nothing",
        "/nothing",
    ],
)
def test_what_is_not_there_is_a_problem(client: TestClient, place: Place, path: str) -> None:
    problem(client.get(path.format(run=place.good, sweep="tiny-0123456789")), 404)


def test_sweeps_are_told_while_they_run(client: TestClient) -> None:
    (found,) = client.get("/v1/sweeps").json()["sweeps"]
    assert (found["trials"], found["ended"], found["finished"], found["best"]) == (3, 2, False, None)
    details = client.get(f"/v1/sweeps/{found['sweep_id']}").json()
    assert [(one["number"], one["score"]) for one in details["table"]] == [(1, 0.1), (0, 0.0), (2, None)]
    assert details["table"][0]["point"] == {"optim.learning_rate": 0.2}


def test_models_are_told_with_log_and_gate(client: TestClient, place: Place) -> None:
    registry = Registry(str(place.folder / MODELS))
    found = client.get(f"/v1/models/{NAME}").json()
    assert found == client.get("/v1/models").json()["models"][0]
    assert (found["champion"], [one["version"] for one in found["versions"]]) == (2, [2, 1])
    assert [one["number"] for one in found["log"]] == [entry.number for entry in registry.history(NAME)][::-1]
    assert [check["name"] for check in found["versions"][0]["gate"]["checks"]][-1] == "not worse"
    version = registry.read(NAME, 2)
    assert found["versions"][0]["weights"] == version.weights
    packed = client.get(f"/v1/runs/{place.good}").json()["packed"]
    assert packed == []


def test_a_run_tells_what_was_packed_of_it(tmp_path: Path, place: Place, cluster: FakeCluster) -> None:
    shutil.copytree(place.folder, tmp_path, dirs_exist_ok=True)
    facts = json.loads((tmp_path / MODELS / NAME / "2" / "version.json").read_text())
    facts["checkpoint"]["run_id"] = place.good
    (tmp_path / MODELS / NAME / "2" / "version.json").write_text(json.dumps(facts))
    with client_of(lab_of(tmp_path, cluster)) as client:
        (packed,) = client.get(f"/v1/runs/{place.good}").json()["packed"]
    assert (packed["model"], packed["version"], packed["champion"]) == (NAME, 2, True)
    assert packed["gate"]["checks"]


def test_what_is_damaged_is_named_and_harms_nothing_else(tmp_path: Path, cluster: FakeCluster) -> None:
    good, bad, torn = (add_run(tmp_path, {"name": name}) for name in ("good", "bad", "torn"))
    (tmp_path / "runs" / bad / "run.json").write_text("{")
    (tmp_path / "runs" / torn / "epochs.jsonl").write_text('{"epoch": 1}')
    (tmp_path / "runs" / torn / "restarts.jsonl").write_text("no JSON")
    (tmp_path / "runs" / torn / "evaluations" / "val" / "scores.json").write_text("{}")
    with client_of(lab_of(tmp_path, cluster)) as client:
        found = client.get("/v1/runs").json()
        assert (names(found), found["damaged"]) == (["good", "torn"], [bad])
        assert found["runs"][1]["score"] is None
        assert "damaged" in problem(client.get(f"/v1/runs/{bad}"), 409)
        assert "epochs.jsonl" in problem(client.get(f"/v1/runs/{torn}"), 409)
        assert "damaged" in problem(client.get(f"/v1/runs/{torn}/evaluations/val"), 409)
        assert "damaged" in problem(client.get("/v1/comparisons", params={"run": [good, torn]}), 409)


def test_restarts_are_told_where_they_are_recorded(tmp_path: Path, cluster: FakeCluster) -> None:
    run_id = add_run(tmp_path, {})
    (tmp_path / "runs" / run_id / "restarts.jsonl").write_text('{"restart": 1, "cause": "x"}\n')
    with client_of(lab_of(tmp_path, cluster)) as client:
        assert client.get(f"/v1/runs/{run_id}").json()["restarts"] == [{"restart": 1, "cause": "x"}]


def test_files_are_read_once_and_anew_when_they_change(
    tmp_path: Path, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = add_run(tmp_path, {}, epochs=1, errors=None)
    add_run(tmp_path, {"name": "other"})
    read: list[str] = []
    plain = storage.read_bytes

    def noted(url: str) -> bytes:
        read.append(url)
        return plain(url)

    monkeypatch.setattr(storage, "read_bytes", noted)
    with client_of(lab_of(tmp_path, cluster)) as client:
        client.get("/v1/runs")
        assert len(read) == len(set(read)) == 5
        client.get("/v1/runs")
        assert len(read) == 5
        RunFolder(f"{tmp_path}/runs/{run_id}").write_epochs(epochs_of(changed({}), 3, 0.8))
        deadline = time.monotonic() + 60
        # A list is kept for a while, the longer the longer it took to make.
        while client.get("/v1/runs?search=tiny").json()["runs"][0]["epochs"] != 3:
            assert time.monotonic() < deadline
        assert read[5:] == [f"{tmp_path}/runs/{run_id}/epochs.jsonl"]


def test_an_empty_storage_is_no_error(tmp_path: Path, cluster: FakeCluster) -> None:
    with client_of(lab_of(tmp_path / "nothing", cluster)) as client:
        assert client.get("/v1/runs").json()["runs"] == []
        assert client.get("/v1/sweeps").json() == {"sweeps": []}
        assert client.get("/v1/models").json() == {"models": []}
        assert client.get("/readyz").status_code == 200


def test_a_storage_that_does_not_answer_is_a_problem(
    place: Place, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: str) -> dict[str, str]:
        raise TimeoutError("secret endpoint")

    with client_of(lab_of(place.folder, cluster)) as client:
        monkeypatch.setattr(storage, "find_files", fail)
        answer = client.get("/v1/runs")
        assert "secret" not in problem(answer, 503)
        assert answer.headers["retry-after"] == "5"
        assert client.get("/readyz").status_code == 503
        assert client.get("/healthz").status_code == 200


def test_a_storage_that_hangs_holds_up_nothing_else(
    cluster: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with faulty_s3(monkeypatch, deadline_s=300.0, patience_s=300.0) as s3:
        run_id = add_run(tmp_path, {})
        copy_to(f"s3://lab/{tmp_path.name}", tmp_path)
        asked = ("/v1/runs", f"/v1/runs/{run_id}/epochs")
        with client_of(lab_of(f"s3://lab/{tmp_path.name}", cluster, patience_s=0.5)) as client:
            wait_for(lambda: {client.get(path).status_code for path in asked} == {200})
            with s3.failing(Fault("hang", ".")), ThreadPoolExecutor(51) as threads:
                # More than the service has threads.
                waiting = [threads.submit(client.get, path) for path in asked * 25]
                assert threads.submit(client.get, "/v1/jobs").result(60).status_code == 200
                assert {one.result(60).status_code for one in waiting} <= {200, 503}
                wait_for(lambda: {client.get(path).status_code for path in asked} == {503})
            wait_for(lambda: {client.get(path).status_code for path in asked} == {200})


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def copy_to(url: str, folder: Path) -> None:
    for file in sorted((folder / "runs").rglob("*")):
        if file.is_file():
            storage.write_bytes(f"{url}/{file.relative_to(folder)}", file.read_bytes())


def test_buckets_are_read_as_folders_are(bucket: str, cluster: FakeCluster, tmp_path: Path) -> None:
    run_id = add_run(tmp_path, {})
    copy_to(f"{bucket}/{tmp_path.name}", tmp_path)
    ours, theirs = lab_of(tmp_path, cluster), lab_of(f"{bucket}/{tmp_path.name}", cluster)
    with client_of(ours) as local, client_of(theirs) as remote:
        for path in ("/v1/runs", f"/v1/runs/{run_id}", f"/v1/runs/{run_id}/evaluations/val", "/v1/models"):
            assert remote.get(path).json() == local.get(path).json()
