"""Each storage operation of a save and of a restore, failing: no bad load, no false commit.

Each call of the client fails in each way; where two operations make the same call, one of them does.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import boto3
import pytest
import torch

from fcn_core import storage
from fcn_core.checkpoint import Card, RunFolder
from fcn_core.runtime import LocalRuntime
from fcn_core.saving import Saver
from fcn_core.storage.leftovers import abort_upload, uploads
from jobs._storage_check import look_over
from tests.faulty import Fault, Kind, Proxy, faulty_s3, use_s3
from tests.swift_server import swift
from tests.test_checkpoint import CLASSES, MODEL, epochs

pytestmark = pytest.mark.slow

EACH: tuple[Kind, ...] = ("500", "503", "403", "reset", "hang", "slow", "truncated")
# Of calls that list, which may hang for ten times as long, and of calls that only another name tells from one above.
QUICK: tuple[Kind, ...] = ("503", "403", "reset", "truncated")
FEW: tuple[Kind, ...] = ("403", "reset")
SAVE: dict[str, tuple[str, tuple[Kind, ...]]] = {
    "old COMMIT": ("DELETE .*00000004/COMMIT", QUICK),
    "old files": ("GET .*prefix=[^&]*00000004", QUICK),
    "weights": (r"PUT .*00000004/model\.safetensors", EACH),
    "state": (r"PUT .*00000004/state\.pt", FEW),
    "card": (r"PUT .*00000004/model\.json", FEW),
    "manifest": (r"PUT .*00000004/manifest\.json", FEW),
    "COMMIT": ("PUT .*00000004/COMMIT", EACH),
    "epochs": (r"PUT .*epochs\.jsonl", EACH),
    "list": ("GET .*prefix=[^&]*checkpoints(/|%2F)&", QUICK),
    "kept COMMIT": ("GET .*00000003/COMMIT", FEW),
    "pruned COMMIT": ("DELETE .*00000002/COMMIT", FEW),
    "pruned files": (r"POST .*delete", QUICK),
}
AFTER_COMMIT = ("epochs", "list", "kept COMMIT", "pruned COMMIT", "pruned files")
RESTORE: dict[str, tuple[str, tuple[Kind, ...]]] = {
    "list": ("GET .*prefix=[^&]*checkpoints(/|%2F)&", QUICK),
    "manifest": ("GET .*manifest", EACH),
    "COMMIT": ("GET .*COMMIT", FEW),
    "weights": (r"GET .*model\.safetensors", EACH),
    "state": (r"GET .*state\.pt", FEW),
    "card": (r"GET .*model\.json", FEW),
}


BOTH = pytest.mark.parametrize("s3", ["moto", "swift"], indirect=True)


@pytest.fixture(scope="module")
def s3(request: pytest.FixtureRequest) -> Iterator[Proxy]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "moto":
            with faulty_s3(patch, deadline_s=2.0, patience_s=60.0) as proxy:
                yield proxy
        else:
            with swift() as access, use_s3(patch, access, deadline_s=2.0, patience_s=60.0) as proxy:
                yield proxy


@pytest.fixture
def folder(s3: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    assert not s3.faults
    monkeypatch.setenv("FCN_CACHE", str(tmp_path / "cache"))
    return RunFolder(f"s3://lab/{tmp_path.name}/run-0")


def state_of(step: int) -> dict[str, object]:
    return {"step": step, "unscored": False}


def save(folder: RunFolder, step: int) -> None:
    """Carry out what the thread of the first worker does."""
    card = Card(
        model=MODEL, classes=CLASSES, scale=1.0, bf16=False, run_id="run-0", step=step, epoch=step, mean_iou=None
    )
    scored = epochs(*((number, 0.5 if number == 3 else 0.4) for number in range(1, step + 1)))
    saver = Saver(folder, CLASSES, 2, LocalRuntime())
    saver._publish(card, {"weight": torch.full((1000,), float(step))}, state_of(step), scored)


def assert_latest(folder: RunFolder, step: int) -> None:
    restored = folder.latest("run-0", lambda _: None)
    assert restored is not None
    assert (restored.step, restored.state) == (step, state_of(step))
    assert restored.weights["weight"].tolist() == [float(step)] * 1000


def assert_every_commit_is_good(folder: RunFolder) -> None:
    for step in folder.steps():
        if storage.exists(storage.join(folder.checkpoint(step), storage.COMMIT)):
            storage.verify(folder.checkpoint(step))


def rows(operations: Mapping[str, tuple[str, tuple[Kind, ...]]], on_swift: Kind) -> pytest.MarkDecorator:
    """Try each operation with its faults on moto, and with one on Swift, which takes longer."""
    chosen = [("moto", kind, name) for name, (_, kinds) in operations.items() for kind in kinds]
    chosen += [("swift", on_swift, name) for name in operations]
    return pytest.mark.parametrize(("s3", "kind", "operation"), chosen, indirect=["s3"])


@rows(SAVE, on_swift="reset")
def test_a_save_that_fails(
    s3: Proxy, folder: RunFolder, kind: Kind, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (2, 3):
        save(folder, step)
    fault = Fault(kind, SAVE[operation][0])
    monkeypatch.setenv("FCN_STORAGE_PATIENCE_S", "1")
    failure: OSError | None = None
    with s3.failing(fault):
        try:
            save(folder, 4)
        except OSError as error:
            failure = error
    assert fault.met, "nothing was asked of the storage that has this pattern"
    if failure is None:
        # Where only an answer without contents was truncated, all was done.
        assert kind in ("slow", "truncated")
    else:
        assert isinstance(failure, storage.RefusedError if kind == "403" else storage.UnavailableError), failure
        assert "\n" not in str(failure)
    monkeypatch.setenv("FCN_STORAGE_PATIENCE_S", "60")
    assert_latest(folder, 4 if failure is None or operation in AFTER_COMMIT else 3)
    assert_every_commit_is_good(folder)
    if kind == "403":
        save(folder, 4)
    else:
        with s3.failing(Fault(kind, SAVE[operation][0], times=1)):
            save(folder, 4)
    assert_latest(folder, 4)
    assert folder.steps() == [3, 4]
    assert len(folder.read_epochs()) == 4
    assert look_over(folder.url, quick=False, progress=lambda *_: None).findings == ()


@rows(RESTORE, on_swift="truncated")
def test_a_restore_that_fails(
    s3: Proxy, folder: RunFolder, kind: Kind, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2):
        save(folder, step)
    fault = Fault(kind, RESTORE[operation][0])
    monkeypatch.setenv("FCN_STORAGE_PATIENCE_S", "1")
    with s3.failing(fault):
        if kind == "slow":
            assert_latest(folder, 2)
        else:
            # Not taken for a checkpoint that is damaged: the one before would cost its steps.
            with pytest.raises(storage.RefusedError if kind == "403" else storage.UnavailableError):
                folder.latest("run-0", lambda _: None)
    assert fault.met
    monkeypatch.setenv("FCN_STORAGE_PATIENCE_S", "60")
    if kind != "403":
        with s3.failing(Fault(kind, RESTORE[operation][0], times=1)):
            assert_latest(folder, 2)


UPLOAD = """
    import sys
    from fcn_core import storage
    with storage.publishing(sys.argv[1]) as folder:
        (folder / "large").write_bytes(bytes(101 * 2**20))
