import json
import subprocess
import sys
from pathlib import Path

import pytest
from torch import Tensor

from fcn_core import storage
from fcn_core.checkpoint import RunFolder
from fcn_core.runtime import LocalRuntime
from jobs import _ray
from jobs._cli import Launch
from jobs._ray import JOB_CONFIG, ROOT, _join, check_reach, environment_variables
from jobs._train import _worker
from tests.jobs.commands import write_run
from tests.tiny import TINY, audit_of


def test_what_may_be_secret_is_no_setting_that_ray_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "MLFLOW_TRACKING_PASSWORD", "RAY_AUTH_TOKEN", "FCN_CACHE"):
        monkeypatch.setenv(name, "value")
    assert {name for name, value in environment_variables().items() if value == "value"} == {"FCN_CACHE"}


@pytest.mark.parametrize("there", [None, b"of another"])
def test_a_folder_that_is_not_the_same_on_all_nodes_is_refused(
    there: bytes | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "lock").write_bytes(b"ours")
    found = {"10.0.0.1 (head)": b"ours", "10.0.0.2 (ab12)": there}
    monkeypatch.setattr(_ray, "_on_each_node", lambda path: found if path == f"{tmp_path}/lock" else {})
    # A Ray of our own is on this machine.
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    check_reach(f"{tmp_path}/lock")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    check_reach("memory://lab/lock")
    with pytest.raises(
        ValueError, match=rf"^{tmp_path} is not the same folder on node 10.0.0.2 \(ab12\) as here: give"
    ):
        check_reach(f"{tmp_path}/lock")
    found["10.0.0.2 (ab12)"] = b"ours"
    check_reach(f"{tmp_path}/lock")


@pytest.mark.parametrize("config", [None, {"runtime_env": None}, {"runtime_env": {"env_vars": {"FCN_CACHE": "/a"}}}])
def test_ray_is_not_told_twice_what_a_job_was_submitted_with(
    config: dict[str, object] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, str]] = []
    monkeypatch.setattr("ray.init", lambda **settings: told.append(settings["runtime_env"]["env_vars"]))
    monkeypatch.delenv(JOB_CONFIG, raising=False)
    if config is not None:
        monkeypatch.setenv(JOB_CONFIG, json.dumps(config))
    for name in ("FCN_CACHE", "FCN_STORAGE_DEADLINE_S"):
        monkeypatch.setenv(name, "7")
    _join("10.0.0.1:6379")
    assert told[0]["FCN_STORAGE_DEADLINE_S"] == "7"
    assert ("FCN_CACHE" in told[0]) == (not config or not config["runtime_env"])


@pytest.mark.parametrize(
    ("imported", "not_loaded"),
    [
        # What others bring into the environment: each process of Ray would load it.
        ("ray", ("lark", "rfc3987_syntax", "torch", "pandas")),
        # A trial, and the commands that start workers.
        ("jobs._tune", ("scipy", "matplotlib")),
        ("jobs._train", ("scipy", "matplotlib")),
    ],
)
def test_processes_load_nothing_that_takes_long_and_that_they_do_not_use(
    imported: str, not_loaded: tuple[str, ...]
) -> None:
    code = f"import sys, {imported}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    loaded = done.stdout.split()
    assert imported in loaded
    assert [name for name in not_loaded if name in loaded] == [], "if others brought it into .venv before: make clean"


class Two(LocalRuntime):
    """A worker that hears of so many others that lack the folder."""

    lacking = 0

    def sum_over_workers(self, tensor: Tensor) -> Tensor:
        return tensor + self.lacking


def test_a_node_that_came_later_with_a_folder_of_its_own_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("jobs._runtime.RayRuntime", lambda _: Two("cpu", 0, 1))
    url = str(tmp_path / "run")
    config = {"run": TINY, "launch": Launch(), "url": url, "audit": audit_of(TINY), "board": None}
    refused = _worker(config)
    assert isinstance(refused, storage.RefusedError)
    assert f"{tmp_path}/run is not the same folder on the nodes of 1 of 1 workers as here" in str(refused)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(Two, "lacking", 1)
    write_run(url, TINY)
    assert isinstance(_worker(config), storage.RefusedError), "the other one lacks it"
    monkeypatch.setattr(Two, "lacking", 0)
    assert _worker(config) is None
    assert len(RunFolder(url).read_epochs()) == TINY.optim.last_epoch
