"""What a disk or a stranger does to a checkpoint: it is always noticed, and the one before is used."""

import hashlib
import json
import pickle
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fcn_core import storage
from fcn_core.checkpoint import CARD, STATE, WEIGHTS, RunFolder
from fcn_core.storage import COMMIT, MANIFEST
from tests.test_checkpoint import Exploit, save

FILES = (WEIGHTS, STATE, CARD, MANIFEST, COMMIT)


def truncated(contents: bytes) -> bytes:
    return contents[: len(contents) // 2]


def flipped(contents: bytes) -> bytes:
    return contents[:30] + bytes([contents[30] ^ 4]) + contents[31:]


def emptied(_: bytes) -> bytes:
    return b""


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setenv("FCN_CACHE", str(tmp_path / "cache"))
    folder = RunFolder(str(tmp_path / "run") if request.param == "local" else f"memory://{tmp_path.name}/run")
    save(folder, 2, 4)
    return folder


def assert_passed_over(folder: RunFolder, reason: str) -> None:
    said: list[str] = []
    restored = folder.latest("run-0", said.append)
    assert restored is not None
    assert (restored.step, restored.state) == (2, {"step": 2})
    assert len(said) == 1
    assert said[0].startswith("passed over a checkpoint: ")
    assert reason in said[0]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [truncated, flipped, emptied])
def test_a_damaged_file_is_noticed(folder: RunFolder, name: str, damage: Callable[[bytes], bytes]) -> None:
    url = storage.join(folder.checkpoint(4), name)
    storage.write_bytes(url, damage(storage.read_bytes(url)))
    assert_passed_over(folder, "is damaged: ")


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_checkpoint_is_noticed(folder: RunFolder, name: str) -> None:
    storage.write_bytes(
        storage.join(folder.checkpoint(4), name), storage.read_bytes(storage.join(folder.checkpoint(2), name))
    )
    assert_passed_over(folder, "is damaged: ")


def reseal(url: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a manifest as a stranger would who may write to the storage: with a COMMIT that fits."""
    manifest = json.loads(storage.read_bytes(storage.join(url, MANIFEST)))
    change(manifest)
    contents = json.dumps(manifest).encode()
    storage.write_bytes(storage.join(url, MANIFEST), contents)
    storage.write_bytes(storage.join(url, COMMIT), hashlib.sha256(contents).hexdigest().encode())


@pytest.mark.parametrize("name", ["../../victim", "/tmp/victim", "a/b", "..", ".", ""])  # noqa: S108 -- never opened.
def test_a_manifest_that_names_files_elsewhere_is_not_followed(folder: RunFolder, name: str, tmp_path: Path) -> None:
    reseal(folder.checkpoint(4), lambda manifest: manifest["files"].update({name: manifest["files"][WEIGHTS]}))
    assert_passed_over(folder, f"names files outside the folder: {name}")
    assert not list(tmp_path.rglob("victim"))


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest.pop("files"),
        lambda manifest: manifest.update(files=[]),
        lambda manifest: manifest["files"].update({WEIGHTS: None}),
        lambda manifest: manifest["files"][WEIGHTS].update(size="large"),
    ],
)
def test_a_manifest_of_another_form_is_not_understood(
    folder: RunFolder, change: Callable[[dict[str, Any]], object]
) -> None:
    reseal(folder.checkpoint(4), change)
    assert_passed_over(folder, "manifest.json is not understood")


@pytest.mark.parametrize("file", [STATE, WEIGHTS])
def test_a_pickle_that_a_stranger_sealed_is_not_executed(folder: RunFolder, file: str, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    files = {path.name: path.read_bytes() for path in storage.fetch(folder.checkpoint(4)).iterdir()}
    with storage.publishing(folder.checkpoint(4)) as place:
        for name in (WEIGHTS, CARD, STATE):
            (place / name).write_bytes(files[name])
        torch.save(Exploit(victim), place / file)
    with pytest.raises(Exception, match=r"Weights only load failed|header") as refused:
        folder.latest("run-0", print)
    assert isinstance(refused.value, pickle.UnpicklingError) or type(refused.value).__name__ == "SafetensorError"
    assert not victim.exists()


FULL = """
    import resource, sys, torch
    from fcn_core.checkpoint import RunFolder
    from tests.test_checkpoint import card
    limit = int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    folder = RunFolder(sys.argv[1])
    weights = {"weight": torch.zeros(int(sys.argv[3]))}
    try:
        folder.save(card(4), weights, {"step": torch.zeros(int(sys.argv[4]))})
    except OSError as error:
        print(error)
        raise SystemExit(3)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("weights", "state"), [(10**6, 1), (1, 10**6)], ids=["weights", "state"])
