import errno
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
import torch

from fcn_core import storage
from fcn_core.checkpoint import CARD, STATE, WEIGHTS, Card, RunFolder
from fcn_core.registry.store import Registry
from jobs._storage import main
from tests.jobs.commands import Here, Refused, s3_server
from tests.registry.made import NAME, made_champion, make
from tests.test_checkpoint import CLASSES, MODEL, epochs

Check = Callable[..., tuple[int, str]]
"""Carries out the command, and returns exit code and output."""


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch, s3_server(patch, os.environ):
        yield "s3://lab"


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("FCN_CACHE", str(tmp_path / "cache"))
    if request.param == "s3":
        return f"{request.getfixturevalue('bucket')}/{tmp_path.name}"
    return str(tmp_path / "root")


@pytest.fixture
def command(here: Here, capsys: pytest.CaptureFixture[str]) -> Check:
    def carry_out(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        try:
            here(main, *arguments)
        except SystemExit as left:
            return int(str(left.code)), capsys.readouterr().out
        return 0, capsys.readouterr().out

    return carry_out


def made_run(root: str, *steps: int) -> RunFolder:
    folder = RunFolder(f"{root}/runs/run-0")
    folder.write_run({"run_id": "run-0"})
    for step in steps:
        card = Card(
            model=MODEL, classes=CLASSES, scale=1, bf16=False, run_id="run-0", step=step, epoch=step, mean_iou=None
        )
        folder.save(card, {"weight": torch.ones(step)}, {"step": step})
    folder.write_epochs(epochs(*((step, 0.5) for step in steps)))
    return folder


def test_a_whole_storage_is_whole(root: str, command: Check) -> None:
    made_run(root, 2, 4)
    for more in ([], ["--quick"], ["--older_than_h", "0"]):
        code, said = command("check", root, *more)
        assert code == 0
        assert said == f"2 sealed folders and 0 champion entries looked at in {root}; 0 broken\n"


def test_what_is_not_whole_is_listed_and_then_removed(root: str, command: Check) -> None:
    folder = made_run(root, 2, 4, 6, 8)
    storage.write_bytes(f"{folder.checkpoint(4)}/{WEIGHTS}", b"torn")
    storage.write_bytes(f"{folder.checkpoint(6)}/{storage.COMMIT}", b"0" * 64)
    storage.remove_folder(folder.checkpoint(8))
    storage.write_bytes(f"{folder.checkpoint(8)}/{WEIGHTS}", b"begun")
    storage.write_bytes(f"{folder.checkpoints}/.partial-publishing-abcd_123/{WEIGHTS}", b"begun")
    storage.write_bytes(f"{folder.url}/epochs.jsonl", b"{")
    before = sorted(storage.find_files(root))
    code, said = command("check", root, "--older_than_h", "0")
    assert code == 1
    for what in (
        f"{folder.checkpoints}/.partial-publishing-abcd_123: was never moved to its place; repair: removed",
        f"{folder.checkpoint(4)}: is damaged: model.safetensors has not the SHA-256 of manifest.json; repair: removed",
        f"{folder.checkpoint(6)}: is damaged: COMMIT does not fit manifest.json; repair: removed",
        f"{folder.checkpoint(8)}: was never completed: it lacks manifest.json; repair: removed",
        f"{folder.url}/epochs.jsonl: is not understood; repair: set aside as .damaged, the run writes it again",
    ):
        assert f"broken      {what}" in said
    assert said.endswith("; 5 broken\n")
    assert sorted(storage.find_files(root)) == before
    code, said = command("repair", root, "--older_than_h", "0")
    assert (code, said.count("repaired  ")) == (0, 5)
    assert storage.list_folder(folder.checkpoints) == ["00000002"]
    assert command("check", root)[0] == 0
    assert folder.read_epochs() == []


def test_what_is_not_ours_is_left_alone(root: str, command: Check) -> None:
    """Though it looks like it."""
    made_run(root, 2)
    for path in (
        "COMMIT",
        "data/camvid/manifest.json",
        "data/camvid/train/0.png",
        "data/checkpoints/00000100/weights",
        "data/runs/theirs/checkpoints/00000100/weights",
        "data/runs/theirs/epochs.jsonl",
        "data/epochs.jsonl",
        "comparisons/theirs/table.txt",
        "models/theirs/1/weights",
        "receptive_fields/parts/1.npz",
        "data/.partial-export/part-0",
        "data/champions/00000001.json",
        "models/theirs/champions/00000001.json",
    ):
        storage.write_bytes(f"{root}/{path}", b"theirs")
    before = sorted(storage.find_files(root))
    code, said = command("repair", root, "--older_than_h", "0")
    assert (code, said) == (0, f"1 sealed folders and 0 champion entries looked at in {root}; 0 broken\n")
    assert sorted(storage.find_files(root)) == before


def test_what_a_live_run_may_be_writing_is_left_alone(root: str, command: Check) -> None:
    folder = made_run(root, 2, 4)
    storage.write_bytes(f"{folder.checkpoint(6)}/{WEIGHTS}", b"begun")
    storage.write_bytes(f"{folder.checkpoints}/.partial-publishing-abcd_123/{WEIGHTS}", b"begun")
    for action in ("check", "repair"):
        code, said = command(action, root)
        assert (code, said.count("young enough to be written still")) == (0, 2)
    # With a COMMIT nobody is writing any more: it is broken, but who knows why may still look.
    storage.write_bytes(f"{folder.checkpoint(4)}/{WEIGHTS}", b"torn")
    code, said = command("repair", root)
    assert (code, "left alone until it is 24 h old" in said) == (1, True)
    assert storage.list_folder(folder.checkpoints) == [
        ".partial-publishing-abcd_123",
        "00000002",
        "00000004",
        "00000006",
    ]


def test_the_age_is_that_of_the_newest_file(tmp_path: Path, command: Check) -> None:
    folder = made_run(str(tmp_path), 2)
    storage.write_bytes(f"{folder.checkpoints}/.partial-publishing-abcd_123/{WEIGHTS}", b"begun")
    storage.write_bytes(f"{folder.checkpoints}/.partial-publishing-abcd_123/{STATE}", b"begun")
    old = time.time() - 3 * 86400
    partial = Path(folder.checkpoints) / ".partial-publishing-abcd_123"
    for path in (partial, partial / WEIGHTS):
        os.utime(path, (old, old))
    assert "young" in command("repair", str(tmp_path))[1]
    os.utime(partial / STATE, (old, old))
    assert "repaired" in command("repair", str(tmp_path))[1]
    assert not partial.exists()


def test_a_checkpoint_that_is_whole_is_never_removed(root: str, command: Check) -> None:
    folder = made_run(root, 2)
    RunFolder(f"{root}/runs/run-1").write_run({"run_id": "run-1"})
    for path, contents in [(f"{root}/runs/run-1/checkpoints/00000002", "run-0"), (folder.checkpoint(4), "run-0")]:
        with storage.publishing(path) as place:
            source = json.loads(storage.read_bytes(f"{folder.checkpoint(2)}/{CARD}"))
            (place / CARD).write_text(json.dumps(source | {"run_id": contents}))
    before = sorted(storage.find_files(root))
    code, said = command("repair", root, "--older_than_h", "0")
    assert (code, said.count("is whole, but step 2 of run-0; move it where it belongs")) == (1, 2)
    assert sorted(storage.find_files(root)) == before


def test_sizes_alone_are_compared_where_time_is_short(root: str, command: Check) -> None:
    folder = made_run(root, 2)
    url = f"{folder.checkpoint(2)}/{WEIGHTS}"
    contents = bytearray(storage.read_bytes(url))
    contents[-1] ^= 1
    storage.write_bytes(url, bytes(contents))
    assert command("check", root, "--quick")[0] == 0
    assert command("check", root)[0] == 1
    storage.write_bytes(url, bytes(contents[:-1]))
    assert f"{WEIGHTS} has {len(contents) - 1} bytes, not {len(contents)}" in command("check", root, "--quick")[1]


def test_uploads_that_never_ended_are_aborted(bucket: str, tmp_path: Path, command: Check) -> None:
    root, s3 = f"{bucket}/{tmp_path.name}", boto3.client("s3")
    made_run(root, 2)
    keys = [f"{tmp_path.name}/runs/run-0/checkpoints/00000004/{WEIGHTS}", "elsewhere/file"]
    for key in keys:
        upload = s3.create_multipart_upload(Bucket="lab", Key=key)
        s3.upload_part(Bucket="lab", Key=key, UploadId=upload["UploadId"], PartNumber=1, Body=b"part")
    # moto says of every upload that it was begun in 2010.
    code, said = command("check", root)
    assert (code, f"{bucket}/{keys[0]}: an upload that never ended; repair: aborted" in said) == (1, True)
    assert command("repair", root)[0] == 0
    assert [one["Key"] for one in s3.list_multipart_uploads(Bucket="lab")["Uploads"]] == [keys[1]]
    assert command("check", root, "--older_than_h", "0")[0] == 0


def test_a_folder_that_cannot_be_listed_is_not_taken_for_empty(
    tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, plain = made_run(str(tmp_path), 2), os.scandir

    def scandir(path: str) -> object:
        if path == folder.checkpoints:
            raise OSError(errno.EIO, "Input/output error", path)
        return plain(path)

    monkeypatch.setattr("fsspec.implementations.local.os.scandir", scandir)
    assert f"Input/output error: '{folder.checkpoints}'" in refused(main, "check", str(tmp_path))
    with pytest.raises(OSError, match="Input/output error"):
        storage.find_files(str(tmp_path))


def test_what_may_not_be_looked_at_is_said_and_the_rest_is_checked(
    tmp_path: Path, command: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made_run(str(tmp_path), 2, 4)
    storage.write_bytes(f"{folder.checkpoint(2)}/{WEIGHTS}", b"torn")
    plain = storage.verify

    def refuse(url: str) -> dict[str, dict[str, object]]:
        if url == folder.checkpoint(4):
            raise storage.RefusedError(f"{url} refuses cat_file")
        return plain(url)

    def uploads(url: str) -> None:
        raise storage.RefusedError(f"{url} refuses call_s3")

    monkeypatch.setattr(storage, "verify", refuse)
    monkeypatch.setattr("jobs._storage_check.uploads", uploads)
    code, said = command("check", str(tmp_path), "--older_than_h", "0")
    assert code == 1
    assert f"broken      {folder.checkpoint(2)}: is damaged" in said
    for refusal in (f"{tmp_path} refuses call_s3", f"{folder.checkpoint(4)} refuses cat_file"):
        assert f"unknown     {refusal}\n" in said
    assert said.endswith("; 1 broken\n")


def test_a_broken_champion_is_found_and_its_entry_set_aside(
    root: str, command: Check, tmp_path_factory: pytest.TempPathFactory
) -> None:
    registry = Registry(f"{root}/models")
    made = make(tmp_path_factory.mktemp("run"), 1)
    for _ in range(2):
        made_champion(registry, made.candidate())
    assert command("check", root)[0] == 0
    entry = f"{root}/models/{NAME}/champions/00000002.json"
    storage.write_bytes(entry, b"{}")
    code, said = command("repair", root, "--older_than_h", "0")
    assert (code, f"repaired    {entry}: is damaged" in said) == (0, True)
    champion = registry.champion(NAME)
    assert champion is not None
    assert champion.version == 1
    assert storage.read_bytes(f"{entry}.damaged") == b"{}"
    storage.write_bytes(f"{registry.place(NAME, 1)}/{CARD}", b"{}")
    code, said = command("repair", root, "--older_than_h", "0")
    assert code == 1
    assert "promote its run again, or go back: python jobs/models.py rollback NAME" in said
    assert "version 1, the champion, is not what it was when it became so; python jobs/models.py rollback" in said
    assert storage.exists(f"{registry.place(NAME, 1)}/{WEIGHTS}")


def test_a_version_that_was_never_completed_is_removed(root: str, command: Check) -> None:
    storage.write_bytes(f"{root}/models/{NAME}/claims/00000001.json", b"{}")
    storage.write_bytes(f"{root}/models/{NAME}/1/{WEIGHTS}", b"begun")
    assert "young" in command("repair", root)[1]
    assert command("repair", root, "--older_than_h", "0")[0] == 0
    assert sorted(storage.find_files(root)) == [f"models/{NAME}/claims/00000001.json"]


def test_an_evaluation_of_a_version_is_looked_at(root: str, command: Check) -> None:
    storage.write_bytes(f"{root}/models/{NAME}/claims/00000001.json", b"{}")
    with storage.publishing(f"{root}/models/{NAME}/1/evaluations/val") as folder:
        (folder / "scores.json").write_text("{}")
    assert command("check", root)[0] == 0
    storage.write_bytes(f"{root}/models/{NAME}/1/evaluations/val/scores.json", b"torn")
    assert command("check", root)[0] == 1


def test_a_run_or_a_registry_can_be_looked_at_alone(root: str, command: Check) -> None:
    folder = made_run(root, 2)
    storage.write_bytes(f"{folder.checkpoint(2)}/{WEIGHTS}", b"torn")
    assert command("check", folder.url)[0] == 1
    assert command("check", folder.checkpoint(2))[0] == 1


def test_mistakes_get_one_line(root: str, refused: Refused) -> None:
    assert f"there is nothing at {root}: give the folder or URL" in refused(main, "check", root)
    assert "action" in refused(main, "look", root)
    assert "older_than_h" in refused(main, "check", root, "--older_than_h", "-1")


def test_a_bucket_that_is_not_there_gets_one_line(bucket: str, refused: Refused) -> None:
    assert bucket
    assert "cannot use s3://none/lab: " in refused(main, "check", "s3://none/lab")