"""


def large(url: str) -> subprocess.Popen[bytes]:
    lines = [line.strip() if line.startswith("    import") else line[4:] for line in UPLOAD.strip("\n").splitlines()]
    environment = os.environ | {"FCN_STORAGE_DEADLINE_S": "60"}
    return subprocess.Popen([sys.executable, "-c", "\n".join(lines), url], env=environment)


@BOTH
def test_a_process_killed_in_a_multipart_upload(s3: Proxy, folder: RunFolder) -> None:
    url = folder.checkpoint(1)
    s3.requests.clear()
    with s3.failing(Fault("hang", "partNumber=2")):
        process = large(url)
        deadline = time.monotonic() + 100
        while not any("partNumber=2" in request for request in s3.requests):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.1)
        process.kill()
        process.wait()
    assert storage.list_folder(url) == []
    with pytest.raises(storage.TornError, match="was never completed"):
        storage.fetch(url)
    left = uploads(folder.url)
    assert [upload.url for upload in left] == [f"{url}/large"]
    [found] = look_over(folder.url, quick=False, progress=lambda *_: None).findings
    assert (found.what, found.unfinished) == ("an upload that never ended", True)
    abort_upload(left[0])
    assert uploads(folder.url) == []


@BOTH
@pytest.mark.parametrize("kind", ["503", "reset"])
def test_a_multipart_upload_that_fails_once_in_each_part(
    s3: Proxy, folder: RunFolder, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FCN_STORAGE_DEADLINE_S", "60")
    operations = (r"POST .*\?uploads", "PUT .*partNumber=1", "PUT .*partNumber=2", r"POST .*\?uploadId=")
    faults = [Fault(kind, operation, times=1) for operation in operations]
    with s3.failing(*faults), storage.publishing(folder.checkpoint(1)) as place:
        (place / "large").write_bytes(bytes(101 * 2**20))
    assert all(fault.met for fault in faults)
    assert storage.verify(folder.checkpoint(1))["large"]["size"] == 101 * 2**20


@BOTH
def test_what_a_bucket_holds_is_listed_as_any_client_does(s3: Proxy, folder: RunFolder) -> None:
    save(folder, 1)
    # Not the session that boto3 keeps, which may have another server's credentials.
    client: Any = boto3.session.Session().client("s3", endpoint_url=s3.url)
    listed = client.list_objects_v2(Bucket="lab", Prefix=folder.url.removeprefix("s3://lab/"))["Contents"]
    assert sorted(one["Key"].rpartition("/")[2] for one in listed) == sorted(
        [storage.COMMIT, storage.MANIFEST, "epochs.jsonl", "model.json", "model.safetensors", "state.pt"]
    )