def test_a_full_disk_publishes_nothing_and_says_so(tmp_path: Path, weights: int, state: int) -> None:
    folder = RunFolder(str(tmp_path / "run"))
    save(folder, 2)
    full = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FULL), folder.url, str(10**6), str(weights), str(state)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (full.returncode, full.stdout.count("\n")) == (3, 1), full.stderr
    assert full.stdout.startswith(f"cannot write {folder.checkpoints}/.partial-")
    assert "MiB are free there" in full.stdout
    assert storage.list_folder(folder.checkpoints) == ["00000002"]
    assert folder.latest("run-0", print) is not None


NO_SPACE = """
    import os, sys, tempfile, torch
    from pathlib import Path
    from fcn_core import storage
    from fcn_core.checkpoint import RunFolder
    from tests.test_checkpoint import card

    disk, case = Path(sys.argv[1]), sys.argv[2]
    small, large = {"weight": torch.zeros(10**3)}, {"weight": torch.zeros(10**7)}

    def refused(act, *arguments):
        try:
            act(*arguments)
        except OSError as error:
            return str(error)
        raise SystemExit("the disk was not full")

    def save(url):
        folder = RunFolder(url)
        folder.save(card(2), small, small)
        for weights, state in ((large, small), (small, large)):
            said = refused(folder.save, card(4), weights, state)
            assert said.startswith("cannot write ") and "MiB are free there" in said, said
        assert storage.list_folder(folder.checkpoints) == ["00000002"]
        assert folder.latest("run-0", print).step == 2

    def publish(url, size):
        with storage.publishing(url) as folder:
            (folder / "file").write_bytes(bytes(size))
        return url

    if case == "local":
        save(f"{disk}/run")
    elif case == "temporary":
        tempfile.tempdir = str(disk)
        os.environ["FCN_CACHE"] = sys.argv[3]
        save("memory://run")
        assert list(disk.iterdir()) == []
    else:
        os.environ["FCN_CACHE"] = str(disk)
        before = storage.fetch(publish("memory://before", 5 * 10**6))
        os.utime(before, (0, 0))
        assert (storage.fetch(publish("memory://after", 5 * 10**6)) / "file").stat().st_size == 5 * 10**6
        assert not before.exists(), "it made room"
        said = refused(storage.fetch, publish("memory://large", 10**7))
        assert "is on a full disk; make room there, or set FCN_CACHE" in said, said
"""
OWN_DISK = 'mount -t tmpfs -o size=8m tmpfs "$1" && exec "$0" -c "$2" "$1" "$3" "$4"'


@pytest.mark.slow
@pytest.mark.parametrize("case", ["local", "temporary", "cache"])
def test_a_disk_without_space(tmp_path: Path, case: str) -> None:
    own = [str(shutil.which("unshare")), "--map-root-user", "--mount"]
    if subprocess.run([*own, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no disk of one's own can be mounted here: unshare --map-root-user --mount")
    disk = tmp_path / "disk"
    disk.mkdir()
    script = [sys.executable, str(disk), textwrap.dedent(NO_SPACE), case, str(tmp_path / "cache")]
    done = subprocess.run([*own, "sh", "-c", OWN_DISK, *script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
